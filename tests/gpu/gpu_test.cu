// SPDX-License-Identifier: Apache-2.0
// The kernels on a real GPU, bit for bit against the CPU's decoders (NaN for NaN). See tests/gpu/run.sh.
//
// gpu_test            all tests; one line each, OK, FAILED after what differs, or SKIPPED where there is no GPU
// gpu_test --quick    without the big tensors: for compute-sanitizer
// gpu_test NAME…      these tests
#include <cuda_runtime.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

extern "C" {
#include "service/formats/decode.h"
#include "tests/formats/stream.h"
}
#include "cuda/sum.h"
#include "cuda/weightd_cuda.h"

#define GUARD 256
#define POISON 0xa5

static int failures;  // of the test that runs
static uint64_t compared;

static void fail(const char *format, ...) {
  va_list args;
  va_start(args, format);
  if (failures++ < 10) {
    printf("    ");
    vprintf(format, args);
    printf("\n");
  }
  va_end(args);
}

#define CHECK(call)                                                                     \
  do {                                                                                  \
    const cudaError_t error_ = (call);                                                  \
    if (error_ != cudaSuccess) {                                                        \
      printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_)); \
      exit(1);                                                                          \
    }                                                                                   \
  } while (0)

static const wd_decode_path *portable() {
  const wd_decode_path *path;
  wd_error error;
  if (wd_decode_path_choose("portable", &path, &error) != WD_OK) {
    printf("no portable path\n");
    exit(1);
  }
  return path;
}

static uint64_t random_state = 1;
static uint64_t random_below(uint64_t n) {
  return stream_word(12345, random_state++) % n;
}

// ---- Device memory with guards -------------------------------------------------------------------------------------

// A buffer on the device, made once as large as anything needs, and its copy here.
struct buffer {
  uint8_t *device;
  std::vector<uint8_t> host;
  explicit buffer(size_t size) : host(size) {
    CHECK(cudaMalloc(&device, size));
  }
  ~buffer() {
    cudaFree(device);
  }
};

static const size_t stage_bytes = 4 << 20;

struct stage {
  buffer in{stage_bytes}, out{stage_bytes};
};

static std::string type_text(int type, int output) {
  static const char *const outputs[] = {"F16", "BF16", "F32"};
  return std::string(wd_types[type].name) + " to " + outputs[output];
}

// Compares n elements at `got` with those of whole blocks at `want`; both are changed where they hold NaN.
static void compare(int type, int output, void *got, void *want, size_t n, const char *what) {
  const uint32_t size = wd_output_bytes((wd_output)output);
  stream_same_nan((wd_output)output, got, n);
  stream_same_nan((wd_output)output, want, n);
  compared += n;
  if (memcmp(got, want, n * size) == 0) {
    return;
  }
  for (size_t i = 0; i < n; i++) {
    if (memcmp((uint8_t *)got + i * size, (uint8_t *)want + i * size, size) != 0) {
      uint32_t a = 0, b = 0;
      memcpy(&a, (uint8_t *)got + i * size, size);
      memcpy(&b, (uint8_t *)want + i * size, size);
      fail("%s, %s: element %zu of %zu is %x, not %x", type_text(type, output).c_str(), what, i, n, a, b);
      return;
    }
  }
}

static void check_guards(const uint8_t *host, size_t begin, size_t end, size_t total, int type, int output,
                         const char *what) {
  for (size_t i = 0; i < total; i++) {
    if ((i < begin || i >= end) && host[i] != POISON) {
      fail("%s, %s: byte %zd from the output was written", type_text(type, output).c_str(), what,
           i < begin ? (ssize_t)(i - begin) : (ssize_t)(i - end));
      return;
    }
  }
}

