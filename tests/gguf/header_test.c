// SPDX-License-Identifier: Apache-2.0
// What the parser accepts, what it refuses and at which byte, and what that costs.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "service/gguf/header.h"
#include "service/gguf/value.h"
#include "tests/gguf/fixture.h"

#define DIMS(...) ((const uint64_t[]){__VA_ARGS__})

static char *at_byte(uint64_t offset) {
  static char text[40];
  snprintf(text, sizeof text, ", byte %llu: ", (unsigned long long)offset);
  return text;
}

// Saves and refuses; `offset` is the byte that the message must name.
static void refuse(const struct fixture *f, struct writer *w, uint64_t offset, const char *word, const char *word2) {
  fixture_save(f, "x.gguf", w);
  fixture_refused(f, "x.gguf", WD_FAILED_PRECONDITION, "'x.gguf'", at_byte(offset), word, word2, NULL);
}

static void accept(const struct fixture *f, struct writer *w) {
  fixture_save(f, "x.gguf", w);
  wd_model_unref(fixture_open(f, "x.gguf"));
}

// ---------------------------------------------------------------------------------------------------- Valid files

static void versions_and_byte_orders(void **state) {
  struct fixture *f = *state;
  for (int i = 0; i < 4; i++) {
    struct writer w = {.big_endian = i & 1};
    w_sample(&w);
    w_set_u32(&w, 4, i < 2 ? 2 : 3);
    size_t size = w.size;
    fixture_save(f, "x.gguf", &w);
    struct wd_model *m = fixture_open(f, "x.gguf");
    const struct wd_model_info *info = wd_model_info(m);
    assert_string_equal(info->name, "x.gguf");
    assert_string_equal(info->architecture, "sample");
    assert_string_equal(info->title, "");
    assert_int_equal(info->version, i < 2 ? 2 : 3);
    assert_int_equal(info->big_endian, i & 1);
    assert_int_equal(info->alignment, 32);
    assert_int_equal(info->n_parts, 1);
    assert_int_equal(info->file_bytes, size);
    assert_int_equal(info->n_metadata, 4);
    assert_int_equal(info->n_tensors, 2);
    assert_int_equal(info->elements, 16);
    assert_int_equal(info->stored_bytes, 64);
    assert_int_equal(info->f16_bytes, 32);
    assert_int_equal(wd_model_part(m, 0)->file_bytes, size);
    assert_int_equal(wd_model_part(m, 0)->data_offset, size - 64);

    const struct wd_tensor *b = wd_model_tensor(m, 1);
    assert_string_equal(b->name, "b.weight");
    assert_ptr_equal(b->type, &wd_types[WD_F32]);
    assert_int_equal(b->name_size, 8);
    assert_int_equal(b->n_dims, 2);
    assert_int_equal(b->dims[0], 4);
    assert_int_equal(b->dims[1], 2);
    assert_int_equal(b->dims[2], 1);
    assert_int_equal(b->dims[3], 1);
    assert_int_equal(b->elements, 8);
    assert_int_equal(b->bytes, 32);
    assert_int_equal(b->offset, size - 32);
    assert_true(b->companion == UINT64_MAX);

    const struct wd_metadata *tokens = wd_model_metadata(m, 2);
    assert_string_equal(tokens->key, "sample.tokens");
    assert_int_equal(tokens->key_size, 13);
    assert_int_equal(tokens->type, WD_VALUE_ARRAY);
    assert_int_equal(tokens->bytes, 4 + 8 + 8 + 3 + 8 + 8 + 5);
    assert_int_equal(wd_model_metadata(m, 1)->bytes, 4);
    wd_model_unref(m);
  }
}

static void every_value_type(void **state) {
  static const size_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  struct fixture *f = *state;
  struct writer w = {0};
  w_start(&w, 3, 0, 2 * WD_VALUE_TYPE_COUNT);
  for (uint32_t type = 0; type < WD_VALUE_TYPE_COUNT; type++) {
    char key[16];
    snprintf(key, sizeof key, "k%u", type);
    w_key(&w, key, type);
    // A string of 4 bytes, an array without elements, or a scalar with all bits set (for a bool: neither 0 nor 1).
    if (type == WD_VALUE_STRING) {
      w_string(&w, "\xFF\0\n%", 4);
    } else if (type == WD_VALUE_ARRAY) {
      w_u32(&w, 12);
      w_u64(&w, 0);
    } else {
      w_fill(&w, 0xFF, sizes[type]);
    }
    snprintf(key, sizeof key, "a%u", type);
    w_key(&w, key, WD_VALUE_ARRAY);
    w_u32(&w, type);
    w_u64(&w, 3);
    for (int i = 0; i < 3; i++) {
      if (type == WD_VALUE_STRING) {
        w_text(&w, "x");
      } else if (type == WD_VALUE_ARRAY) {
        w_u32(&w, 0);
        w_u64(&w, 1);
        w_u8(&w, 7);
      } else {
        w_fill(&w, 0, sizes[type]);
      }
    }
  }
  size_t size = w.size;
  fixture_save(f, "x.gguf", &w);
  struct wd_model *m = fixture_open(f, "x.gguf");
  for (uint32_t type = 0; type < WD_VALUE_TYPE_COUNT; type++) {
    const struct wd_metadata *value = wd_model_metadata(m, 2 * (uint64_t)type);
    size_t one = type == WD_VALUE_STRING ? 9 : type == WD_VALUE_ARRAY ? 13 : sizes[type];
    assert_int_equal(value->type, type);
    assert_int_equal(value->bytes, type == WD_VALUE_STRING || type == WD_VALUE_ARRAY ? 12 : sizes[type]);
    assert_int_equal(wd_model_metadata(m, 2 * (uint64_t)type + 1)->bytes, 12 + 3 * one);
  }
  assert_int_equal(wd_model_part(m, 0)->data_offset, size);  // no tensors: no padding either
  wd_model_unref(m);
}

