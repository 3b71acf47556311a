// SPDX-License-Identifier: Apache-2.0
// The speed of every kernel: see bench/gpu/run.sh.
#include <string.h>

#include "bench/gpu/measure.cuh"
#include "cuda/weightd_cuda.h"
#include "service/formats/types.h"

#define SETS 8

struct type {
  const char *name;
  int id;
  uint64_t elements, bytes;
};
static const type types[] = {
#define TYPE(name, id, elements, bytes) {#name, id, elements, bytes},
    WD_TYPES(TYPE)
#undef TYPE
};

int main(int argc, char **argv) {
  const uint64_t sizes[] = {(uint64_t)4096 * 14336, (uint64_t)1 << 30};
  uint8_t *in, *out;
  const char *only = argc > 1 ? argv[1] : NULL;
  const int outputs = argc > 2 ? atoi(argv[2]) : 3;
  cudaStream_t s;
  CHECK(cudaStreamCreate(&s));
  const uint64_t in_room = (uint64_t)20 << 30, out_room = (uint64_t)20 << 30;
  CHECK(cudaMalloc(&in, in_room));
  CHECK(cudaMalloc(&out, out_room));
  fill_random<<<132 * 16, 256, 0, s>>>((uint64_t *)in, in_room / 8, 42);
  CHECK(cudaStreamSynchronize(s));
  for (uint64_t n : sizes) {
    for (int o = 0; o < outputs; o++) {
      printf("%lu elements, output %d\n%-8s %8s %8s %8s %8s %8s %8s  %s\n", n, o, "type", "GB/s", "copy", "wall",
             "/copy", "/wall", "best GB/s", "walls");
      for (const type &t : types) {
        if (only && strcmp(only, "all") && !strstr(only, t.name)) {
          continue;
        }
        const uint64_t in_bytes = n / t.elements * t.bytes, out_bytes = n * (o == WD_DEQUANT_F32 ? 4 : 2);
        const uint64_t in_step = (in_bytes + 511) / 512 * 512, out_step = (out_bytes + 511) / 512 * 512;
        const int sets = (int)std::max<uint64_t>(1, std::min<uint64_t>({SETS, in_room / in_step, out_room / out_step}));
        const int runs = n > 100000000 ? 15 : 61;
        const double bytes = (double)(in_bytes + out_bytes);
        std::vector<double> k = time_each(runs, s, [&](int i) {
          CHECK(wd_dequant_launch(t.id, o, out + i % sets * out_step, in + i % sets * in_step, (int64_t)n, 1.0f, s));
        });
        const uint64_t half = (uint64_t)(bytes / 2), copy_step = std::max(in_step, half / 512 * 512 + 512);
        const int copy_sets =
            (int)std::max<uint64_t>(1, std::min<uint64_t>({SETS, in_room / copy_step, out_room / copy_step}));
        const double c = median(time_each(runs, s, [&](int i) {
          CHECK(cudaMemcpyAsync(out + i % copy_sets * copy_step, in + i % copy_sets * copy_step, half,
                                cudaMemcpyDeviceToDevice, s));
        }));
        double w[WALLS], best = 1e9;
        for (int shape = 0; shape < WALLS; shape++) {
          w[shape] = median(time_each(runs, s, [&](int i) {
            wall(shape, out + i % sets * out_step, in + i % sets * in_step, 4096 / t.elements * t.bytes,
                 o == WD_DEQUANT_F32 ? 16384 : 8192, n, s);
          }));
          best = std::min(best, w[shape]);
        }
        const double m = median(k);
        printf("%-8s %8.0f %8.0f %8.0f %8.3f %8.3f %8.0f  ", t.name, bytes / m / 1e9, bytes / c / 1e9,
               bytes / best / 1e9, c / m, best / m, bytes / *std::min_element(k.begin(), k.end()) / 1e9);
        for (double x : w) {
          printf(" %.0f", bytes / x / 1e9);
        }
        printf("%s\n", best / m >= 0.99 || c / m >= 0.96 ? "" : "  <<");
      }
    }
  }
  return 0;
}
