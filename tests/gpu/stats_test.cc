// SPDX-License-Identifier: Apache-2.0
// Statistics on the GPU against wd_stats_add of the values that formats/decode8.h gives: every type, kinds of data,
// sizes from one block, alignments, factors, more than 2^31 elements. Exit status 77 where there is no GPU.
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <thread>
#include <vector>

#include "cuda/stats.h"
#include "tests/gpu/stats_blocks.h"
#include "tests/gpu/stats_compare.h"

namespace {

int bad;
bool quick;
uint8_t *device_blocks;
float *device_factors;
struct wd_gpu_stats *device_stats;
cudaStream_t stream;

void check(cudaError_t error, const char *what) {
  if (error != cudaSuccess) {
    printf("%s: %s\n", what, cudaGetErrorString(error));
    exit(1);
  }
}

void decode8(enum wd_type type, const uint8_t *b, uint32_t g, float *y) {
  switch (type) {
#define DECODE(name, id, elements, bytes) \
  case WD_##name:                         \
    wd_decode8_##name(b, g, y);           \
    break;
    WD_TYPES(DECODE)
#undef DECODE
    default:
      break;
  }
}

struct companion {
  const float *factors;
  uint64_t blocks, phase;
};

// By the CPU, on all its cores.
void expect(enum wd_type type, const uint8_t *blocks, uint64_t n, struct companion companion, struct wd_stats *stats) {
  const struct wd_type_info *info = &wd_types[type];
  unsigned n_threads = std::thread::hardware_concurrency();
  n_threads = n_threads ? n_threads : 1;
  std::vector<struct wd_stats> parts(n_threads);
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < n_threads; i++) {
    threads.emplace_back([=, &parts] {
      wd_stats_clear(&parts[i]);
      for (uint64_t b = n * i / n_threads; b < n * (i + 1) / n_threads; b++) {
        float values[WD_MAX_BLOCK_ELEMENTS + 8];
        float factor = companion.factors ? companion.factors[(companion.phase + b) / companion.blocks] : 1;
        for (uint32_t g = 0; g < (info->block_elements + 7) / 8; g++) {
          decode8(type, blocks + b * info->block_bytes, g, values + 8 * g);
        }
        for (uint32_t e = 0; e < info->block_elements; e++) {
          values[e] = wd_mul(values[e], factor);
        }
        wd_stats_add(&parts[i], values, info->block_elements);
      }
    });
  }
  wd_stats_clear(stats);
  for (unsigned i = 0; i < n_threads; i++) {
    threads[i].join();
    wd_stats_merge(stats, &parts[i]);
  }
}

// n blocks at device_blocks + offset, in `launches` launches; twice, for the same result.
void run(const char *what, enum wd_type type, uint64_t offset, uint64_t n, struct companion companion, int launches,
         const struct wd_stats *want) {
  const struct wd_type_info *info = &wd_types[type];
  struct wd_gpu_stats got[2];
  for (int again = 0; again < 2; again++) {
    check(cudaMemsetAsync(device_stats, 0, sizeof *device_stats, stream), "memset");
    for (int i = 0; i < launches; i++) {
      uint64_t begin = n * (uint64_t)i / (uint64_t)launches, end = n * (uint64_t)(i + 1) / (uint64_t)launches;
      check(wd_gpu_stats_launch(info->id, device_blocks + offset + begin * info->block_bytes, (int64_t)(end - begin),
                                companion.factors ? device_factors : NULL, (int64_t)companion.blocks,
                                (int64_t)(companion.phase + begin), device_stats, stream),
            what);
    }
    check(cudaMemcpyAsync(&got[again], device_stats, sizeof *device_stats, cudaMemcpyDeviceToHost, stream), what);
    check(cudaStreamSynchronize(stream), what);
  }
  static struct wd_stats stats[2];
  for (int again = 0; again < 2; again++) {
    wd_stats_clear(&stats[again]);
    wd_gpu_stats_collect(&got[again], &stats[again]);
    bad += !stats_equal(what, &stats[again], want);
  }
}

