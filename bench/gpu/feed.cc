// SPDX-License-Identifier: Apache-2.0
// How fast a warm file gets to a GPU at best: what statistics of a served model can use at most.
//
//   feed FILE [SECONDS]
//
// Threads read the file into pinned memory, two tiles each, and copy them to the device, as the backend does, but
// decode nothing. Three rates in GB/s for each number of threads and size of tile: reading alone, copying alone, both.
#include <cuda_runtime_api.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

void check(cudaError_t error) {
  if (error != cudaSuccess) {
    fprintf(stderr, "feed: %s\n", cudaGetErrorString(error));
    exit(1);
  }
}

struct Run {
  int file;
  size_t size, tile;
  bool read, copy;
  double seconds;
};

// Bytes a second of so many threads.
double go(const Run &run, int n) {
  std::atomic<size_t> turn{0}, moved{0};
  pthread_barrier_t start, stop;
  pthread_barrier_init(&start, nullptr, (unsigned)n + 1);
  pthread_barrier_init(&stop, nullptr, (unsigned)n + 1);
  std::atomic<bool> over{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < n; i++) {
    threads.emplace_back([&] {
      cudaStream_t stream;
      void *host[2], *device[2];
      cudaEvent_t done[2];
      check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
      for (int k = 0; k < 2; k++) {
        check(cudaHostAlloc(&host[k], run.tile, cudaHostAllocPortable));
        memset(host[k], 1, run.tile);
        check(cudaMalloc(&device[k], run.tile));
        check(cudaEventCreateWithFlags(&done[k], cudaEventBlockingSync | cudaEventDisableTiming));
      }
      pthread_barrier_wait(&start);
      for (int k = 0; !over; k ^= 1) {
        const size_t tiles = run.size / run.tile;
        check(cudaEventSynchronize(done[k]));
        if (run.read && pread(run.file, host[k], run.tile, (off_t)(turn++ % tiles * run.tile)) != (ssize_t)run.tile) {
          fprintf(stderr, "feed: the file cannot be read: %s\n", strerror(errno));
          exit(1);
        }
        if (run.copy) {
          check(cudaMemcpyAsync(device[k], host[k], run.tile, cudaMemcpyHostToDevice, stream));
          check(cudaEventRecord(done[k], stream));
        }
        moved += run.tile;
      }
      check(cudaStreamSynchronize(stream));
      pthread_barrier_wait(&stop);
      for (int k = 0; k < 2; k++) {
        cudaFreeHost(host[k]);
        cudaFree(device[k]);
        cudaEventDestroy(done[k]);
      }
      cudaStreamDestroy(stream);
    });
  }
  pthread_barrier_wait(&start);
  auto begin = Clock::now();
  std::this_thread::sleep_for(std::chrono::duration<double>(run.seconds));
  over = true;
  pthread_barrier_wait(&stop);
  double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  for (std::thread &thread : threads) {
    thread.join();
  }
  pthread_barrier_destroy(&start);
  pthread_barrier_destroy(&stop);
  return (double)moved / seconds;
}

}  // namespace

int main(int argc, char **argv) {
  int devices = 0;
  if (argc < 2 || argv[1][0] == '-') {
    fprintf(
        stderr,
        "usage: feed FILE [SECONDS]    how fast a warm file gets to the GPU: FILE of some GB, SECONDS a rate (0.4)\n");
    return 2;
  }
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    printf("skipped: no GPU here\n");
    return 0;
  }
  Run run = {open(argv[1], O_RDONLY | O_CLOEXEC), 0, 0, true, false, argc > 2 ? atof(argv[2]) : 0.4};
  struct stat about;
  if (run.file < 0 || fstat(run.file, &about) != 0 || about.st_size < (64 << 20)) {
    fprintf(stderr, "feed: %s: %s\n", argv[1], run.file < 0 ? strerror(errno) : "give a file of 64 MiB or more");
    return 1;
  }
  run.size = (size_t)about.st_size;
  run.tile = (size_t)4 << 20;
  go(run, (int)std::max(1u, std::thread::hardware_concurrency()));  // into the page cache, as much as the time allows
  printf("threads  tile KiB  reading  copying  both, GB/s\n");
  const int cores = (int)std::max(4u, std::thread::hardware_concurrency());
  for (int n : {cores / 2, cores / 4 * 3, cores}) {
    for (size_t tile : {1, 2, 4}) {
      run.tile = tile << 20;
      double rate[3];
      for (int what = 0; what < 3; what++) {
        run.read = what != 1;
        run.copy = what != 0;
        rate[what] = go(run, n) * 1e-9;
      }
      printf("%7d  %8zu  %7.1f  %7.1f  %4.1f\n", n, tile << 10, rate[0], rate[1], rate[2]);
      fflush(stdout);
    }
  }
  return 0;
}