static void files_without_much(void **state) {
  struct fixture *f = *state;
  struct writer w = {0};
  w_start(&w, 3, 0, 0);
  accept(f, &w);
  w_start(&w, 3, 0, 0);
  w_fill(&w, 0xAB, 1000);
  accept(f, &w);
  // An empty tensor at the data's very end, a scalar, one with many dimensions.
  w_start(&w, 3, 3, 0);
  w_tensor(&w, "zero", 12, 3, DIMS(256, 0, 5), 32);
  w_tensor(&w, "scalar", 0, 0, NULL, 0);
  w_tensor(&w, "many", 0, 4, DIMS(1, 2, 1, 2), 0);
  w_pad(&w, 32);
  w_fill(&w, 0, 32);
  fixture_save(f, "x.gguf", &w);
  struct wd_model *m = fixture_open(f, "x.gguf");
  assert_int_equal(wd_model_tensor(m, 0)->elements, 0);
  assert_int_equal(wd_model_tensor(m, 0)->bytes, 0);
  assert_int_equal(wd_model_tensor(m, 0)->dims[1], 0);
  assert_int_equal(wd_model_tensor(m, 1)->elements, 1);
  assert_int_equal(wd_model_tensor(m, 1)->dims[0], 1);
  assert_int_equal(wd_model_tensor(m, 2)->elements, 4);
  wd_model_unref(m);
}

static void alignments(void **state) {
  struct fixture *f = *state;
  for (uint32_t alignment = 1; alignment <= 65536; alignment *= 2) {
    struct writer w = {0};
    w_start(&w, 3, 2, 1);
    w_key_u32(&w, "general.alignment", alignment);
    w_tensor(&w, "late", 0, 1, DIMS(1), 2 * (uint64_t)alignment + (alignment < 4 ? 4 : 0));
    w_tensor(&w, "early", 0, 1, DIMS(1), alignment);
    size_t end = w.size;
    w_pad(&w, alignment);
    size_t data = w.size;
    assert_true(data - end < alignment);
    w_fill(&w, 0, 3 * (size_t)alignment + 8);
    fixture_save(f, "x.gguf", &w);
    struct wd_model *m = fixture_open(f, "x.gguf");
    assert_int_equal(wd_model_info(m)->alignment, alignment);
    assert_int_equal(wd_model_part(m, 0)->data_offset, data);
    assert_int_equal(wd_model_tensor(m, 1)->offset, data + alignment);
    wd_model_unref(m);
  }
}

// Names are only names.
static void odd_names(void **state) {
  static const char *const names[] = {"../../etc/passwd",
                                      "/etc/passwd",
                                      "<script>",
                                      "%s%n%x",
                                      " ",
                                      "\n",
                                      "a\tb",
                                      "\xF0\x9F\x98\x80",
                                      "a'b",
                                      "$(x)",
                                      "*",
                                      "general.architecture",
                                      ".weight"};
  enum { N = sizeof names / sizeof *names };
  struct fixture *f = *state;
  struct writer w = {0};
  w_start(&w, 3, N, N);
  for (size_t i = 0; i < N; i++) {
    w_key_u32(&w, names[i], 1);
  }
  for (size_t i = 0; i < N; i++) {
    w_tensor(&w, names[i], 40, 1, DIMS(0), 0);
  }
  w_pad(&w, 32);
  fixture_save(f, "x.gguf", &w);
  struct wd_model *m = fixture_open(f, "x.gguf");
  for (size_t i = 0; i < N; i++) {
    assert_string_equal(wd_model_tensor(m, i)->name, names[i]);
    assert_ptr_equal(wd_model_find_tensor(m, names[i], strlen(names[i])), wd_model_tensor(m, i));
    assert_ptr_equal(wd_model_find_metadata(m, names[i], strlen(names[i])), wd_model_metadata(m, i));
    assert_int_equal(wd_model_tensor_index(m, wd_model_tensor(m, i)), i);
  }
  assert_null(wd_model_find_tensor(m, "", 0));
  assert_null(wd_model_find_tensor(m, "/etc/passwd!", 12));
  assert_null(wd_model_find_tensor(m, "/etc/passwd", 10));
  wd_model_unref(m);
}