// One launch: elements [first, first + n) of blocks at in_offset, to out_offset (bytes both). first > 0 goes by pieces.
static void one_launch(stage *s, int type, int output, stream_kind kind, size_t n, size_t first, size_t in_offset,
                       size_t out_offset) {
  const wd_type_info *info = &wd_types[type];
  const size_t blocks = (first + n + info->block_elements - 1) / info->block_elements;
  const size_t in_bytes = blocks * info->block_bytes, size = wd_output_bytes((wd_output)output), out_bytes = n * size;
  const size_t all = blocks * info->block_elements;
  const float factor = info->scalable ? 0.7f : 1.0f;
  char what[160];
  snprintf(what, sizeof what, "stream %d, %zu elements from %zu, in + %zu, out + %zu", kind, n, first, in_offset,
           out_offset);
  const size_t out_total = GUARD + out_offset + out_bytes + GUARD;
  if (in_offset + in_bytes > stage_bytes || out_total > stage_bytes) {
    fail("%s: too large for the test", what);
    return;
  }
  stream_fill(kind, (wd_type)type, random_below(100000), blocks, s->in.host.data());
  CHECK(cudaMemcpy(s->in.device + in_offset, s->in.host.data(), in_bytes, cudaMemcpyHostToDevice));
  CHECK(cudaMemset(s->out.device, POISON, out_total));
  uint8_t *out = s->out.device + GUARD + out_offset;
  const uint8_t *in = s->in.device + in_offset;
  if (first == 0) {
    CHECK(wd_dequant_launch((int)info->id, output, out, in, (int64_t)n, factor, 0));
  } else {
    const wd_dequant_piece piece = {in, out, (int64_t)n, (int32_t)info->id, output, (int32_t)first, factor};
    CHECK(wd_dequant_pieces_launch(&piece, 1, 0));
  }
  CHECK(cudaMemcpy(s->out.host.data(), s->out.device, out_total, cudaMemcpyDeviceToHost));
  std::vector<uint8_t> want(all * size);
  portable()->decode[type][output](s->in.host.data(), blocks, factor, want.data());
  check_guards(s->out.host.data(), GUARD + out_offset, GUARD + out_offset + out_bytes, out_total, type, output, what);
  compare(type, output, s->out.host.data() + GUARD + out_offset, want.data() + first * size, n, what);
}

// ---- The tests -----------------------------------------------------------------------------------------------------

#define EVERY_TYPE_AND_OUTPUT                      \
  for (int type = 0; type < WD_TYPE_COUNT; type++) \
    for (int output = 0; output < WD_DECODED_OUTPUTS; output++)

// Every kind of stream, from one block to several tiles, aligned: the fast kernels.
static void aligned_sizes() {
  stage s;
  EVERY_TYPE_AND_OUTPUT {
    const size_t e = wd_types[type].block_elements;
    const size_t sizes[] = {e, 2 * e, 3 * e, 4096, 4096 + e, 3 * 4096 + 5 * e, 65536, 100 * 256 + 7 * e};
    for (int kind = 0; kind < STREAM_KINDS; kind++) {
      for (size_t n : sizes) {
        one_launch(&s, type, output, (stream_kind)kind, n, 0, 0, 0);
      }
    }
  }
}

// Counts that end anywhere in a block.
static void odd_counts() {
  stage s;
  EVERY_TYPE_AND_OUTPUT {
    for (size_t n : {1, 2, 3, 5, 7, 8, 9, 31, 33, 255, 257, 1000, 4095, 4097, 8191, 12345}) {
      one_launch(&s, type, output, STREAM_SPECIAL, n, 0, 0, 0);
    }
  }
}

// All alignments of the input by all of the output.
static void alignments() {
  stage s;
  EVERY_TYPE_AND_OUTPUT {
    const size_t size = wd_output_bytes((wd_output)output);
    for (size_t in = 0; in < 16; in++) {
      for (size_t out = 0; out < 16; out += size) {
        one_launch(&s, type, output, STREAM_RANDOM, 4096 * (in % 2) + 300 + in, 0, in, out);
      }
    }
  }
}

// Ranges that begin anywhere in a block.
static void first_elements() {
  stage s;
  EVERY_TYPE_AND_OUTPUT {
    const size_t e = wd_types[type].block_elements, size = wd_output_bytes((wd_output)output);
    for (size_t k = 0; k < 24 && e > 1; k++) {
      const size_t first = k < 8 ? k + 1 : 1 + random_below(e - 1);
      one_launch(&s, type, output, STREAM_SPECIAL, 1 + random_below(9000), first, random_below(16),
                 random_below(16 / size) * size);
    }
  }
}

