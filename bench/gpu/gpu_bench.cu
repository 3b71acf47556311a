// SPDX-License-Identifier: Apache-2.0
// The speed of every kernel, beside a copy, the wall (measure.cuh) and one thread of the CPU's decoders; and what small
// tensors cost. See bench/gpu/run.sh.
//
//   gpu_bench [--json] [--smoke] [--only TYPE]…
//
// Bytes are counted as the blocks read plus the elements written, 1 GB = 10^9 bytes. Every buffer is random, a run's
// bytes are more than the L2 cache holds, and successive runs use other buffers.
#include <string.h>
#include <time.h>

#include <string>

#include "bench/gpu/measure.cuh"
#include "cuda/weightd_cuda.h"
extern "C" {
#include "service/formats/decode.h"
}

#define MOST_SETS 8
#define OUTPUTS 3

static const char *const output_names[OUTPUTS] = {"F16", "BF16", "F32"};

struct bench {
  cudaStream_t stream;
  uint8_t *in, *out;
  uint64_t in_room, out_room;
  bool bulk;  // the device has bulk copies
  bool smoke;
};

struct speed {
  double kernel, copy, plain, wall;  // GB/s; plain: the best wall that reads into registers, wall: the best of all
};

static uint64_t up(uint64_t n) {
  return (n + 511) / 512 * 512;
}

static speed measure(const bench *b, const wd_type_info *t, int output, uint64_t n) {
  const uint64_t in_bytes = n / t->block_elements * t->block_bytes, size = output == WD_DEQUANT_F32 ? 4 : 2;
  const uint64_t in_step = up(in_bytes), out_step = up(n * size);
  const int sets = (int)std::min<uint64_t>({MOST_SETS, b->in_room / in_step, b->out_room / out_step});
  const int runs = b->smoke ? 3 : n > 100000000 ? 21 : 101;
  const double gigabytes = (double)(in_bytes + n * size) / 1e9;
  speed s = {};
  s.kernel = gigabytes / time_runs(runs, b->stream, [&](int i) {
               CHECK(wd_dequant_launch((int)t->id, output, b->out + i % sets * out_step, b->in + i % sets * in_step,
                                       (int64_t)n, 1.0f, b->stream));
             });
  const uint64_t half = (in_bytes + n * size) / 2, step = up(half);
  const int copy_sets = (int)std::min<uint64_t>({MOST_SETS, b->in_room / step, b->out_room / step});
  s.copy = gigabytes / time_runs(runs, b->stream, [&](int i) {
             CHECK(cudaMemcpyAsync(b->out + i % copy_sets * step, b->in + i % copy_sets * step, half,
                                   cudaMemcpyDeviceToDevice, b->stream));
           });
  for (size_t shape = 0; shape < WALLS; shape++) {
    bool there = true;
    if (walls[shape].bulk && !b->bulk) {
      continue;
    }
    const double seconds = time_runs(runs / 2 + 1, b->stream, [&](int i) {
      there = wall(shape, b->out + i % sets * out_step, b->in + i % sets * in_step,
                   4096 / t->block_elements * t->block_bytes, 4096 * size, n, b->stream);
    });
    if (there) {
      s.wall = std::max(s.wall, gigabytes / seconds);
      s.plain = walls[shape].bulk ? s.plain : std::max(s.plain, gigabytes / seconds);
    }
  }
  return s;
}

static double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

// One thread of the CPU's best decoders to F16, in GB/s.
static double measure_cpu(const bench *b, const wd_decode_path *path, const wd_type_info *t) {
  const size_t n = b->smoke ? 1 << 16 : 1 << 24, blocks = n / t->block_elements;  // well beyond the CPU's caches
  std::vector<uint8_t> in(blocks * t->block_bytes), out(n * 2);
  CHECK(cudaMemcpy(in.data(), b->in, in.size(), cudaMemcpyDeviceToHost));
  std::vector<double> seconds;
  for (int i = 0; i < 4; i++) {
    const double begin = now();
    path->decode[t->type][WD_OUT_F16](in.data(), blocks, 1.0f, out.data());
    if (i > 0) {
      seconds.push_back(now() - begin);
    }
  }
  return (double)(in.size() + out.size()) / 1e9 / median(seconds);
}

// ---- Small tensors -------------------------------------------------------------------------------------------------

struct small {
  const char *what;
  double pieces, one, calls;  // microseconds on the GPU: in one call of pieces, as one tensor, in a call each
  double host;                // microseconds of the host in the one call of pieces
};