static void architecture_and_title(void **state) {
  struct fixture *f = *state;
  struct writer w = {0};
  char name[400];
  w_start(&w, 3, 0, 2);
  w_key(&w, "general.architecture", WD_VALUE_STRING);
  w_string(&w, "a\xFFz", 3);
  memset(name, 'n', sizeof name);
  for (size_t i = 1; i + 2 <= sizeof name; i += 2) {
    memcpy(name + i, "\xC3\xBC", 2);
  }
  w_key(&w, "general.name", WD_VALUE_STRING);
  w_string(&w, name, sizeof name);
  fixture_save(f, "x.gguf", &w);
  struct wd_model *m = fixture_open(f, "x.gguf");
  assert_string_equal(wd_model_info(m)->architecture, "a\xEF\xBF\xBDz");
  assert_int_equal(strlen(wd_model_info(m)->title), 127);  // the 64th two-byte character would end at 129
  assert_memory_equal(wd_model_info(m)->title, name, 127);
  wd_model_unref(m);
  w_start(&w, 3, 0, 2);
  w_key_u32(&w, "general.architecture", 5);
  w_key_text(&w, "general.name", "");
  fixture_save(f, "x.gguf", &w);
  m = fixture_open(f, "x.gguf");
  assert_string_equal(wd_model_info(m)->architecture, "");
  wd_model_unref(m);
}

// ---------------------------------------------------------------------------------------------------- Wrong files

static void magic_and_version(void **state) {
  struct fixture *f = *state;
  struct writer w = {0};
  refuse(f, &w, 0, "the end is at byte 0", "");
  w_bytes(&w, "GGU", 3);
  refuse(f, &w, 0, "the end is at byte 3", "");
  w_sample(&w);
  w.data[0] = 'X';
  refuse(f, &w, 0, "not a GGUF file", "'XGUF'");
  static const uint32_t versions[] = {0, 4, 256, 0x10000, 0x7FFF0000, UINT32_MAX};
  for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
    w_sample(&w);
    w_set_u32(&w, 4, versions[i]);
    refuse(f, &w, 4, "version", "not known");
  }
  for (int big = 0; big < 2; big++) {
    w.big_endian = big;
    w_sample(&w);
    w_set_u32(&w, 4, 1);
    refuse(f, &w, 4, "version 1 is not supported", "convert the model again");
  }
  w.big_endian = false;
  w_sample(&w);
  w_set_u32(&w, 4, 0x03000000);
  refuse(f, &w, 8, "tensors", "counts look little-endian");
}

static void counts(void **state) {
  static const uint64_t absurd[] = {64,
                                    1 << 20,
                                    UINT64_C(1) << 32,
                                    UINT64_C(1) << 59,
                                    (UINT64_C(1) << 63) + 1,
                                    UINT64_MAX / 25 + 2,
                                    UINT64_MAX / 14 + 2,
                                    UINT64_MAX};
  struct fixture *f = *state;
  struct writer w = {0};
  for (size_t i = 0; i < sizeof absurd / sizeof *absurd; i++) {
    w_sample(&w);
    w_set_u64(&w, 8, absurd[i]);
    refuse(f, &w, 8, "tensors cannot stand in", "");
    w_sample(&w);
    w_set_u64(&w, 16, absurd[i]);
    refuse(f, &w, 16, "keys and 2 tensors cannot stand in", "");
  }
  // Each fits, both do not.
  w_start(&w, 3, 4, 7);
  w_fill(&w, 0, 120);
  refuse(f, &w, 16, "7 keys and 4 tensors cannot stand in the 120 bytes", "");
}

// A file of two keys, of which the second is to follow. Returns where.
static size_t one_key(struct writer *w) {
  w_start(w, 3, 0, 2);
  w_key_u32(w, "first", 1);
  return w->size;
}

static void keys(void **state) {
  struct fixture *f = *state;
  struct writer w = {0};
  size_t at;
  at = one_key(&w);
  w_key_u32(&w, "", 1);
  w_fill(&w, 0, 100);
  refuse(f, &w, at, "key 2 of 2: ", "empty");
  at = one_key(&w);
  w_key_u32(&w, "first", 1);
  w_fill(&w, 0, 100);
  refuse(f, &w, at, "key 'first': ", "twice");
  static const uint64_t sizes[] = {200, UINT64_C(1) << 31, UINT64_C(1) << 63, UINT64_MAX - 7, UINT64_MAX};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    at = one_key(&w);
    w_u64(&w, sizes[i]);
    w_fill(&w, 0, 100);
    refuse(f, &w, at, "key 2 of 2: ", "past the end");
  }
  at = one_key(&w);
  w_u64(&w, 65536);
  w_fill(&w, 'k', 65536);
  w_fill(&w, 0, 100);
  refuse(f, &w, at, "65536 bytes", "65535 is the most");
  one_key(&w);
  w_u64(&w, 65535);
  w_fill(&w, 'k', 65535);
  w_u32(&w, WD_VALUE_UINT8);
  w_u8(&w, 1);
  accept(f, &w);
  at = one_key(&w);
  w_string(&w, "a\0b", 3);
  w_fill(&w, 0, 100);
  refuse(f, &w, at + 9, "key 'a\\x00b': ", "NUL");
  at = one_key(&w);
  w_string(&w, "ab\xC3", 3);
  w_fill(&w, 0, 100);
  refuse(f, &w, at + 10, "key 'ab\\xC3': ", "UTF-8");
  static const uint32_t types[] = {13, 14, 255, 0x80000000, UINT32_MAX};
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    at = one_key(&w);
    w_key(&w, "k", types[i]);
    w_fill(&w, 0, 100);
    refuse(f, &w, at + 9, "key 'k': ", "the types are 0 to 12");
    at = one_key(&w);
    w_key(&w, "k", WD_VALUE_ARRAY);
    w_u32(&w, types[i]);
    w_u64(&w, 0);
    w_fill(&w, 0, 100);
    refuse(f, &w, at + 13, "key 'k': ", "the types are 0 to 12");
  }
}