// Thousands of pieces of everything in one call.
static void pieces() {
  const size_t n = 3000;
  buffer in(8 << 20), out(16 << 20);
  std::vector<wd_dequant_piece> all;
  std::vector<size_t> in_at, out_at, blocks;
  size_t in_end = 0, out_end = GUARD;
  for (size_t i = 0; i < n; i++) {
    const int type = (int)random_below(WD_TYPE_COUNT), output = (int)random_below(3);
    const wd_type_info *info = &wd_types[type];
    const size_t size = wd_output_bytes((wd_output)output), count = random_below(i % 100 == 0 ? 9000 : 900);
    const size_t first = random_below(info->block_elements);
    const size_t b = (first + count + info->block_elements - 1) / info->block_elements;
    in_end += random_below(20);
    out_end = (out_end + random_below(20) + 3) / 4 * 4;
    stream_fill(STREAM_RANDOM, (wd_type)type, i, b, in.host.data() + in_end);
    in_at.push_back(in_end);
    out_at.push_back(out_end);
    blocks.push_back(b);
    all.push_back(
        {in.device + in_end, out.device + out_end, (int64_t)count, (int32_t)info->id, output, (int32_t)first, 1.5f});
    in_end += b * info->block_bytes;
    out_end += count * size;
  }
  CHECK(cudaMemcpy(in.device, in.host.data(), in_end, cudaMemcpyHostToDevice));
  CHECK(cudaMemset(out.device, POISON, out_end + GUARD));
  CHECK(wd_dequant_pieces_launch(all.data(), n, 0));
  CHECK(cudaMemcpy(out.host.data(), out.device, out_end + GUARD, cudaMemcpyDeviceToHost));
  size_t end = 0;
  for (size_t i = 0; i < n; i++) {
    int type = 0;
    while (wd_types[type].id != (uint32_t)all[i].ggml_type_id) {
      type++;
    }
    const wd_type_info *info = &wd_types[type];
    const size_t size = wd_output_bytes((wd_output)all[i].output), count = (size_t)all[i].num_elements;
    std::vector<uint8_t> want(blocks[i] * info->block_elements * size + 1);
    portable()->decode[type][all[i].output](in.host.data() + in_at[i], blocks[i], 1.5f, want.data());
    for (size_t j = end; j < out_at[i]; j++) {
      if (out.host[j] != POISON) {
        fail("piece %zu (%s): a byte before it was written", i, info->name);
        break;
      }
    }
    compare(type, all[i].output, out.host.data() + out_at[i], want.data() + (size_t)all[i].first_element * size, count,
            "a piece");
    end = out_at[i] + count * size;
  }
}

// A factor for every so many elements.
static void factors() {
  const int type = WD_NVFP4;
  const wd_type_info *info = &wd_types[type];
  for (size_t count : {1, 2, 7, 2500}) {
    for (size_t each : {64, 128, 4096 + 64}) {
      const size_t n = count * each - (count > 1 ? 40 : 0), blocks = (n + 63) / 64;
      if (n > 2000000) {
        continue;
      }
      for (int output = 0; output < 3; output++) {
        const size_t size = wd_output_bytes((wd_output)output);
        buffer in(blocks * info->block_bytes), out(blocks * 64 * size);
        std::vector<float> f(count);
        std::vector<uint8_t> want(blocks * 64 * size);
        stream_fill(STREAM_RANDOM, WD_NVFP4, 0, blocks, in.host.data());
        CHECK(cudaMemcpy(in.device, in.host.data(), in.host.size(), cudaMemcpyHostToDevice));
        CHECK(cudaMemset(out.device, POISON, out.host.size()));
        for (size_t i = 0; i < count; i++) {
          f[i] = (float)(1 + random_below(1000)) / 777.0f;
          const size_t at = i * each / 64, some = at + each / 64 > blocks ? blocks - at : each / 64;
          portable()->decode[type][output](in.host.data() + at * info->block_bytes, some, f[i],
                                           want.data() + i * each * size);
        }
        CHECK(wd_dequant_factors_launch((int)info->id, output, out.device, in.device, (int64_t)n, f.data(),
                                        (int64_t)each, 0));
        CHECK(cudaMemcpy(out.host.data(), out.device, out.host.size(), cudaMemcpyDeviceToHost));
        compare(type, output, out.host.data(), want.data(), n, "factors");
      }
    }
  }
}