#define SMALL_COUNT 1000
#define SMALL_ELEMENTS 4096

// 1,000 tensors of 4,096 elements; type < 0: ten types in turn.
static small measure_small(const bench *b, const char *what, int type, int output) {
  static const int mixture[] = {WD_F32,  WD_Q4_K,  WD_Q6_K, WD_Q8_0,   WD_F16,
                                WD_BF16, WD_IQ3_S, WD_Q5_0, WD_IQ4_XS, WD_MXFP4};
  std::vector<wd_dequant_piece> pieces[MOST_SETS];
  uint64_t in = 0, out = 0, set_in = 0, set_out = 0;
  for (auto &set : pieces) {
    set_in = in;
    set_out = out;
    for (int i = 0; i < SMALL_COUNT; i++) {
      const wd_type_info *t = &wd_types[type >= 0 ? type : mixture[i % 10]];
      set.push_back({b->in + in, b->out + out, SMALL_ELEMENTS, (int32_t)t->id, output, 0, 1.0f});
      in += up(SMALL_ELEMENTS / t->block_elements * t->block_bytes);
      out += SMALL_ELEMENTS * 4;
    }
  }
  set_in = in - set_in;
  set_out = out - set_out;
  const int runs = b->smoke ? 3 : 101;
  small s = {what, 0, 0, 0, 0};
  std::vector<double> host;
  const auto call = [&](int i) {
    const double begin = now();
    CHECK(wd_dequant_pieces_launch(pieces[i % MOST_SETS].data(), SMALL_COUNT, b->stream));
    host.push_back(now() - begin);
  };
  s.pieces = 1e6 * time_runs(runs, b->stream, call, 200);
  s.host = 1e6 * median(host);
  if (type >= 0) {
    s.one = 1e6 * time_runs(
                      runs, b->stream,
                      [&](int i) {
                        CHECK(wd_dequant_launch((int)wd_types[type].id, output, b->out + i % MOST_SETS * set_out,
                                                b->in + i % MOST_SETS * set_in, SMALL_COUNT * SMALL_ELEMENTS, 1.0f,
                                                b->stream));
                      },
                      200);
  }
  s.calls = 1e6 * time_runs(b->smoke ? 1 : 5, b->stream, [&](int i) {
              for (const wd_dequant_piece &p : pieces[i % MOST_SETS]) {
                CHECK(wd_dequant_launch(p.ggml_type_id, p.output, p.out, p.in, p.num_elements, 1.0f, b->stream));
              }
            });
  return s;
}

// ---- The tables ----------------------------------------------------------------------------------------------------