static void values(void **state) {
  struct fixture *f = *state;
  struct writer w = {0};
  static const uint64_t sizes[] = {101, UINT64_C(1) << 40, UINT64_C(1) << 63, UINT64_MAX - 31, UINT64_MAX};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    w_start(&w, 3, 0, 1);
    w_key(&w, "k", WD_VALUE_STRING);
    size_t at = w_u64(&w, sizes[i]);
    w_fill(&w, 0, 100);
    refuse(f, &w, at, "key 'k': a string of", "past the end");
    // The second of an array's strings.
    w_start(&w, 3, 0, 1);
    w_key(&w, "k", WD_VALUE_ARRAY);
    w_u32(&w, WD_VALUE_STRING);
    w_u64(&w, 3);
    w_text(&w, "fine");
    at = w_u64(&w, sizes[i]);
    w_fill(&w, 0, 100);
    refuse(f, &w, at, "key 'k': a string of", "past the end");
  }
  // Counts whose bytes are too many, or wrap to few, for each type.
  for (uint32_t type = 0; type < WD_VALUE_TYPE_COUNT; type++) {
    const uint64_t element_counts[] = {
        101,       (UINT64_C(1) << 61) + 1, (UINT64_C(1) << 62) + 1, (UINT64_C(1) << 63) + 1, UINT64_MAX / 12 + 1,
        UINT64_MAX};
    for (size_t i = 0; i < sizeof element_counts / sizeof *element_counts; i++) {
      w_start(&w, 3, 0, 1);
      w_key(&w, "k", WD_VALUE_ARRAY);
      w_u32(&w, type);
      size_t at = w_u64(&w, element_counts[i]);
      w_fill(&w, 0, 100);
      refuse(f, &w, at, "key 'k': an array of", "past the end");
    }
  }
}

static void nested(struct writer *w, int depth, uint32_t innermost) {
  w_start(w, 3, 0, 1);
  w_key(w, "k", WD_VALUE_ARRAY);
  for (int i = 1; i < depth; i++) {
    w_u32(w, WD_VALUE_ARRAY);
    w_u64(w, 1);
  }
  w_u32(w, innermost);
  w_u64(w, 1);
  if (innermost == WD_VALUE_STRING) {
    w_text(w, "x");
  } else {
    w_u8(w, 1);
  }
}

static void nesting(void **state) {
  struct fixture *f = *state;
  struct writer w = {0};
  for (int depth = 1; depth <= WD_MAX_ARRAY_DEPTH; depth++) {
    nested(&w, depth, WD_VALUE_UINT8);
    accept(f, &w);
    nested(&w, depth, WD_VALUE_STRING);
    accept(f, &w);
  }
  static const int too_deep[] = {WD_MAX_ARRAY_DEPTH + 1, 1000, 300000};
  for (size_t i = 0; i < sizeof too_deep / sizeof *too_deep; i++) {
    nested(&w, too_deep[i], WD_VALUE_UINT8);
    refuse(f, &w, 24 + 13 + 12 * WD_MAX_ARRAY_DEPTH, "key 'k': ", "nested more than 8 deep");
  }
  // Wide at several levels, empty ones among them; then the same cut off.
  w_start(&w, 3, 0, 1);
  w_key(&w, "k", WD_VALUE_ARRAY);
  w_u32(&w, WD_VALUE_ARRAY);
  w_u64(&w, 3);
  for (uint64_t i = 0; i < 3; i++) {
    w_u32(&w, WD_VALUE_ARRAY);
    w_u64(&w, i);
    for (uint64_t k = 0; k < i; k++) {
      w_u32(&w, WD_VALUE_STRING);
      w_u64(&w, k);
      if (k) {
        w_text(&w, "string");
      }
    }
  }
  struct writer whole = {0};
  w_bytes(&whole, w.data, w.size);
  fixture_save(f, "x.gguf", &w);
  struct wd_model *m = fixture_open(f, "x.gguf");
  assert_int_equal(wd_model_metadata(m, 0)->bytes, whole.size - 37);
  wd_model_unref(m);
  while (--whole.size > 37) {
    w_save(&whole, f->dir, "x.gguf");
    fixture_refused(f, "x.gguf", WD_FAILED_PRECONDITION, "key 'k': ", NULL);
  }
  writer_free(&whole);
}

