// SPDX-License-Identifier: Apache-2.0
// Every path, type and output: the same values as the portable path, from any address to any address, whole or in
// pieces, reading and writing exactly what it should.
//
// Input and output lie against pages that cannot be touched, on one side and then on the other, so that a byte read or
// written beyond them ends the test with a signal, sanitizer or not.
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/formats/stream.h"

#define MOST_BLOCKS 70
#define ROOM ((size_t)1 << 17)  // for the input and for the output of any test here

_Static_assert(MOST_BLOCKS *WD_MAX_BLOCK_ELEMENTS * 4 + 64 <= ROOM, "an output does not fit");

// ROOM bytes between two pages without access.
static uint8_t *fenced(void) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  uint8_t *all = mmap(NULL, ROOM + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  assert_true(all != MAP_FAILED);
  assert_int_equal(mprotect(all + page, ROOM, PROT_READ | PROT_WRITE), 0);
  return all + page;
}

static uint8_t *in_room, *out_room;

static int set_up(void **state) {
  (void)state;
  in_room = fenced();
  out_room = fenced();
  return 0;
}

static int tear_down(void **state) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  (void)state;
  return munmap(in_room - page, ROOM + 2 * page) | munmap(out_room - page, ROOM + 2 * page);
}

static void skip_unsupported(const struct wd_decode_path *path) {
  if (!path->supported()) {
    print_message("this CPU does not support %s\n", path->name);
    skip();
  }
}

static const struct wd_decode_path *portable(void) {
  const struct wd_decode_path *path;
  assert_int_equal(wd_decode_path_choose("portable", &path, NULL), WD_OK);
  return path;
}

// Numbers for the tests' choices, the same in every run.
static uint64_t chosen;

static size_t choose(size_t below) {
  return (size_t)(stream_word(0xc401ce, chosen++) % below);
}

// What the portable path makes of the blocks at `in`, NaNs made the same.
static void expect(enum wd_type t, enum wd_output o, const uint8_t *in, size_t n, float factor, uint8_t *values) {
  portable()->decode[t][o](in, n, factor, values);
  stream_same_nan(o, values, n * wd_types[t].block_elements);
}

// Decodes n blocks of a stream between fences, `skew` bytes away from them, and compares.
static void compare(const struct wd_decode_path *path, enum wd_type t, enum wd_output o, enum stream_kind kind,
                    size_t first, size_t n, bool at_end, size_t skew, float factor) {
  static uint8_t want[ROOM];
  const size_t in_size = n * wd_types[t].block_bytes;
  const size_t elements = n * wd_types[t].block_elements, out_size = elements * wd_output_bytes(o);
  uint8_t *in = at_end ? in_room + ROOM - in_size - skew : in_room + skew;
  uint8_t *out = at_end ? out_room + ROOM - out_size - skew : out_room + skew;
  stream_fill(kind, t, first, n, in);
  expect(t, o, in, n, factor, want);

  const size_t around = 64;  // bytes to each side of the output that must keep their value
  uint8_t *from = out - out_room < (ptrdiff_t)around ? out_room : out - around;
  uint8_t *to = out_room + ROOM - (out + out_size) < (ptrdiff_t)around ? out_room + ROOM : out + out_size + around;
  memset(from, 0xa5, (size_t)(to - from));
  path->decode[t][o](in, n, factor, out);
  stream_same_nan(o, out, elements);
  if (memcmp(out, want, out_size) != 0) {
    size_t at = 0;
    while (out[at] == want[at]) {
      at++;
    }
    fail_msg("%s %s output %d, stream %d, %zu blocks from %zu: element %zu differs", path->name, wd_types[t].name, o,
             kind, n, first, at / wd_output_bytes(o));
  }
  for (uint8_t *p = from; p < to; p++) {
    if ((p < out || p >= out + out_size) && *p != 0xa5) {
      fail_msg("%s %s output %d wrote outside its output", path->name, wd_types[t].name, o);
    }
  }
}