int main(int argc, char **argv) {
  bool json = false;
  std::vector<std::string> only;
  bench b = {};
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--json") == 0) {
      json = true;
    } else if (strcmp(argv[i], "--smoke") == 0) {
      b.smoke = true;
    } else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
      only.push_back(argv[++i]);
    } else {
      fprintf(stderr, "usage: gpu_bench [--json] [--smoke] [--only TYPE]...\n");
      return 2;
    }
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    printf("skipped gpu_bench: there is no CUDA device here\n");
    return 0;
  }
  cudaDeviceProp device;
  CHECK(cudaGetDeviceProperties(&device, 0));
  const wd_decode_path *path;
  wd_error error;
  if (wd_decode_path_choose(NULL, &path, &error) != WD_OK) {
    fprintf(stderr, "%s\n", error.message);
    return 1;
  }
  const std::vector<uint64_t> sizes =
      b.smoke ? std::vector<uint64_t>{1 << 20} : std::vector<uint64_t>{(uint64_t)4096 * 14336, (uint64_t)1 << 30};
  b.in_room = b.smoke ? (uint64_t)256 << 20 : (uint64_t)20 << 30;
  b.out_room = b.in_room;
  b.bulk = device.major >= 9;
  CHECK(cudaStreamCreate(&b.stream));
  CHECK(cudaMalloc(&b.in, b.in_room));
  CHECK(cudaMalloc(&b.out, b.out_room));
  fill_random<<<4096, 256, 0, b.stream>>>((uint64_t *)b.in, b.in_room / 8, (uint64_t)time(NULL));
  CHECK(cudaStreamSynchronize(b.stream));

  double cpu[WD_TYPE_COUNT] = {};
  const auto wanted = [&](const wd_type_info &t) {
    return only.empty() || std::find(only.begin(), only.end(), t.name) != only.end();
  };
  for (const wd_type_info &t : wd_types) {
    cpu[t.type] = wanted(t) ? measure_cpu(&b, path, &t) : 0;
  }
  printf(json ? "{\"device\": \"%s\", \"cpu_path\": \"%s\", \"types\": [" : "device: %s; CPU decoders: %s\n",
         device.name, path->name);
  bool comma = false;
  for (uint64_t n : sizes) {
    if (!json) {
      printf("\n%llu elements, GB/s of blocks read plus elements written\n\n", (unsigned long long)n);
      printf(
          "| type | F16 | copy | plain wall | wall | /copy | /plain | /wall | goal | BF16 | /copy | F32 | /copy | CPU "
          "| F16/CPU |\n");
      printf("|---|--:|--:|--:|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|\n");
    }
    for (const wd_type_info &t : wd_types) {
      if (!wanted(t)) {
        continue;
      }
      speed s[OUTPUTS];
      for (int o = 0; o < OUTPUTS; o++) {
        s[o] = measure(&b, &t, o, n);
      }
      if (!json) {
        // The goal is the lower of 0.99 of the wall and 0.96 of the copy.
        const double goal = std::min(0.99 * s[0].wall, 0.96 * s[0].copy);
        char verdict[16] = "yes";
        if (s[0].kernel < goal) {
          snprintf(verdict, sizeof verdict, "%.3f", s[0].kernel / goal);
        }
        printf(
            "| %s | %.0f | %.0f | %.0f | %.0f | %.3f | %.3f | %.3f | %s | %.0f | %.3f | %.0f | %.3f | %.1f | %.0f |\n",
            t.name, s[0].kernel, s[0].copy, s[0].plain, s[0].wall, s[0].kernel / s[0].copy, s[0].kernel / s[0].plain,
            s[0].kernel / s[0].wall, verdict, s[1].kernel, s[1].kernel / s[1].copy, s[2].kernel,
            s[2].kernel / s[2].copy, cpu[t.type], s[0].kernel / cpu[t.type]);
        fflush(stdout);
        continue;
      }
      printf("%s\n{\"type\": \"%s\", \"elements\": %llu, \"cpu\": %.2f", comma ? "," : "", t.name,
             (unsigned long long)n, cpu[t.type]);
      for (int o = 0; o < OUTPUTS; o++) {
        printf(", \"%s\": {\"kernel\": %.1f, \"copy\": %.1f, \"plain_wall\": %.1f, \"wall\": %.1f}", output_names[o],
               s[o].kernel, s[o].copy, s[o].plain, s[o].wall);
      }
      printf("}");
      comma = true;
    }
  }
  if (json) {
    printf("],\n\"small\": [");
  } else {
    printf("\n%d tensors of %d elements, microseconds a tensor\n\n", SMALL_COUNT, SMALL_ELEMENTS);
    printf(
        "| what | one call of pieces | one tensor of as many elements | a call each | host, one call "
        "|\n|---|--:|--:|--:|--:|\n");
  }
  const small rows[] = {measure_small(&b, "F32 to F16", WD_F32, WD_DEQUANT_F16),
                        measure_small(&b, "F32 to F32", WD_F32, WD_DEQUANT_F32),
                        measure_small(&b, "Q4_K to F16", WD_Q4_K, WD_DEQUANT_F16),
                        measure_small(&b, "Q6_K to F16", WD_Q6_K, WD_DEQUANT_F16),
                        measure_small(&b, "ten types to F16", -1, WD_DEQUANT_F16)};
  comma = false;
  for (const small &r : rows) {
    const double k = SMALL_COUNT;
    if (json) {
      printf("%s\n{\"what\": \"%s\", \"pieces_us\": %.4f, \"one_us\": %.4f, \"calls_us\": %.4f, \"host_us\": %.4f}",
             comma ? "," : "", r.what, r.pieces / k, r.one / k, r.calls / k, r.host / k);
      comma = true;
    } else if (r.one > 0) {
      printf("| %s | %.4f | %.4f | %.4f | %.4f |\n", r.what, r.pieces / k, r.one / k, r.calls / k, r.host / k);
    } else {
      printf("| %s | %.4f | | %.4f | %.4f |\n", r.what, r.pieces / k, r.calls / k, r.host / k);
    }
  }
  printf(json ? "]}\n" : "");
  return 0;
}