static void alignment_key(void **state) {
  struct fixture *f = *state;
  struct writer w = {0};
  static const uint32_t wrong[] = {0, 3, 33, 48, UINT32_MAX};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    w_start(&w, 3, 0, 1);
    w_key_u32(&w, "general.alignment", wrong[i]);
    w_fill(&w, 0, 64);
    refuse(f, &w, 24 + 8 + 17 + 4, "key 'general.alignment': ", "power of two");
  }
  for (uint32_t type = 0; type < WD_VALUE_TYPE_COUNT; type++) {
    if (type != WD_VALUE_UINT32) {
      w_start(&w, 3, 0, 1);
      w_key(&w, "general.alignment", type);
      w_u64(&w, 32);
      w_fill(&w, 0, 64);
      refuse(f, &w, 24 + 8 + 17, "key 'general.alignment': ", "must be uint32");
    }
  }
  // 2^31 puts the data beyond the end; without tensors there is no data.
  w_start(&w, 3, 1, 1);
  w_key_u32(&w, "general.alignment", 0x80000000);
  w_tensor(&w, "t", 0, 1, DIMS(1), 0);
  size_t end = w.size;
  w_fill(&w, 0, 64);
  refuse(f, &w, end, "the data would begin at byte 2147483648", "past the end");
  w_start(&w, 3, 0, 1);
  w_key_u32(&w, "general.alignment", 0x80000000);
  accept(f, &w);
}

// A file of one key and two tensors, of which the second is as told. Returns where that one begins.
static size_t second_tensor(struct writer *w, const char *name, size_t name_size, uint32_t type, uint32_t n_dims,
                            const uint64_t *dims, uint64_t offset) {
  w_start(w, 3, 2, 1);
  w_key_u32(w, "k", 1);
  w_tensor(w, "first", 0, 1, DIMS(8), 0);
  size_t at = w_string(w, name, name_size);
  w_u32(w, n_dims);
  for (uint32_t i = 0; i < n_dims && i < 8; i++) {
    w_u64(w, dims[i]);
  }
  w_u32(w, type);
  w_u64(w, offset);
  w_pad(w, 32);
  w_fill(w, 0, 64);
  return at;
}

static void tensor_names(void **state) {
  struct fixture *f = *state;
  struct writer w = {0};
  char name[66];
  memset(name, 'n', sizeof name);
  size_t at = second_tensor(&w, "", 0, 0, 1, DIMS(8), 32);
  refuse(f, &w, at, "tensor 2 of 2: ", "empty");
  at = second_tensor(&w, name, 65, 0, 1, DIMS(8), 32);
  refuse(f, &w, at, "tensor 2 of 2: ", "64 is the most");
  second_tensor(&w, name, 64, 0, 1, DIMS(8), 32);
  accept(f, &w);
  at = second_tensor(&w, "a\0x", 3, 0, 1, DIMS(8), 32);
  refuse(f, &w, at + 9, "tensor 'a\\x00x': ", "NUL");
  at = second_tensor(&w, "\xC0\xAF", 2, 0, 1, DIMS(8), 32);
  refuse(f, &w, at + 8, "tensor '\\xC0\\xAF': ", "UTF-8");
  at = second_tensor(&w, "first", 5, 0, 1, DIMS(8), 32);
  refuse(f, &w, at, "tensor 'first': ", "same name");
  static const uint64_t sizes[] = {1000, UINT64_C(1) << 63, UINT64_MAX};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    at = second_tensor(&w, "x", 1, 0, 1, DIMS(8), 32);
    w_set_u64(&w, at, sizes[i]);
    refuse(f, &w, at, "tensor 2 of 2: ", "past the end");
  }
}