static void values_are_the_portable_ones(void **state) {
  const struct wd_decode_path *path = *state;
  static const float factors[] = {1.0f, 0.3f, -2.0f, 0.0f, 3e38f, 1e-44f};
  skip_unsupported(path);
  for (enum wd_type t = 0; t < WD_TYPE_COUNT; t++) {
    for (enum wd_output o = 0; o < WD_DECODED_OUTPUTS; o++) {
      for (enum stream_kind kind = 0; kind < STREAM_KINDS; kind++) {
        for (size_t first = 0; first < 256; first += MOST_BLOCKS / 2) {  // all bytes, all special values
          compare(path, t, o, kind, first, MOST_BLOCKS / 2, first % 2, first % 64, factors[choose(6)]);
        }
      }
    }
  }
}

static void any_count_and_address(void **state) {
  const struct wd_decode_path *path = *state;
  skip_unsupported(path);
  for (enum wd_type t = 0; t < WD_TYPE_COUNT; t++) {
    for (enum wd_output o = 0; o < WD_DECODED_OUTPUTS; o++) {
      for (size_t n = 0; n <= 20; n++) {
        compare(path, t, o, STREAM_RANDOM, n, n, n % 2, 0, 1);
      }
      for (int k = 0; k < 20; k++) {
        compare(path, t, o, STREAM_RANDOM, choose(1000), choose(MOST_BLOCKS), choose(2), choose(64), 1);
      }
    }
  }
}

// The input in a heap block of its own, which AddressSanitizer and valgrind watch.
static void exact_heap_blocks(void **state) {
  const struct wd_decode_path *path = *state;
  skip_unsupported(path);
  for (enum wd_type t = 0; t < WD_TYPE_COUNT; t++) {
    for (enum wd_output o = 0; o < WD_DECODED_OUTPUTS; o++) {
      const size_t n = 1 + choose(19);
      uint8_t *in = malloc(n * wd_types[t].block_bytes);
      uint8_t *out = malloc(n * wd_types[t].block_elements * wd_output_bytes(o));
      assert_true(in && out);
      stream_fill(STREAM_RANDOM, t, 0, n, in);
      path->decode[t][o](in, n, 1, out);
      free(in);
      free(out);
    }
  }
}

// Decoded in pieces cut anywhere, the bytes are those of the whole: NaNs too, as checksums are taken of them.
static void pieces_make_the_whole(void **state) {
  const struct wd_decode_path *path = *state;
  static uint8_t whole[ROOM], parts[ROOM];
  skip_unsupported(path);
  for (enum wd_type t = 0; t < WD_TYPE_COUNT; t++) {
    for (enum wd_output o = 0; o < WD_DECODED_OUTPUTS; o++) {
      const size_t n = MOST_BLOCKS, size = n * wd_types[t].block_elements * wd_output_bytes(o);
      stream_fill(STREAM_SPECIAL, t, choose(100), n, in_room);
      path->decode[t][o](in_room, n, 0.3f, whole);
      for (int k = 0; k < 10; k++) {
        uint8_t *at = parts;
        memset(parts, 0xa5, size);
        for (size_t from = 0, count; from < n; from += count) {
          count = 1 + choose(n - from);
          path->decode[t][o](in_room + from * wd_types[t].block_bytes, count, 0.3f, at);
          at += count * wd_types[t].block_elements * wd_output_bytes(o);
        }
        assert_memory_equal(parts, whole, size);
      }
    }
  }
}

static void same_type_passes_through(void **state) {
  const struct wd_decode_path *path = *state;
  static const struct {
    enum wd_type type;
    enum wd_output output;
  } pairs[] = {{WD_F16, WD_OUT_F16}, {WD_BF16, WD_OUT_BF16}, {WD_F32, WD_OUT_F32}};
  skip_unsupported(path);
  for (size_t k = 0; k < 3; k++) {
    const size_t size = wd_types[pairs[k].type].block_bytes, n = ROOM / size;
    for (size_t i = 0; i < n; i++) {  // every value of 16 bits; of 32, every upper half, many of them signalling NaNs
      uint32_t bits = size == 2 ? (uint32_t)i : (uint32_t)(i * 2) << 16 | (uint32_t)(i & 0xffff);
      memcpy(in_room + i * size, &bits, size);
    }
    path->decode[pairs[k].type][pairs[k].output](in_room, n, 0.5f, out_room);
    assert_memory_equal(in_room, out_room, ROOM);
    path->decode[pairs[k].type][pairs[k].output](NULL, 0, 1, NULL);
  }
}