void test_type(enum wd_type type, uint64_t most_elements) {
  const struct wd_type_info *info = &wd_types[type];
  const uint64_t per_block = info->block_elements;
  const uint64_t most = most_elements / per_block + 1;
  std::vector<uint8_t> blocks(most * info->block_bytes);
  std::vector<float> factors(info->scalable ? most / 7 + 2 : 1);
  struct wd_stats want;
  for (int fill = quick ? STATS_MIXED : 0; fill < (quick ? STATS_MIXED + 1 : STATS_FILLS); fill++) {
    {
      std::vector<std::thread> threads;
      for (uint64_t i = 0; i < 16; i++) {
        threads.emplace_back([&, i] {
          for (uint64_t b = most * i / 16; b < most * (i + 1) / 16; b++) {
            stats_fill_block((enum stats_fill)fill, type, b, blocks.data() + b * info->block_bytes);
          }
        });
      }
      for (auto &thread : threads) {
        thread.join();
      }
    }
    for (uint64_t i = 0; i < factors.size(); i++) {
      factors[i] = stats_factor((enum stats_fill)fill, i);
    }
    check(cudaMemcpy(device_factors, factors.data(), factors.size() * sizeof(float), cudaMemcpyHostToDevice), "copy");
    struct test {
      uint64_t blocks, offset;
      int launches, companion;
    };
    std::vector<struct test> tests = {{1, 0, 1, 0},    {2, 0, 1, 0},    {3, 6, 1, 0},       {1023, 2, 1, 0},
                                      {4097, 4, 3, 0}, {most, 0, 1, 0}, {most - 1, 8, 2, 0}};
    for (uint64_t offset = 1; offset < (quick ? 2 : 16); offset += 2) {
      tests.push_back({777 + offset, offset, 1, 0});
    }
    if (info->scalable) {
      tests.push_back({1, 0, 1, 1});
      tests.push_back({5000, 3, 2, 2});
      tests.push_back({most, 0, 1, 3});
    }
    for (const struct test &test : tests) {
      if (test.blocks > most) {
        continue;
      }
      char what[96];
      snprintf(what, sizeof what, "%s fill %d, %llu blocks at %llu, companion %d", info->name, fill,
               (unsigned long long)test.blocks, (unsigned long long)test.offset, test.companion);
      struct companion companion = {NULL, 1, 0};
      if (test.companion) {
        companion = {factors.data(),
                     test.companion == 1   ? 100u
                     : test.companion == 2 ? 7u
                                           : 112u,
                     test.companion == 2 ? 3u : 0u};
      }
      check(cudaMemset(device_blocks, 0xcd, test.offset + test.blocks * info->block_bytes + 64), "memset");
      check(cudaMemcpy(device_blocks + test.offset, blocks.data(), test.blocks * info->block_bytes,
                       cudaMemcpyHostToDevice),
            "copy");
      expect(type, blocks.data(), test.blocks, companion, &want);
      run(what, type, test.offset, test.blocks, companion, test.launches, &want);
    }
  }
}

// The same blocks again and again, to more than 2^31 elements.
void test_large(enum wd_type type) {
  const struct wd_type_info *info = &wd_types[type];
  const uint64_t n = 262144 / info->block_elements;
  std::vector<uint8_t> blocks(n * info->block_bytes);
  for (uint64_t i = 0; i < n; i++) {
    stats_fill_block(STATS_MIXED, type, i, blocks.data() + i * info->block_bytes);
  }
  struct companion none = {NULL, 1, 0};
  struct wd_stats want, first;
  expect(type, blocks.data(), n, none, &want);
  expect(type, blocks.data(), 1, none, &first);
  check(cudaMemcpy(device_blocks, blocks.data(), blocks.size(), cudaMemcpyHostToDevice), "copy");
  uint64_t elements = 262144;
  for (uint64_t size = blocks.size(); elements <= (uint64_t)1 << 31; elements *= 2, size *= 2) {
    check(cudaMemcpy(device_blocks + size, device_blocks, size, cudaMemcpyDeviceToDevice), "copy");
    static struct wd_stats twice;
    twice = want;
    wd_stats_merge(&want, &twice);
  }
  check(cudaMemcpy(device_blocks + elements / info->block_elements * info->block_bytes, blocks.data(),
                   info->block_bytes, cudaMemcpyHostToDevice),
        "copy");
  wd_stats_merge(&want, &first);
  char what[64];
  snprintf(what, sizeof what, "%s, %llu elements", info->name, (unsigned long long)elements + info->block_elements);
  run(what, type, 0, elements / info->block_elements + 1, none, 1, &want);
}

void test_arguments(void) {
  bad += wd_gpu_stats_launch(0, device_blocks, -1, NULL, 1, 0, device_stats, stream) != cudaErrorInvalidValue;
  bad += wd_gpu_stats_launch(4, device_blocks, 1, NULL, 1, 0, device_stats, stream) != cudaErrorInvalidValue;
  bad += wd_gpu_stats_launch(40, device_blocks, 1, device_factors, 0, 0, device_stats, stream) != cudaErrorInvalidValue;
  struct wd_stats want;
  wd_stats_clear(&want);
  struct companion none = {NULL, 1, 0};
  run("no blocks", WD_Q4_K, 0, 0, none, 1, &want);
}

}  // namespace

// stats_test [elements of the largest size of each type [type]]
// stats_test --quick   few and small, every type: for the sanitizers
int main(int argc, char **argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    printf("skipped: gpu statistics (no GPU)\n");
    return 77;
  }
  quick = argc > 1 && strcmp(argv[1], "--quick") == 0;
  uint64_t most = quick ? 20001 : argc > 1 ? strtoull(argv[1], NULL, 10) : 10000001;
  const char *only = argc > 2 ? argv[2] : NULL;
  bool large = most >= 1000000 && !only;
  check(cudaStreamCreate(&stream), "stream");
  check(cudaMalloc((void **)&device_blocks, large ? (size_t)5 << 30 : most * 8 + (1 << 20)), "malloc");
  check(cudaMalloc((void **)&device_factors, (most / 64 + 64) * sizeof(float)), "malloc");
  check(cudaMalloc((void **)&device_stats, sizeof *device_stats), "malloc");
  for (int type = 0; type < WD_TYPE_COUNT; type++) {
    int before = bad;
    if (only && strcmp(only, wd_types[type].name) != 0) {
      continue;
    }
    test_type((enum wd_type)type, most);
    printf("%-8s %s\n", wd_types[type].name, bad == before ? "ok" : "FAILED");
    fflush(stdout);
  }
  if (large) {
    test_large(WD_Q1_0);
    test_large(WD_Q4_K);
    test_large(WD_I8);
  }
  test_arguments();
  printf("gpu statistics: %s\n", bad ? "FAILED" : "all equal");
  return bad != 0;
}