static void shapes(void **state) {
  struct fixture *f = *state;
  struct writer w = {0};
  static const uint32_t many[] = {5, 1000, 0x80000000, UINT32_MAX};
  size_t at;
  for (size_t i = 0; i < sizeof many / sizeof *many; i++) {
    at = second_tensor(&w, "x", 1, 0, many[i], DIMS(1, 1, 1, 1, 1, 1, 1, 1), 32);
    refuse(f, &w, at + 9, "tensor 'x': ", "4 is the most");
  }
  static const uint64_t beyond[] = {UINT64_C(1) << 63, UINT64_MAX};
  for (size_t i = 0; i < 2; i++) {
    at = second_tensor(&w, "x", 1, 0, 2, DIMS(8, beyond[i]), 32);
    refuse(f, &w, at + 21, "dimension 2 is", "2^63 - 1 is the most");
  }
  static const uint64_t products[][4] = {{UINT64_C(1) << 32, UINT64_C(1) << 31, 1, 1},
                                         {UINT64_C(1) << 32, UINT64_C(1) << 32, 1, 1},
                                         {2, UINT64_C(1) << 62, 1, 1},
                                         {INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX},
                                         {0, INT64_MAX, 3, 1},  // no elements, but absurd
                                         {INT64_MAX, 3, 0, 1}};
  for (size_t i = 0; i < sizeof products / sizeof *products; i++) {
    at = second_tensor(&w, "x", 1, 0, 4, products[i], 32);
    refuse(f, &w, at + 13, "tensor 'x': ", "elements goes beyond");
  }
  at = second_tensor(&w, "x", 1, 0, 2, DIMS(16, (UINT64_C(1) << 58) + 1), 32);  // bytes wrap to 64
  refuse(f, &w, at + 13, "tensor 'x': ", "data goes beyond 64 bits");
  // Rows that are not whole blocks, for every type that has blocks.
  for (int t = 0; t < WD_TYPE_COUNT; t++) {
    uint32_t block = wd_types[t].block_elements;
    if (block > 1) {
      const uint64_t rows[] = {1, block / 2, block - 1, block + 1, block * 3 / 2};
      for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        at = second_tensor(&w, "x", 1, wd_types[t].id, 2, DIMS(rows[i], 2 * (uint64_t)block), 32);
        refuse(f, &w, at + 13, wd_types[t].name, "not whole blocks");
      }
      at = second_tensor(&w, "x", 1, wd_types[t].id, 0, NULL, 32);
      refuse(f, &w, at + 13, wd_types[t].name, "not whole blocks");
    }
  }
}

static void types(void **state) {
  struct fixture *f = *state;
  struct writer w = {0};
  static const uint32_t removed[] = {4, 5, 31, 32, 33, 36, 37, 38}, unknown[] = {43, 64, 200, 0x80000000, UINT32_MAX};
  for (size_t i = 0; i < sizeof removed / sizeof *removed; i++) {
    size_t at = second_tensor(&w, "x", 1, removed[i], 1, DIMS(256), 32);
    refuse(f, &w, at + 21, wd_type_removed(removed[i]), "removed from the format");
  }
  for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
    size_t at = second_tensor(&w, "x", 1, unknown[i], 1, DIMS(256), 32);
    refuse(f, &w, at + 21, "tensor 'x': ", "not known");
  }
  // Every type that is known opens, with the sizes its table says.
  for (int t = 0; t < WD_TYPE_COUNT; t++) {
    w_start(&w, 3, 1, 0);
    w_tensor(&w, "x", wd_types[t].id, 2, DIMS(512, 3), 0);
    w_pad(&w, 32);
    w_fill(&w, 0, 512 / wd_types[t].block_elements * wd_types[t].block_bytes * 3);
    size_t size = w.size;
    fixture_save(f, "x.gguf", &w);
    struct wd_model *m = fixture_open(f, "x.gguf");
    assert_ptr_equal(wd_model_tensor(m, 0)->type, &wd_types[t]);
    assert_int_equal(wd_model_tensor(m, 0)->offset + wd_model_tensor(m, 0)->bytes, size);
    wd_model_unref(m);
  }
}

static void offsets(void **state) {
  struct fixture *f = *state;
  struct writer w = {0};
  static const uint64_t crooked[] = {1, 16, 31, 33, UINT64_MAX};
  for (size_t i = 0; i < sizeof crooked / sizeof *crooked; i++) {
    size_t at = second_tensor(&w, "x", 1, 0, 1, DIMS(8), crooked[i]);
    refuse(f, &w, at + 25, "tensor 'x': ", "not a multiple of the alignment");
  }
  static const uint64_t outside[] = {64, 96, UINT64_C(1) << 40, UINT64_C(1) << 63, UINT64_MAX - 31, UINT64_MAX - 159};
  for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
    size_t at = second_tensor(&w, "x", 1, 0, 1, DIMS(8), outside[i]);
    refuse(f, &w, at + 25, "tensor 'x': ", "past the end");
  }
  size_t at = second_tensor(&w, "x", 1, 0, 1, DIMS(9), 32);
  refuse(f, &w, at + 25, "tensor 'x': its data of 36 bytes at offset 32", "past the end");
  second_tensor(&w, "x", 1, 0, 1, DIMS(9), 0);  // overlaps the first
  accept(f, &w);
  second_tensor(&w, "x", 1, 0, 1, DIMS(0), 64);  // empty, at the very end
  accept(f, &w);
  at = second_tensor(&w, "x", 1, 0, 1, DIMS(0), 96);
  refuse(f, &w, at + 25, "tensor 'x': ", "past the end");
}