// Only scalable types heed the factor; theirs is one more product, rounded to float before it is to the output.
static void factors(void **state) {
  const struct wd_decode_path *path = *state;
  skip_unsupported(path);
  for (enum wd_type t = 0; t < WD_TYPE_COUNT; t++) {
    const size_t n = 8, elements = n * wd_types[t].block_elements;
    float *plain = (float *)out_room, *scaled = plain + elements;
    stream_fill(STREAM_RANDOM, t, 0, n, in_room);
    path->decode[t][WD_OUT_F32](in_room, n, 1, plain);
    path->decode[t][WD_OUT_F32](in_room, n, 0.3f, scaled);
    for (size_t i = 0; wd_types[t].scalable && i < elements; i++) {
      plain[i] *= 0.3f;
    }
    assert_memory_equal(plain, scaled, elements * 4);
  }
}

static void every_path_has_its_own(void **state) {
  size_t paths = 0;
  (void)state;
  for (; wd_decode_paths[paths]; paths++) {
    for (enum wd_type t = 0; t < WD_TYPE_COUNT; t++) {
      for (enum wd_output o = 0; o < WD_DECODED_OUTPUTS; o++) {
        assert_non_null(wd_decode_paths[paths]->decode[t][o]);
        for (size_t other = 0; other < paths; other++) {
          assert_ptr_not_equal(wd_decode_paths[paths]->decode[t][o], wd_decode_paths[other]->decode[t][o]);
        }
      }
    }
  }
#ifdef __x86_64__
  assert_int_equal(paths, 3);
#endif
  assert_string_equal(wd_decode_paths[paths - 1]->name, "portable");
}

static void choosing(void **state) {
  const struct wd_decode_path *best = NULL, *path = NULL;
  struct wd_error err;
  (void)state;
  assert_int_equal(wd_decode_path_choose(NULL, &best, &err), WD_OK);
  assert_true(best->supported());
  assert_int_equal(wd_decode_path_choose("", &path, &err), WD_OK);
  assert_ptr_equal(path, best);
  for (const struct wd_decode_path *const *p = wd_decode_paths; *p != best; p++) {
    assert_false((*p)->supported());
  }
  for (const struct wd_decode_path *const *p = wd_decode_paths; *p; p++) {
    if ((*p)->supported()) {
      assert_int_equal(wd_decode_path_choose((*p)->name, &path, NULL), WD_OK);
      assert_ptr_equal(path, *p);
    } else {
      assert_int_equal(wd_decode_path_choose((*p)->name, &path, &err), WD_INVALID_ARGUMENT);
      assert_non_null(strstr(err.message, "does not support"));
    }
  }
  for (int k = 0; k < 3; k++) {
    const char *wrong[] = {"avx3", "Portable", "portable,avx2\n"};
    path = NULL;
    assert_int_equal(wd_decode_path_choose(wrong[k], &path, &err), WD_INVALID_ARGUMENT);
    assert_int_equal(err.status, WD_INVALID_ARGUMENT);
    assert_null(path);
    assert_non_null(strstr(err.message, "portable"));
    assert_null(strchr(err.message, '\n'));
  }
  assert_int_equal(wd_decode_path_choose("avx3", &path, NULL), WD_INVALID_ARGUMENT);
}

int main(void) {
  static const struct {
    const char *name;
    CMUnitTestFunction function;
  } each[] = {{"values are the portable ones", values_are_the_portable_ones},
              {"any count and address", any_count_and_address},
              {"exact heap blocks", exact_heap_blocks},
              {"pieces make the whole", pieces_make_the_whole},
              {"same type passes through", same_type_passes_through},
              {"factors", factors}};
  int failed = 0;
  for (const struct wd_decode_path *const *p = wd_decode_paths; *p; p++) {
    struct CMUnitTest tests[sizeof each / sizeof each[0]];
    for (size_t k = 0; k < sizeof each / sizeof each[0]; k++) {
      tests[k] = (struct CMUnitTest){each[k].name, each[k].function, NULL, NULL, (void *)*p};
    }
    failed += _cmocka_run_group_tests((*p)->name, tests, sizeof each / sizeof each[0], set_up, tear_down);
  }
  const struct CMUnitTest of_all[] = {cmocka_unit_test(every_path_has_its_own), cmocka_unit_test(choosing)};
  return failed + cmocka_run_group_tests_name("paths", of_all, NULL, NULL);
}