// The eight names, and everything that is refused.
static void names_and_refusals() {
  typedef cudaError_t named(wd_half_t *, const uint8_t *, int, cudaStream_t);
  static const struct {
    int type;
    named *launch, *blocking;
  } names[] = {{WD_Q4_K, q4k_dequant_launch, q4k_dequant},
               {WD_Q5_0, q5_0_dequant_launch, q5_0_dequant},
               {WD_Q6_K, q6k_dequant_launch, q6k_dequant},
               {WD_Q8_0, q8_0_dequant_launch, q8_0_dequant}};
  stage s;
  wd_half_t *out = (wd_half_t *)s.out.device;
  const uint8_t *in = s.in.device;
#define REFUSED(call)                                     \
  if ((call) != cudaErrorInvalidValue) {                  \
    fail("%s is not refused as an invalid value", #call); \
  }
#define ACCEPTED(call)            \
  if ((call) != cudaSuccess) {    \
    fail("%s is refused", #call); \
  }
  for (const auto &name : names) {
    const wd_type_info *info = &wd_types[name.type];
    const int e = (int)info->block_elements, n = 77 * e;
    for (int blocking = 0; blocking < 2; blocking++) {
      named *call = blocking ? name.blocking : name.launch;
      stream_fill(STREAM_RANDOM, (wd_type)name.type, 0, 77, s.in.host.data());
      CHECK(cudaMemcpy(s.in.device, s.in.host.data(), 77 * info->block_bytes, cudaMemcpyHostToDevice));
      CHECK(cudaMemset(s.out.device, POISON, (size_t)n * 2 + GUARD));
      CHECK(call(out, in, n, 0));
      CHECK(cudaMemcpy(s.out.host.data(), s.out.device, (size_t)n * 2 + GUARD, cudaMemcpyDeviceToHost));
      std::vector<uint8_t> want((size_t)n * 2);
      portable()->decode[name.type][WD_OUT_F16](s.in.host.data(), 77, 1.0f, want.data());
      check_guards(s.out.host.data(), 0, (size_t)n * 2, (size_t)n * 2 + GUARD, name.type, 0, "by name");
      compare(name.type, 0, s.out.host.data(), want.data(), (size_t)n, "by name");
      REFUSED(call(out, in, -e, 0));
      REFUSED(call(out, in, e - 1, 0));
      REFUSED(call(out, in, e + 1, 0));
      REFUSED(call(NULL, in, e, 0));
      REFUSED(call(out, NULL, e, 0));
      ACCEPTED(call(NULL, NULL, 0, 0));
    }
  }
  REFUSED(wd_dequant_launch(4, 0, out, in, 256, 1.0f, 0));
  REFUSED(wd_dequant_launch(-1, 0, out, in, 256, 1.0f, 0));
  REFUSED(wd_dequant_launch(12, 3, out, in, 256, 1.0f, 0));
  REFUSED(wd_dequant_launch(12, -1, out, in, 256, 1.0f, 0));
  REFUSED(wd_dequant_launch(12, 0, out, in, -256, 1.0f, 0));
  REFUSED(wd_dequant_launch(12, 0, (uint8_t *)out + 1, in, 256, 1.0f, 0));
  REFUSED(wd_dequant_launch(12, 2, (uint8_t *)out + 2, in, 256, 1.0f, 0));
  REFUSED(wd_dequant_launch(12, 0, out, in, INT64_MAX, 1.0f, 0));
  const float f = 1;
  REFUSED(wd_dequant_factors_launch(40, 0, out, in, 128, &f, 0, 0));
  REFUSED(wd_dequant_factors_launch(40, 0, out, in, 128, &f, 65, 0));
  REFUSED(wd_dequant_factors_launch(40, 0, out, in, 128, NULL, 64, 0));
  wd_dequant_piece good = {in, out, 256, 12, 0, 0, 1}, bad = good;
  bad.first_element = 256;
  const wd_dequant_piece two[2] = {good, bad};
  CHECK(cudaMemset(s.out.device, POISON, GUARD));
  REFUSED(wd_dequant_pieces_launch(two, 2, 0));
  bad.first_element = -1;
  REFUSED(wd_dequant_pieces_launch(&bad, 1, 0));
  REFUSED(wd_dequant_pieces_launch(NULL, 1, 0));
  ACCEPTED(wd_dequant_pieces_launch(NULL, 0, 0));
  CHECK(cudaMemcpy(s.out.host.data(), s.out.device, GUARD, cudaMemcpyDeviceToHost));
  check_guards(s.out.host.data(), 0, 0, GUARD, WD_Q4_K, 0, "a refused call");
  if (wd_dequant_block_elements(14) != 256 || wd_dequant_block_bytes(14) != 210 || wd_dequant_block_elements(5) != 0 ||
      wd_dequant_block_bytes(5) != 0) {
    fail("sizes of blocks");
  }
}

// ---- Beyond 2^31 elements ------------------------------------------------------------------------------------------

static __global__ void repeat(uint8_t *to, uint64_t n, const uint8_t *pattern, uint32_t period) {
  for (uint64_t i = (blockIdx.x * (uint64_t)blockDim.x + threadIdx.x) * 16; i < n;
       i += (uint64_t)gridDim.x * blockDim.x * 16) {
    uint32_t at = (uint32_t)(i % period);
    __align__(16) uint8_t bytes[16];
    for (int j = 0; j < 16; j++) {
      bytes[j] = pattern[at];
      at = at + 1 == period ? 0 : at + 1;
    }
    if (i + 16 <= n) {
      *(uint4 *)(to + i) = *(uint4 *)bytes;
    } else {
      for (uint64_t j = i; j < n; j++) {
        to[j] = bytes[j - i];
      }
    }
  }
}

// Counts elements that differ from the pattern, NaN being equal to NaN.
template <class Word>
static __global__ void differ(const Word *got, uint64_t n, const Word *pattern, uint32_t period, Word magnitude,
                              Word infinity, unsigned long long *wrong, unsigned long long *where) {
  for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < n; i += (uint64_t)gridDim.x * blockDim.x) {
    const Word a = got[i], b = pattern[i % period];
    if (a != b && !((a & magnitude) > infinity && (b & magnitude) > infinity)) {
      atomicAdd(wrong, 1ull);
      atomicMin(where, (unsigned long long)i);
    }
  }
}

// One tensor of n elements: a stretch of blocks whose number is a prime, so that it falls differently on every tile,
// over and over. in_offset and out_offset in bytes.
static void one_big(int type, int output, uint64_t n, uint64_t in_offset, uint64_t out_offset) {
  const wd_type_info *info = &wd_types[type];
  const size_t period = info->block_elements >= 32 ? 1009 : 100003, size = wd_output_bytes((wd_output)output);
  const uint64_t blocks = (n + info->block_elements - 1) / info->block_elements, in_bytes = blocks * info->block_bytes;
  const uint64_t out_bytes = n * size;
  std::vector<uint8_t> pattern(period * info->block_bytes), want(period * info->block_elements * size);
  stream_fill(STREAM_RANDOM, (wd_type)type, 7, period, pattern.data());
  portable()->decode[type][output](pattern.data(), period, 1.0f, want.data());
  uint8_t *in, *out, *device_pattern, *device_want;
  unsigned long long *counters, host[2] = {0, ~0ull};
  CHECK(cudaMalloc(&in, in_offset + in_bytes));
  CHECK(cudaMalloc(&out, GUARD + out_offset + out_bytes + GUARD));
  CHECK(cudaMalloc(&device_pattern, pattern.size()));
  CHECK(cudaMalloc(&device_want, want.size()));
  CHECK(cudaMalloc(&counters, sizeof host));
  CHECK(cudaMemcpy(device_pattern, pattern.data(), pattern.size(), cudaMemcpyHostToDevice));
  CHECK(cudaMemcpy(device_want, want.data(), want.size(), cudaMemcpyHostToDevice));
  CHECK(cudaMemcpy(counters, host, sizeof host, cudaMemcpyHostToDevice));
  if (in_offset == 0) {
    repeat<<<132 * 16, 256>>>(in, in_bytes, device_pattern, (uint32_t)pattern.size());
  } else {
    // The pattern, turned so that it begins at in_offset.
    std::vector<uint8_t> turned(pattern.size());
    for (size_t i = 0; i < turned.size(); i++) {
      turned[(i + in_offset) % turned.size()] = pattern[i];
    }
    CHECK(cudaMemcpy(device_pattern, turned.data(), turned.size(), cudaMemcpyHostToDevice));
    repeat<<<132 * 16, 256>>>(in, in_offset + in_bytes, device_pattern, (uint32_t)turned.size());
  }
  CHECK(cudaMemset(out, POISON, GUARD + out_offset + out_bytes + GUARD));
  CHECK(wd_dequant_launch((int)info->id, output, out + GUARD + out_offset, in + in_offset, (int64_t)n, 1.0f, 0));
  if (output == WD_OUT_F32) {
    differ<uint32_t><<<132 * 16, 256>>>((uint32_t *)(out + GUARD + out_offset), n, (uint32_t *)device_want,
                                        (uint32_t)(want.size() / 4), 0x7fffffffu, 0x7f800000u, counters, counters + 1);
  } else {
    differ<uint16_t><<<132 * 16, 256>>>((uint16_t *)(out + GUARD + out_offset), n, (uint16_t *)device_want,
                                        (uint32_t)(want.size() / 2), 0x7fff, output == WD_OUT_F16 ? 0x7c00 : 0x7f80,
                                        counters, counters + 1);
  }
  CHECK(cudaMemcpy(host, counters, sizeof host, cudaMemcpyDeviceToHost));
  if (host[0] > 0) {
    fail("%s: %llu of %llu elements differ, the first is %llu", type_text(type, output).c_str(), host[0],
         (unsigned long long)n, host[1]);
  }
  std::vector<uint8_t> guards(2 * GUARD + out_offset);
  CHECK(cudaMemcpy(guards.data(), out, GUARD + out_offset, cudaMemcpyDeviceToHost));
  CHECK(cudaMemcpy(guards.data() + GUARD + out_offset, out + GUARD + out_offset + out_bytes, GUARD,
                   cudaMemcpyDeviceToHost));
  check_guards(guards.data(), GUARD + out_offset, GUARD + out_offset, guards.size(), type, output, "a big tensor");
  compared += n;
  for (void *p : {(void *)in, (void *)out, (void *)device_pattern, (void *)device_want, (void *)counters}) {
    CHECK(cudaFree(p));
  }
}

static void big() {
  EVERY_TYPE_AND_OUTPUT {
    one_big(type, output, ((uint64_t)1 << 31) + 4096 * 3 + 77, 0, 0);
  }
  one_big(WD_Q8_0, WD_OUT_F16, ((uint64_t)1 << 33) + 12345, 0, 0);
  one_big(WD_Q4_K, WD_OUT_F32, ((uint64_t)1 << 32) + 12345, 0, 0);
  // By the kernel of pieces.
  for (int type : {WD_F32, WD_Q4_K, WD_MXFP4, WD_IQ3_S, WD_I64}) {
    one_big(type, WD_OUT_F16, ((uint64_t)1 << 31) + 4096 * 3 + 77, 1, 0);
    one_big(type, WD_OUT_BF16, ((uint64_t)1 << 31) + 4096 * 3 + 77, 0, 2);
  }
}

// Finite values, but for one with an exponent of all ones at `special`, if that is not negative.
static void fill_values(uint8_t *data, size_t n, int output, int64_t special) {
  static const uint32_t exponents[] = {0x7c00, 0x7f80, 0x7f800000};
  const size_t size = wd_output_bytes((wd_output)output);
  for (size_t i = 0; i < n; i++) {
    uint32_t value = (uint32_t)random_below(size == 2 ? 0x10000 : 0x100000000ull);
    // The lowest bit of the exponent, which makes it finite or not.
    const uint32_t low = exponents[output] & ~(exponents[output] << 1);
    value = (int64_t)i == special ? value | exponents[output] : value & ~low;
    memcpy(data + i * size, &value, size);
  }
}

// Bit by bit, as RFC 3720 defines it.
static uint32_t crc32c(const uint8_t *data, size_t size) {
  uint32_t crc = ~0u;
  for (size_t i = 0; i < size; i++) {
    crc ^= data[i];
    for (int bit = 0; bit < 8; bit++) {
      crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
    }
  }
  return ~crc;
}

// CRC-32C of outputs of every length that segments, steps and words can end with, and whether all values are finite.
static void sums() {
  const size_t segment = 16384, longest = 5 * segment + 4096;
  std::vector<size_t> counts;
  for (size_t near : {(size_t)0, (size_t)4096, segment, 3 * segment, longest - 64}) {
    for (size_t bytes = near ? near - 20 : 0; bytes <= near + 20; bytes += 2) {
      counts.push_back(bytes);
    }
  }
  for (size_t bytes : {((size_t)1 << 20) - 2, (size_t)1 << 20, ((size_t)1 << 20) + 2}) {
    counts.push_back(bytes);
  }
  buffer data(stage_bytes);
  wd_gpu_sum_state *state;
  wd_gpu_sum *sum;
  CHECK(cudaMalloc(&state, sizeof *state));
  CHECK(cudaMemset(state, 0, sizeof *state));
  CHECK(cudaHostAlloc(&sum, sizeof *sum, cudaHostAllocDefault));
  for (int output = 0; output < WD_DECODED_OUTPUTS; output++) {
    for (size_t bytes : counts) {
      const size_t n = bytes / wd_output_bytes((wd_output)output), size = n * wd_output_bytes((wd_output)output);
      if (n == 0) {
        continue;
      }
      for (int64_t special : {(int64_t)-1, (int64_t)0, (int64_t)n - 1, (int64_t)random_below(n)}) {
        fill_values(data.host.data(), n, output, special);
        CHECK(cudaMemset(data.device, 0xff, stage_bytes));  // what must not be looked at is NaN
        CHECK(cudaMemcpy(data.device, data.host.data(), size, cudaMemcpyHostToDevice));
        *sum = {};
        CHECK(wd_gpu_sum_launch(data.device, size, output, state, sum, 0));
        CHECK(cudaDeviceSynchronize());
        const uint32_t want = crc32c(data.host.data(), size);
        if (sum->crc32c != want || (sum->special != 0) != (special >= 0)) {
          fail("output %d, %zu bytes: CRC-32C %08x, not %08x; a special value at %lld: %s", output, size, sum->crc32c,
               want, (long long)special, sum->special ? "found" : "none found");
        }
        compared += n;
      }
    }
  }
  for (int output : {-1, (int)WD_OUT_STORED}) {
    if (wd_gpu_sum_launch(data.device, 16, output, state, sum, 0) != cudaErrorInvalidValue) {
      fail("output %d is summed", output);
    }
  }
  if (wd_gpu_sum_launch(data.device, 0, WD_OUT_F16, state, sum, 0) != cudaErrorInvalidValue) {
    fail("nothing is summed");
  }
  CHECK(cudaFree(state));
  CHECK(cudaFreeHost(sum));
}

static const struct {
  const char *name;
  void (*run)();
  bool quick;
} tests[] = {{"aligned_sizes", aligned_sizes, true},
             {"odd_counts", odd_counts, true},
             {"alignments", alignments, false},
             {"first_elements", first_elements, true},
             {"pieces", pieces, true},
             {"factors", factors, true},
             {"names_and_refusals", names_and_refusals, false},
             {"sums", sums, true},
             {"big", big, false}};

int main(int argc, char **argv) {
  const bool quick = argc == 2 && strcmp(argv[1], "--quick") == 0;
  int count = 0, failed = 0;
  const bool gpu = cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
  for (const auto &test : tests) {
    bool wanted = argc == 1 || (quick && test.quick);
    for (int i = 1; i < argc && !quick; i++) {
      wanted |= strcmp(argv[i], test.name) == 0;
    }
    if (!wanted) {
      continue;
    }
    if (!gpu) {
      printf("[  SKIPPED ] %s: there is no CUDA device here\n", test.name);
      continue;
    }
    failures = 0;
    compared = 0;
    test.run();
    printf("[%s] %s (%llu elements)\n", failures ? "  FAILED  " : "       OK ", test.name,
           (unsigned long long)compared);
    fflush(stdout);
    failed += failures > 0;
  }
  return failed > 0;
}