// Tensors may overlap, so a small file could claim to be a model of any size: that is bounded. Sparse files may be as
// large as they like.
static void sums(void **state) {
  struct fixture *f = *state;
  char path[sizeof f->path + 8], name[16];
  snprintf(path, sizeof path, "%s/x.gguf", f->path);
  const uint64_t elements = UINT64_C(1) << 46, bytes = elements / 128 * 18;  // of a Q1_0 tensor
  for (uint64_t n = 1; n <= WD_MAX_OVERLAP + 1; n++) {
    struct writer w = {0};
    w_start(&w, 3, n, 0);
    for (uint64_t i = 0; i < n; i++) {
      snprintf(name, sizeof name, "t%llu", (unsigned long long)i);
      w_tensor(&w, name, 41, 1, &elements, 0);
    }
    w_pad(&w, 32);
    size_t data = w.size;
    fixture_save(f, "x.gguf", &w);
    if (truncate(path, (off_t)(data + bytes)) != 0) {
      skip();  // a file system without such files
    }
    if (n <= WD_MAX_OVERLAP) {
      struct wd_model *m = fixture_open(f, "x.gguf");
      assert_int_equal(wd_model_info(m)->elements, n * elements);
      assert_int_equal(wd_model_info(m)->stored_bytes, n * bytes);
      assert_int_equal(wd_model_info(m)->f16_bytes, n * elements * 2);
      wd_model_unref(m);
    } else {
      fixture_refused(f, "x.gguf", WD_FAILED_PRECONDITION, "tensor 't4': ", at_byte(data), "overlap", NULL);
    }
  }
}

// ----------------------------------------------------------------------------------------- Cut off and damaged files

static void truncation_at_every_byte(void **state) {
  struct fixture *f = *state;
  for (int big = 0; big < 2; big++) {
    struct writer w = {.big_endian = big};
    w_rich_sample(&w);
    size_t whole = w.size;
    for (size_t size = 0; size < whole; size++) {
      w.size = size;
      w_save(&w, f->dir, "x.gguf");
      fixture_refused(f, "x.gguf", WD_FAILED_PRECONDITION, "'x.gguf', byte ", NULL);
    }
    w.size = whole;
    accept(f, &w);
  }
}

// Whatever one byte is changed to, opening ends with a model or a clean refusal; and what opens can be read.
static void every_byte_changed(void **state) {
  struct fixture *f = *state;
  struct writer w = {0};
  unsigned opened = 0, refused = 0;
  w_rich_sample(&w);
  size_t header = w.size - 52;
  for (size_t i = 0; i < header; i++) {
    unsigned char right = w.data[i];
    for (unsigned k = 0; k < 12; k++) {
      static const unsigned char others[] = {0x00, 0xFF, 0x7F, 0x80};
      w.data[i] = k < 8 ? right ^ (unsigned char)(1u << k) : others[k - 8];
      w_save(&w, f->dir, "x.gguf");
      struct wd_model *m;
      struct wd_error err = {WD_OK, ""};
      enum wd_status status = wd_model_open(f->root, "x.gguf", NULL, &m, &err);
      if (status != WD_OK) {
        refused++;
        assert_error(status, &err, WD_FAILED_PRECONDITION, "'x.gguf', byte ", NULL);
        continue;
      }
      opened++;
      for (uint64_t t = 0; t < wd_model_info(m)->n_tensors; t++) {
        struct wd_companion companion;
        const struct wd_tensor *tensor = wd_model_tensor(m, t);
        char *data = malloc(tensor->bytes + 1);
        assert_int_equal(wd_model_read(m, 0, tensor->offset, data, tensor->bytes, &err), WD_OK);
        free(data);
        wd_model_companion(m, tensor, &companion, &err);
      }
      for (uint64_t t = 0; t < wd_model_info(m)->n_metadata; t++) {
        struct wd_value_cursor *cursor;
        assert_int_equal(wd_value_open(m, wd_model_metadata(m, t), &cursor, &err), WD_OK);
        assert_int_equal(wd_value_skip(cursor, wd_model_metadata(m, t)->type, &err), WD_OK);
        wd_value_close(cursor);
      }
      wd_model_unref(m);
    }
    w.data[i] = right;
  }
  writer_free(&w);
  assert_true(opened > 500 && refused > 500);  // both kinds were met
}

// The file is shorter than it was when it was opened: as if it shrank before each byte of its header was read.
static void files_that_shrink_while_they_are_parsed(void **state) {
  struct fixture *f = *state;
  struct writer w = {0};
  w_rich_sample(&w);
  size_t whole = w.size;
  for (size_t size = 0; size < whole; size++) {
    struct wd_error err = {WD_OK, ""};
    struct wd_contents contents = {.limits = wd_model_default_limits, .max_bytes = UINT64_MAX};
    struct wd_header header;
    struct stat st;
    int fd;
    w.size = size;
    w_save(&w, f->dir, "x.gguf");
    assert_int_equal(wd_root_open_file(f->root, "x.gguf", &fd, &st, &err), WD_OK);
    const struct wd_header_file file = {fd, "x.gguf", whole, 0};
    enum wd_status status = wd_header_parse(&contents, &file, &header, &err);
    assert_error(status, &err, WD_FAILED_PRECONDITION, at_byte(size), "was longer when it was opened", NULL);
    wd_contents_free(&contents);
    close(fd);
  }
  writer_free(&w);
}

// ---------------------------------------------------------------------------------------------------------- Size

