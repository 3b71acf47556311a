// SPDX-License-Identifier: Apache-2.0
// Speed of the statistics on the GPU, for every type, beside the host-to-device rate of the same run.
//
//   stats [TYPE…]            a table: GB/s of stored bytes, median of many launches over data larger than the cache
//   stats --once [TYPE…]     one launch of each at 2^28 elements, for a profiler
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "cuda/stats.h"
#include "tests/gpu/stats_blocks.h"
#include "tests/gpu/stats_compare.h"

namespace {

void check(cudaError_t error, const char *what) {
  if (error != cudaSuccess) {
    printf("%s: %s\n", what, cudaGetErrorString(error));
    exit(1);
  }
}

cudaEvent_t begin, end;

template <class F>
double median_seconds(int repeats, F launch) {
  std::vector<float> times;
  for (int i = 0; i < repeats + 2; i++) {
    check(cudaEventRecord(begin), "event");
    launch(i);
    check(cudaEventRecord(end), "event");
    check(cudaEventSynchronize(end), "event");
    float ms;
    check(cudaEventElapsedTime(&ms, begin, end), "event");
    if (i >= 2) {
      times.push_back(ms);
    }
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2] * 1e-3;
}

bool wanted(int argc, char **argv, const char *name) {
  bool any = false;
  for (int i = 1; i < argc; i++) {
    if (argv[i][0] != '-') {
      any = true;
      if (strcasecmp(argv[i], name) == 0) {
        return true;
      }
    }
  }
  return !any;
}

}  // namespace

int main(int argc, char **argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    printf("skipped: gpu statistics (no GPU)\n");
    return 77;
  }
  bool once = argc > 1 && strcmp(argv[1], "--once") == 0;
  struct cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "device");
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");

  const uint64_t cap = once ? (uint64_t)1 << 30 : (uint64_t)2 << 30, pattern = (uint64_t)16 << 20;
  uint8_t *blocks;
  struct wd_gpu_stats *stats;
  float *factors;
  check(cudaMalloc((void **)&blocks, cap + pattern + 4096), "malloc");
  check(cudaMalloc((void **)&stats, sizeof *stats), "malloc");
  check(cudaMalloc((void **)&factors, 4 << 20), "malloc");
  double h2d = 1;
  uint8_t *host;
  check(cudaMallocHost((void **)&host, (size_t)256 << 20), "malloc");
  if (!once) {
    memset(host, 1, (size_t)256 << 20);
    h2d = (double)((size_t)256 << 20) / median_seconds(9, [&](int) {
            check(cudaMemcpyAsync(blocks, host, (size_t)256 << 20, cudaMemcpyHostToDevice), "copy");
          });
    double d2d =
        2.0 * (double)((size_t)1 << 30) / median_seconds(9, [&](int) {
          check(cudaMemcpyAsync(blocks, blocks + ((size_t)1 << 30), (size_t)1 << 30, cudaMemcpyDeviceToDevice), "copy");
        });
    printf("%s, %d multiprocessors; host to device %.1f GB/s, device to device %.0f GB/s read and written\n",
           properties.name, properties.multiProcessorCount, h2d * 1e-9, d2d * 1e-9);
    printf("%-8s | %9s %9s %6s | %9s %6s\n", "", "2^30 el.", "", "", "58.7M el.", "");
    printf("%-8s | %9s %9s %6s | %9s %6s\n", "type", "GB/s", "Gel/s", "x h2d", "GB/s", "x h2d");
  }
  {
    std::vector<float> f(1 << 20);
    for (uint64_t i = 0; i < f.size(); i++) {
      f[i] = stats_factor(STATS_WEIGHTS, i);
    }
    check(cudaMemcpy(factors, f.data(), f.size() * sizeof(float), cudaMemcpyHostToDevice), "copy");
  }

  for (int type = 0; type < WD_TYPE_COUNT; type++) {
    const struct wd_type_info *info = &wd_types[type];
    if (!wanted(argc, argv, info->name)) {
      continue;
    }
    // Different blocks for 16 MiB, then the same again.
    uint64_t n = pattern / info->block_bytes;
    {
      std::vector<std::thread> threads;
      for (uint64_t i = 0; i < 16; i++) {
        threads.emplace_back([&, i] {
          for (uint64_t b = n * i / 16; b < n * (i + 1) / 16; b++) {
            stats_fill_block(STATS_WEIGHTS, (enum wd_type)type, b, host + b * info->block_bytes);
          }
        });
      }
      for (auto &thread : threads) {
        thread.join();
      }
    }
    uint64_t size = n * info->block_bytes;
    check(cudaMemcpy(blocks, host, size, cudaMemcpyHostToDevice), "copy");
    for (uint64_t at = size; at + size <= cap; at += size) {
      check(cudaMemcpyAsync(blocks + at, blocks, size, cudaMemcpyDeviceToDevice), "copy");
    }
    uint64_t room = cap / size * n;
    // From nothing each time, so that extremes have to be found again.
    auto launch = [&](uint64_t first, uint64_t count) {
      check(cudaMemsetAsync(stats, 0, sizeof *stats, 0), "memset");
      check(wd_gpu_stats_launch(info->id, blocks + first * info->block_bytes, (int64_t)count,
                                info->scalable ? factors : NULL, 4096, 0, stats, 0),
            info->name);
    };
    check(cudaMemset(stats, 0, sizeof *stats), "memset");
    if (once) {
      launch(0, std::min(room, ((uint64_t)1 << 28) / info->block_elements));
      check(cudaDeviceSynchronize(), info->name);
      continue;
    }
    uint64_t count = std::min(room, ((uint64_t)1 << 30) / info->block_elements);
    double large = (double)count / median_seconds(11, [&](int) { launch(0, count); });
    // The smaller size from place to place, so that it does not come from the cache.
    uint64_t some = (uint64_t)4096 * 14336 / info->block_elements;
    uint64_t places = std::max<uint64_t>(room / some, 1);
    double small = (double)some / median_seconds(25, [&](int i) { launch(some * ((uint64_t)i % places), some); });
    printf("%-8s | %9.1f %9.1f %6.1f | %9.1f %6.1f\n", info->name, large * info->block_bytes * 1e-9,
           large * info->block_elements * 1e-9, large * info->block_bytes / h2d, small * info->block_bytes * 1e-9,
           small * info->block_bytes / h2d);
    fflush(stdout);
  }
  return 0;
}