static void many_names(const struct fixture *f, uint64_t n) {
  struct writer w = {0};
  char name[40];
  w_start(&w, 3, n, n);
  for (uint64_t i = 0; i < n; i++) {
    snprintf(name, sizeof name, "key.%llu", (unsigned long long)i);
    w_key_u32(&w, name, (uint32_t)i);
  }
  for (uint64_t i = 0; i < n; i++) {
    snprintf(name, sizeof name, "blk.%llu.weight", (unsigned long long)i);
    w_tensor(&w, name, 40, 2, DIMS(64, 1), 64 * i);
  }
  w_pad(&w, 32);
  w_fill(&w, 0, 64 * n);
  fixture_save(f, "x.gguf", &w);
  struct wd_model *m = fixture_open(f, "x.gguf");
  assert_int_equal(wd_model_info(m)->n_tensors, n);
  assert_int_equal(wd_model_info(m)->n_metadata, n);
  assert_true(wd_model_info(m)->memory_bytes < n * 320);
  for (uint64_t i = 0; i < n; i++) {
    int size = snprintf(name, sizeof name, "blk.%llu.weight", (unsigned long long)i);
    const struct wd_tensor *t = wd_model_find_tensor(m, name, (size_t)size);
    assert_non_null(t);
    assert_int_equal(wd_model_tensor_index(m, t), i);
    size = snprintf(name, sizeof name, "key.%llu", (unsigned long long)i);
    assert_ptr_equal(wd_model_find_metadata(m, name, (size_t)size), wd_model_metadata(m, i));
  }
  assert_null(wd_model_find_tensor(m, "blk.x.weight", 12));
  wd_model_unref(m);
}

static void thousands_of_names(void **state) {
  many_names(*state, 20000);
  many_names(*state, 100000);
}

static void large_metadata(void **state) {
  struct fixture *f = *state;
  struct writer w = {0};
  w_start(&w, 3, 0, 2);
  w_key(&w, "tokens", WD_VALUE_ARRAY);
  w_u32(&w, WD_VALUE_STRING);
  w_u64(&w, 1000000);
  for (uint64_t i = 0; i < 1000000; i++) {
    w_string(&w, "a token of some length", i % 23);
  }
  w_key(&w, "scores", WD_VALUE_ARRAY);
  w_u32(&w, WD_VALUE_FLOAT32);
  w_u64(&w, 8000000);
  w_fill(&w, 0, 32000000);
  assert_true(w.size > 50000000);
  fixture_save(f, "x.gguf", &w);
  struct wd_model *m = fixture_open(f, "x.gguf");
  assert_true(wd_model_info(m)->memory_bytes < 20000);  // values stay in the file
  assert_int_equal(wd_model_metadata(m, 1)->bytes, 32000012);
  wd_model_unref(m);
}

static void limits(void **state) {
  struct fixture *f = *state;
  struct writer w = {0};
  w_sample(&w);
  size_t end = w.size - 64;  // of the directory, and some padding
  fixture_save(f, "x.gguf", &w);
  struct wd_model *m;
  struct wd_error err;
  struct wd_model_limits l = {.max_header_bytes = end, .max_tensors = 2, .max_metadata = 4, .max_parts = 1};
  assert_int_equal(wd_model_open(f->root, "x.gguf", &l, &m, &err), WD_OK);
  wd_model_unref(m);
  l.max_tensors = 1;
  assert_error(wd_model_open(f->root, "x.gguf", &l, &m, &err), &err, WD_RESOURCE_EXHAUSTED, "x.gguf", "max_tensors",
               NULL);
  l.max_tensors = 2;
  l.max_metadata = 3;
  assert_error(wd_model_open(f->root, "x.gguf", &l, &m, &err), &err, WD_RESOURCE_EXHAUSTED, "x.gguf", "max_metadata",
               NULL);
  l.max_metadata = 4;
  for (l.max_header_bytes = 0; l.max_header_bytes < end - 31; l.max_header_bytes += 3) {
    assert_error(wd_model_open(f->root, "x.gguf", &l, &m, &err), &err, WD_RESOURCE_EXHAUSTED, "x.gguf",
                 "max_header_bytes", NULL);
  }
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      IN_FOLDER(versions_and_byte_orders),
      IN_FOLDER(every_value_type),
      IN_FOLDER(files_without_much),
      IN_FOLDER(alignments),
      IN_FOLDER(odd_names),
      IN_FOLDER(architecture_and_title),
      IN_FOLDER(magic_and_version),
      IN_FOLDER(counts),
      IN_FOLDER(keys),
      IN_FOLDER(values),
      IN_FOLDER(nesting),
      IN_FOLDER(alignment_key),
      IN_FOLDER(tensor_names),
      IN_FOLDER(shapes),
      IN_FOLDER(types),
      IN_FOLDER(offsets),
      IN_FOLDER(sums),
      IN_FOLDER(truncation_at_every_byte),
      IN_FOLDER(every_byte_changed),
      IN_FOLDER(files_that_shrink_while_they_are_parsed),
      IN_FOLDER(thousands_of_names),
      IN_FOLDER(large_metadata),
      IN_FOLDER(limits),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
