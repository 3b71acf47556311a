// SPDX-License-Identifier: Apache-2.0
// Models as wholes: split ones, revisions, companions, reading, and files that change.
#include "service/gguf/model.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "service/gguf/value.h"
#include "tests/gguf/fixture.h"

#define DIMS(...) ((const uint64_t[]){__VA_ARGS__})

// --------------------------------------------------------------------------------------------------- Split models

// What a part says and holds: two F32 tensors "t<2 * number>.weight" and the next, of one element that is its number.
struct part {
  const char *name;
  uint16_t no, count;
  int32_t tensors;
  int number;
  bool big_endian;
  void (*more)(struct writer *w);  // writes one further key
};

static void save_part(const struct fixture *f, const struct part *part) {
  struct writer w = {.big_endian = part->big_endian};
  char name[32];
  w_start(&w, 3, 2, 3 + (part->number == 0) + (part->more != NULL));
  if (part->number == 0) {
    w_key_text(&w, "general.architecture", "split");
  }
  w_key_split(&w, part->no, part->count, part->tensors);
  if (part->more) {
    part->more(&w);
  }
  for (int i = 0; i < 2; i++) {
    snprintf(name, sizeof name, "t%d.weight", 2 * part->number + i);
    w_tensor(&w, name, 0, 1, DIMS(1), 32 * (uint64_t)i);
  }
  w_pad(&w, 32);
  for (int i = 0; i < 2; i++) {
    w_f32(&w, (float)(2 * part->number + i));
    w_fill(&w, 0, i ? 0 : 28);
  }
  fixture_save(f, part->name, &w);
}

static const struct part three[] = {{"m-00001-of-00003.gguf", 0, 3, 6, 0, false, NULL},
                                    {"m-00002-of-00003.gguf", 1, 3, 6, 1, false, NULL},
                                    {"m-00003-of-00003.gguf", 2, 3, 6, 2, false, NULL}};

static void save_three(const struct fixture *f) {
  for (int i = 0; i < 3; i++) {
    save_part(f, &three[i]);
  }
}

static void check_three(struct wd_model *m, const char *name) {
  const struct wd_model_info *info = wd_model_info(m);
  assert_string_equal(info->name, name);
  assert_string_equal(info->architecture, "split");
  assert_int_equal(info->n_parts, 3);
  assert_int_equal(info->n_tensors, 6);
  assert_int_equal(info->n_metadata, 4);  // the first part's
  assert_int_equal(info->elements, 6);
  uint64_t bytes = 0;
  for (uint32_t p = 0; p < 3; p++) {
    bytes += wd_model_part(m, p)->file_bytes;
  }
  assert_int_equal(info->file_bytes, bytes);
  for (uint64_t i = 0; i < 6; i++) {
    struct wd_error err;
    const struct wd_tensor *t = wd_model_tensor(m, i);
    float value = -1;
    assert_int_equal(t->part, i / 2);
    assert_int_equal(wd_model_read(m, t->part, t->offset, &value, sizeof value, &err), WD_OK);
    assert_true(value == (float)i);
  }
  assert_int_equal(wd_model_metadata(m, 1)->part, 0);
}

static void split_by_any_name(void **state) {
  struct fixture *f = *state;
  save_three(f);
  static const char *const names[] = {"m.gguf", "m-00001-of-00003.gguf", "m-00002-of-00003.gguf",
                                      "m-00003-of-00003.gguf"};
  char revision[WD_REVISION_SIZE] = "";
  for (size_t i = 0; i < 4; i++) {
    struct wd_model *m = fixture_open(f, names[i]);
    check_three(m, "m.gguf");
    if (i > 0) {
      assert_string_equal(wd_model_info(m)->revision, revision);
    }
    memcpy(revision, wd_model_info(m)->revision, sizeof revision);
    wd_model_unref(m);
  }
  fixture_refused(f, "m", WD_NOT_FOUND, "'m'", NULL);
  fixture_refused(f, "m-00001-of-00002.gguf", WD_NOT_FOUND, NULL);
  fixture_refused(f, "m-00004-of-00003.gguf", WD_NOT_FOUND, NULL);
  fixture_refused(f, "n.gguf", WD_NOT_FOUND, "'n.gguf'", NULL);
  fixture_refused(f, "nowhere/m.gguf", WD_NOT_FOUND, "'nowhere/m.gguf'", NULL);
  fixture_refused(f, "../m.gguf", WD_PERMISSION_DENIED, NULL);
}

static void split_in_a_folder(void **state) {
  struct fixture *f = *state;
  assert_int_equal(mkdirat(f->dir, "d", 0755), 0);
  save_three(f);
  for (int i = 0; i < 3; i++) {
    char path[64];
    snprintf(path, sizeof path, "d/%s", three[i].name);
    assert_int_equal(renameat(f->dir, three[i].name, f->dir, path), 0);
  }
  struct wd_model *m = fixture_open(f, "d/m.gguf");
  check_three(m, "d/m.gguf");
  wd_model_unref(m);
  m = fixture_open(f, "d/m-00002-of-00003.gguf");
  check_three(m, "d/m.gguf");
  wd_model_unref(m);
}

static void a_file_of_the_very_name_wins(void **state) {
  struct fixture *f = *state;
  struct writer w = {0};
  save_three(f);
  w_sample(&w);
  fixture_save(f, "m.gguf", &w);
  struct wd_model *m = fixture_open(f, "m.gguf");
  assert_string_equal(wd_model_info(m)->architecture, "sample");
  wd_model_unref(m);
  m = fixture_open(f, "m-00003-of-00003.gguf");
  check_three(m, "m-00001-of-00003.gguf");  // m.gguf would be another model
  wd_model_unref(m);
}

static void two_splits_of_one_name(void **state) {
  struct fixture *f = *state;
  save_three(f);
  save_part(f, &(struct part){"m-00001-of-00001.gguf", 0, 1, 2, 0, false, NULL});
  fixture_refused(f, "m.gguf", WD_FAILED_PRECONDITION, "'m.gguf'", "name one of the parts", NULL);
  struct wd_model *m = fixture_open(f, "m-00001-of-00001.gguf");
  assert_string_equal(wd_model_info(m)->name, "m-00001-of-00001.gguf");
  wd_model_unref(m);
  m = fixture_open(f, "m-00002-of-00003.gguf");
  assert_string_equal(wd_model_info(m)->name, "m-00001-of-00003.gguf");
  wd_model_unref(m);
}

static void missing_parts(void **state) {
  struct fixture *f = *state;
  for (int gone = 0; gone < 3; gone++) {
    save_three(f);
    assert_int_equal(unlinkat(f->dir, three[gone].name, 0), 0);
    char words[32];
    snprintf(words, sizeof words, "part %d of 3 is missing", gone + 1);
    fixture_refused(f, "m.gguf", WD_FAILED_PRECONDITION, words, three[gone].name, NULL);
    fixture_refused(f, three[(gone + 1) % 3].name, WD_FAILED_PRECONDITION, words, three[gone].name, NULL);
    fixture_refused(f, three[gone].name, WD_NOT_FOUND, three[gone].name, NULL);
  }
  save_three(f);
  assert_int_equal(unlinkat(f->dir, three[1].name, 0), 0);
  assert_int_equal(symlinkat("/etc/passwd", f->dir, three[1].name), 0);
  fixture_refused(f, "m.gguf", WD_PERMISSION_DENIED, three[1].name, NULL);
}

static void parts_that_disagree(void **state) {
  static const struct {
    struct part part;  // in place of the second
    const char *words;
  } cases[] = {
      {{"m-00002-of-00003.gguf", 2, 3, 6, 1, false, NULL}, "split.no is 2"},
      {{"m-00002-of-00003.gguf", 0, 3, 6, 1, false, NULL}, "split.no is 0"},
      {{"m-00002-of-00003.gguf", 65535, 3, 6, 1, false, NULL}, "split.no is 65535"},
      {{"m-00002-of-00003.gguf", 1, 2, 6, 1, false, NULL}, "split.count is 2"},
      {{"m-00002-of-00003.gguf", 1, 0, 6, 1, false, NULL}, "split.count is 0"},
      {{"m-00002-of-00003.gguf", 1, 3, 7, 1, false, NULL}, "split.tensors.count is 7 here, but 6"},
      {{"m-00002-of-00003.gguf", 1, 3, -6, 1, false, NULL}, "split.tensors.count is -6"},
      {{"m-00002-of-00003.gguf", 1, 3, 6, 1, true, NULL}, "big-endian"},
      {{"m-00002-of-00003.gguf", 1, 3, 6, 2, false, NULL}, "same name"},  // the tensors of the third
  };
  struct fixture *f = *state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    save_three(f);
    save_part(f, &cases[i].part);
    fixture_refused(f, "m.gguf", WD_FAILED_PRECONDITION, ", byte ", cases[i].words, ".gguf'", NULL);
  }
  // All parts agree, on a wrong number.
  for (int32_t tensors = 5; tensors <= 7; tensors++) {
    for (int i = 0; i < 3; i++) {
      struct part part = three[i];
      part.tensors = tensors;
      save_part(f, &part);
    }
    if (tensors == 6) {
      wd_model_unref(fixture_open(f, "m.gguf"));
    } else {
      fixture_refused(f, "m.gguf", WD_FAILED_PRECONDITION, "'m-00001-of-00003.gguf', byte ", "hold 6 tensors", NULL);
    }
  }
}

// Parts named as such without, or with wrongly typed, split keys.
static void split_keys(void **state) {
  struct fixture *f = *state;
  static const char *const keys[] = {"split.no", "split.count", "split.tensors.count"};
  static const uint32_t right[] = {WD_VALUE_UINT16, WD_VALUE_UINT16, WD_VALUE_INT32};
  for (int broken = 0; broken < 3; broken++) {
    for (int missing = 0; missing < 2; missing++) {
      struct writer w = {0};
      save_three(f);
      w_start(&w, 3, 2, 3);
      for (int k = 0; k < 3; k++) {
        const int values[] = {1, 3, 6};
        bool wrong = k == broken;
        w_key(&w, wrong && missing ? "other" : keys[k], wrong && !missing ? WD_VALUE_UINT32 : right[k]);
        if (k < 2 && !(wrong && !missing)) {
          w_u16(&w, (uint16_t)values[k]);
        } else {
          w_u32(&w, (uint32_t)values[k]);
        }
      }
      w_tensor(&w, "t2.weight", 0, 1, DIMS(0), 0);
      w_tensor(&w, "t3.weight", 0, 1, DIMS(0), 0);
      w_pad(&w, 32);
      fixture_save(f, three[1].name, &w);
      fixture_refused(f, "m.gguf", WD_FAILED_PRECONDITION, three[1].name, keys[broken],
                      missing ? "no key" : "its type is uint32", NULL);
    }
  }
}

static void files_that_are_no_parts(void **state) {
  struct fixture *f = *state;
  // Says that it is a part, but is not named so.
  save_part(f, &(struct part){"x.gguf", 0, 3, 6, 0, false, NULL});
  fixture_refused(f, "x.gguf", WD_FAILED_PRECONDITION, "one of 3 parts", "rename", NULL);
  // Says that it is the only part, or was merged.
  for (uint16_t count = 0; count < 2; count++) {
    save_part(f, &(struct part){"x.gguf", 0, count, 2, 0, false, NULL});
    wd_model_unref(fixture_open(f, "x.gguf"));
    save_part(f, &(struct part){"x-00001-of-00001.gguf", 0, count, 2, 0, false, NULL});
    struct wd_model *m = fixture_open(f, "x-00001-of-00001.gguf");
    assert_int_equal(wd_model_info(m)->n_parts, 1);
    wd_model_unref(m);
    save_part(f, &(struct part){"x-00001-of-00001.gguf", 0, count, -1, 0, false, NULL});
    fixture_refused(f, "x-00001-of-00001.gguf", WD_FAILED_PRECONDITION, "split.tensors.count is -1", NULL);
  }
  save_part(f, &(struct part){"x.gguf", 0, 1, 3, 0, false, NULL});
  fixture_refused(f, "x.gguf", WD_FAILED_PRECONDITION, "split.tensors.count is 3", NULL);
  save_part(f, &(struct part){"x.gguf", 1, 1, 2, 0, false, NULL});
  fixture_refused(f, "x.gguf", WD_FAILED_PRECONDITION, "split.no is 1", NULL);
  // Named as the only part without saying so.
  struct writer w = {0};
  w_sample(&w);
  fixture_save(f, "y-00001-of-00001.gguf", &w);
  struct wd_model *m = fixture_open(f, "y.gguf");
  assert_string_equal(wd_model_info(m)->name, "y.gguf");
  wd_model_unref(m);
}

static void one_name(struct writer *w) {
  w_key_text(w, "general.name", "Model");
}

static void other_name(struct writer *w) {
  w_key_text(w, "general.name", "Other");
}

static void alignment_64(struct writer *w) {
  w_key_u32(w, "general.alignment", 64);
}

static void second_split_count(struct writer *w) {
  w_key(w, "split.count", WD_VALUE_UINT16);
  w_u16(w, 3);
}

static void keys_over_parts(void **state) {
  struct fixture *f = *state;
  // The first part's value counts.
  save_three(f);
  save_part(f, &(struct part){three[0].name, 0, 3, 6, 0, false, one_name});
  save_part(f, &(struct part){three[2].name, 2, 3, 6, 2, false, other_name});
  struct wd_model *m = fixture_open(f, "m.gguf");
  assert_string_equal(wd_model_info(m)->title, "Model");
  assert_int_equal(wd_model_info(m)->n_metadata, 5);
  wd_model_unref(m);
  // A key of a later part alone is listed.
  save_three(f);
  save_part(f, &(struct part){three[2].name, 2, 3, 6, 2, false, other_name});
  m = fixture_open(f, "m.gguf");
  assert_string_equal(wd_model_info(m)->title, "Other");
  assert_int_equal(wd_model_find_metadata(m, "general.name", 12)->part, 2);
  wd_model_unref(m);
  // Twice in one part is refused, also where an earlier part has it.
  save_three(f);
  save_part(f, &(struct part){three[1].name, 1, 3, 6, 1, false, second_split_count});
  fixture_refused(f, "m.gguf", WD_FAILED_PRECONDITION, three[1].name, "key 'split.count': ", "twice", NULL);
  // An alignment holds for its own part: offsets of 32 are wrong in the second now, and right in the others.
  save_three(f);
  save_part(f, &(struct part){three[1].name, 1, 3, 6, 1, false, alignment_64});
  fixture_refused(f, "m.gguf", WD_FAILED_PRECONDITION, three[1].name, "multiple of the alignment, 64", NULL);
}

static void part_limits(void **state) {
  struct fixture *f = *state;
  struct wd_model *m;
  struct wd_error err;
  struct wd_model_limits l = wd_model_default_limits;
  save_three(f);
  l.max_parts = 2;
  assert_error(wd_model_open(f->root, "m.gguf", &l, &m, &err), &err, WD_RESOURCE_EXHAUSTED, "max_parts", NULL);
  assert_error(wd_model_open(f->root, three[1].name, &l, &m, &err), &err, WD_RESOURCE_EXHAUSTED, "max_parts", NULL);
  // The other limits hold over all parts.
  l.max_parts = 3;
  l.max_tensors = 5;
  assert_error(wd_model_open(f->root, "m.gguf", &l, &m, &err), &err, WD_RESOURCE_EXHAUSTED, "max_tensors",
               three[2].name, NULL);
  l.max_tensors = 6;
  l.max_header_bytes = wd_model_default_limits.max_header_bytes;
  assert_int_equal(wd_model_open(f->root, "m.gguf", &l, &m, &err), WD_OK);
  uint64_t header_bytes = 0;
  for (uint32_t p = 0; p < 3; p++) {
    header_bytes += wd_model_part(m, p)->data_offset;
  }
  wd_model_unref(m);
  l.max_header_bytes = header_bytes - 100;
  assert_error(wd_model_open(f->root, "m.gguf", &l, &m, &err), &err, WD_RESOURCE_EXHAUSTED, "max_header_bytes",
               three[2].name, NULL);
}

// ------------------------------------------------------------------------------------------------------ Revisions

static void revision_of(const struct fixture *f, const char *path, char *revision) {
  struct wd_model *m = fixture_open(f, path);
  memcpy(revision, wd_model_info(m)->revision, WD_REVISION_SIZE);
  assert_int_equal(strspn(revision, "0123456789abcdef"), WD_REVISION_SIZE - 1);
  wd_model_unref(m);
}

static void revisions(void **state) {
  struct fixture *f = *state;
  char first[WD_REVISION_SIZE], other[WD_REVISION_SIZE];
  struct writer w = {0};
  w_sample(&w);
  size_t size = w.size;
  w_save(&w, f->dir, "x.gguf");
  revision_of(f, "x.gguf", first);
  // The same bytes under another name, in another file, at another time.
  assert_int_equal(mkdirat(f->dir, "d", 0755), 0);
  w_save(&w, f->dir, "d/y.gguf");
  struct timespec times[2] = {{1, 0}, {1, 0}};
  assert_int_equal(utimensat(f->dir, "d/y.gguf", times, 0), 0);
  revision_of(f, "d/y.gguf", other);
  assert_string_equal(first, other);
  // Tensor data does not count; every byte of the header does, and the size.
  w.data[size - 1] ^= 1;
  w_save(&w, f->dir, "x.gguf");
  revision_of(f, "x.gguf", other);
  assert_string_equal(first, other);
  w_fill(&w, 0, 1);
  w_save(&w, f->dir, "x.gguf");
  revision_of(f, "x.gguf", other);
  assert_string_not_equal(first, other);
  w.size = size;
  w.data[24 + 8] = 'G';  // the first letter of the first key
  fixture_save(f, "x.gguf", &w);
  revision_of(f, "x.gguf", other);
  assert_string_not_equal(first, other);
}

// A header of many buffers: a byte anywhere in it counts.
static void revisions_of_large_headers(void **state) {
  struct fixture *f = *state;
  struct writer w = {0};
  char first[WD_REVISION_SIZE], other[WD_REVISION_SIZE];
  w_start(&w, 3, 0, 3);
  w_key(&w, "bytes", WD_VALUE_ARRAY);
  w_u32(&w, WD_VALUE_UINT8);
  w_u64(&w, 1 << 20);
  size_t bytes_at = w_fill(&w, 1, 1 << 20);
  w_key(&w, "strings", WD_VALUE_ARRAY);
  w_u32(&w, WD_VALUE_STRING);
  w_u64(&w, 50000);
  for (int i = 0; i < 50000; i++) {
    w_text(&w, "text");
  }
  size_t last = w_key(&w, "last", WD_VALUE_UINT8) + 16;
  w_u8(&w, 1);
  w_save(&w, f->dir, "x.gguf");
  revision_of(f, "x.gguf", first);
  const size_t places[] = {
      bytes_at, 262143, 262144, bytes_at + 700000, bytes_at + (1 << 20) - 1, last - 17 - 12 * 20000 - 1, last};
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    w.data[places[i]] ^= 2;
    w_save(&w, f->dir, "x.gguf");
    revision_of(f, "x.gguf", other);
    assert_string_not_equal(first, other);
    w.data[places[i]] ^= 2;
  }
  w_save(&w, f->dir, "x.gguf");
  revision_of(f, "x.gguf", other);
  assert_string_equal(first, other);
  writer_free(&w);
}

// ----------------------------------------------------------------------------------------------------- Companions

static const struct wd_tensor *find(const struct wd_model *m, const char *name) {
  const struct wd_tensor *t = wd_model_find_tensor(m, name, strlen(name));
  assert_non_null(t);
  return t;
}

static void companions_by_name(void **state) {
  static const struct {
    const char *tensor, *companion;
  } cases[] = {{"a.weight", "a.scale"},
               {"b.weight", "b.weight.scale"},
               {"c.weight", "c.scale"},  // both are there
               {"d", "d.scale"},
               {"e.weight", NULL},
               {".weight", ".scale"},
               {"g.weights", "g.weights.scale"},
               {"weight", "weight.scale"},
               {"n123456789n123456789n123456789n123456789n123456789n123456.weight",
                "n123456789n123456789n123456789n123456789n123456789n123456.scale"}};
  enum { N = sizeof cases / sizeof *cases };
  struct fixture *f = *state;
  struct writer w = {0};
  w_start(&w, 3, 2 * N + 2, 0);
  for (size_t i = 0; i < N; i++) {
    w_tensor(&w, cases[i].tensor, 40, 1, DIMS(0), 0);
    w_tensor(&w, cases[i].companion ? cases[i].companion : "lonely", 0, 1, DIMS(1), 0);
  }
  w_tensor(&w, "c.weight.scale", 0, 1, DIMS(1), 0);
  w_tensor(&w, "lonely.weight", 8, 1, DIMS(0), 0);  // another type is not scaled
  w_pad(&w, 32);
  w_f32(&w, 2);
  fixture_save(f, "x.gguf", &w);
  struct wd_model *m = fixture_open(f, "x.gguf");
  for (size_t i = 0; i < N; i++) {
    struct wd_companion companion;
    struct wd_error err;
    const struct wd_tensor *t = find(m, cases[i].tensor);
    assert_int_equal(wd_model_companion(m, t, &companion, &err), WD_OK);
    if (cases[i].companion) {
      assert_int_equal(t->companion, wd_model_tensor_index(m, find(m, cases[i].companion)));
      assert_ptr_equal(companion.tensor, find(m, cases[i].companion));
    } else {
      assert_true(t->companion == UINT64_MAX);
      assert_null(companion.tensor);
    }
  }
  assert_true(find(m, "lonely.weight")->companion == UINT64_MAX);
  wd_model_unref(m);
}

static void companion_shapes(void **state) {
  static const struct {
    uint32_t n_dims;
    uint64_t dims[4];
    uint32_t scale_type, scale_dims;
    uint64_t scale[2];
    uint64_t count, per_factor;  // 0: refused
  } cases[] = {
      {2, {64, 3, 1, 1}, 0, 1, {1}, 1, 192},    {2, {64, 3, 1, 1}, 0, 0, {0}, 1, 192},
      {2, {64, 3, 1, 1}, 0, 2, {1, 1}, 1, 192}, {2, {64, 3, 1, 1}, 0, 1, {3}, 0, 0},  // rows are not matrices
      {3, {64, 2, 3, 1}, 0, 1, {3}, 3, 128},    {3, {64, 2, 3, 1}, 0, 2, {1, 3}, 3, 128},
      {3, {64, 2, 3, 1}, 0, 1, {1}, 1, 384},    {3, {64, 2, 3, 1}, 0, 1, {2}, 0, 0},
      {3, {64, 2, 3, 1}, 0, 1, {6}, 0, 0},      {3, {64, 2, 3, 1}, 0, 1, {0}, 0, 0},
      {3, {64, 3, 1, 1}, 0, 1, {3}, 0, 0},  // trailing ones do not make a matrix of a row
      {4, {64, 2, 3, 1}, 0, 1, {3}, 3, 128},    {4, {64, 2, 3, 2}, 0, 1, {2}, 2, 384},
      {4, {64, 2, 3, 2}, 0, 1, {6}, 0, 0},      {3, {64, 2, 3, 1}, 1, 1, {3}, 0, 0},  // F16
      {3, {64, 2, 3, 1}, 26, 1, {1}, 0, 0},     {3, {64, 0, 3, 1}, 0, 1, {3}, 3, 1},
      {3, {64, 2, 0, 1}, 0, 1, {1}, 1, 1},      {3, {64, 2, 0, 1}, 0, 1, {0}, 1, 1},
  };
  struct fixture *f = *state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct writer w = {0};
    struct wd_companion companion;
    struct wd_error err = {WD_OK, ""};
    w_start(&w, 3, 2, 0);
    w_tensor(&w, "x.weight", 40, cases[i].n_dims, cases[i].dims, 0);
    w_tensor(&w, "x.scale", cases[i].scale_type, cases[i].scale_dims, cases[i].scale, 0);
    w_pad(&w, 32);
    w_fill(&w, 0, 1024);
    fixture_save(f, "x.gguf", &w);
    struct wd_model *m = fixture_open(f, "x.gguf");
    enum wd_status status = wd_model_companion(m, wd_model_tensor(m, 0), &companion, &err);
    if (cases[i].per_factor) {
      assert_int_equal(status, WD_OK);
      assert_ptr_equal(companion.tensor, wd_model_tensor(m, 1));
      assert_int_equal(companion.elements_per_factor, cases[i].per_factor);
      // A tensor without matrices has a factor for each of none.
      assert_int_equal(companion.count, cases[i].scale[0] == 0 && cases[i].scale_dims ? 0 : cases[i].count);
    } else {
      assert_error(status, &err, WD_FAILED_PRECONDITION, "'x.weight'", "'x.scale'", NULL);
      assert_null(companion.tensor);
    }
    // An F32 tensor has none, whatever stands beside it.
    assert_int_equal(wd_model_companion(m, wd_model_tensor(m, 1), &companion, &err), WD_OK);
    assert_null(companion.tensor);
    wd_model_unref(m);
  }
}

static void companion_factors(void **state) {
  struct fixture *f = *state;
  for (int big = 0; big < 2; big++) {
    struct writer w = {.big_endian = big};
    struct wd_companion companion;
    struct wd_error err;
    float factors[5];
    w_start(&w, 3, 2, 0);
    w_tensor(&w, "x.weight", 40, 3, DIMS(64, 1, 5), 0);
    w_tensor(&w, "x.scale", 0, 1, DIMS(5), 192);
    w_pad(&w, 32);
    w_fill(&w, 0, 192);
    for (int i = 0; i < 5; i++) {
      w_f32(&w, 0.5f + (float)i);
    }
    fixture_save(f, "x.gguf", &w);
    struct wd_model *m = fixture_open(f, "x.gguf");
    assert_int_equal(wd_model_companion(m, wd_model_tensor(m, 0), &companion, &err), WD_OK);
    assert_int_equal(wd_model_companion_factors(m, &companion, 0, 5, factors, &err), WD_OK);
    assert_true(factors[0] == 0.5f && factors[4] == 4.5f);
    assert_int_equal(wd_model_companion_factors(m, &companion, 3, 2, factors, &err), WD_OK);
    assert_true(factors[0] == 3.5f && factors[1] == 4.5f);
    assert_int_equal(wd_model_companion_factors(m, &companion, 3, 3, factors, &err), WD_INTERNAL);
    assert_int_equal(wd_model_companion_factors(m, &companion, UINT64_MAX, 2, factors, &err), WD_INTERNAL);
    wd_model_unref(m);
  }
}

// ------------------------------------------------------------------------------------------------- Files that change

static void change_the_time(const struct fixture *f, const char *name, time_t seconds) {
  struct timespec times[2] = {{seconds, 0}, {seconds, 0}};
  assert_int_equal(utimensat(f->dir, name, times, 0), 0);
}

static void resize(const struct fixture *f, const char *name, off_t size) {
  int fd = openat(f->dir, name, O_RDWR | O_CLOEXEC);
  assert_true(fd >= 0);
  assert_int_equal(ftruncate(fd, size), 0);
  close(fd);
}

static void reading(void **state) {
  struct fixture *f = *state;
  struct writer w = {0};
  struct wd_error err;
  char bytes[16], past[80];
  w_sample(&w);
  size_t size = w.size;
  w_save(&w, f->dir, "x.gguf");
  struct wd_model *m = fixture_open(f, "x.gguf");
  assert_int_equal(wd_model_read(m, 0, 0, bytes, 4, &err), WD_OK);
  assert_memory_equal(bytes, "GGUF", 4);
  assert_int_equal(wd_model_read(m, 0, size - 16, bytes, 16, &err), WD_OK);
  assert_memory_equal(bytes, w.data + size - 16, 16);
  assert_int_equal(wd_model_read(m, 0, size, bytes, 0, &err), WD_OK);
  snprintf(past, sizeof past, "'x.gguf', byte %zu: ", size - 15);
  assert_error(wd_model_read(m, 0, size - 15, bytes, 16, &err), &err, WD_DATA_LOSS, past, NULL);
  assert_int_equal(wd_model_read(m, 0, UINT64_MAX, bytes, 16, &err), WD_DATA_LOSS);
  // An open model reads its file also after the name is gone.
  struct wd_model *other = wd_model_ref(m);
  wd_model_unref(m);
  assert_int_equal(unlinkat(f->dir, "x.gguf", 0), 0);
  assert_int_equal(wd_model_read(other, 0, 0, bytes, 4, &err), WD_OK);
  wd_model_unref(other);
  wd_model_unref(NULL);
  writer_free(&w);
}

// Beyond what 32 bits count, in a sparse file.
static void reading_far_away(void **state) {
  struct fixture *f = *state;
  struct writer w = {0};
  struct wd_error err;
  const uint64_t far = UINT64_C(100) << 30;
  char bytes[8] = "";
  w_start(&w, 3, 2, 0);
  w_tensor(&w, "huge", 24, 2, DIMS(UINT64_C(1) << 30, 100), 0);
  w_tensor(&w, "far", 24, 1, DIMS(8), far);
  w_pad(&w, 32);
  size_t data = w.size;
  fixture_save(f, "x.gguf", &w);
  int fd = openat(f->dir, "x.gguf", O_RDWR | O_CLOEXEC);
  if (pwrite(fd, "so far.", 8, (off_t)(data + far)) != 8) {
    close(fd);
    skip();  // a file system without such files
  }
  close(fd);
  struct wd_model *m = fixture_open(f, "x.gguf");
  const struct wd_tensor *t = find(m, "far");
  assert_int_equal(t->offset, data + far);
  assert_int_equal(find(m, "huge")->bytes, far);
  assert_int_equal(wd_model_read(m, 0, t->offset, bytes, 8, &err), WD_OK);
  assert_string_equal(bytes, "so far.");
  wd_model_unref(m);
}

static void files_that_change(void **state) {
  struct fixture *f = *state;
  struct writer w = {0};
  struct wd_error err;
  struct wd_value_cursor *cursor;
  uint64_t n;
  char bytes[16];
  w_sample(&w);
  const off_t size = (off_t)w.size;
  // Shorter: what is left is not trusted either.
  for (int round = 0; round < 4; round++) {
    w_save(&w, f->dir, "x.gguf");
    change_the_time(f, "x.gguf", 1000000000);
    struct wd_model *m = fixture_open(f, "x.gguf");
    assert_int_equal(wd_model_read(m, 0, 0, bytes, 16, &err), WD_OK);
    assert_int_equal(wd_value_open(m, wd_model_metadata(m, 2), &cursor, &err), WD_OK);
    switch (round) {
      case 0:
        resize(f, "x.gguf", size - 1);
        break;
      case 1:
        resize(f, "x.gguf", size + 1);
        break;
      case 2:
        change_the_time(f, "x.gguf", 1000000001);
        break;
      default:
        resize(f, "x.gguf", 0);
        break;
    }
    assert_error(wd_model_read(m, 0, 8, bytes, 16, &err), &err, WD_DATA_LOSS, "'x.gguf', byte 8: ",
                 round == 3   ? "ends here"
                 : round == 2 ? "modified"
                              : "changed",
                 NULL);
    enum wd_value_type type;
    assert_error(wd_value_array(cursor, &type, &n, &err), &err, WD_DATA_LOSS, "'x.gguf', byte ", NULL);
    wd_value_close(cursor);
    if (round == 0) {
      resize(f, "x.gguf", size);
      change_the_time(f, "x.gguf", 1000000000);
      assert_int_equal(wd_model_read(m, 0, 8, bytes, 16, &err), WD_OK);  // as it was
    }
    wd_model_unref(m);
  }
  writer_free(&w);
}

// One thread cuts the file and makes it whole again, others open and read it: whatever they meet, they say cleanly.
struct shaker {
  const struct fixture *f;
  off_t size;
  atomic_bool stop;
  int fd;
};

static void *shake(void *context) {
  struct shaker *s = context;
  struct writer w = {0};
  w_sample(&w);
  for (unsigned i = 0; !atomic_load(&s->stop); i++) {
    if (ftruncate(s->fd, (off_t)(i * 37 % (unsigned)s->size)) != 0 ||
        pwrite(s->fd, w.data, w.size, 0) != (ssize_t)w.size) {
      break;
    }
  }
  writer_free(&w);
  return NULL;
}

static void files_that_shrink_meanwhile(void **state) {
  struct fixture *f = *state;
  struct writer w = {0};
  w_sample(&w);
  struct shaker s = {.f = f, .size = (off_t)w.size};
  fixture_save(f, "x.gguf", &w);
  s.fd = openat(f->dir, "x.gguf", O_RDWR | O_CLOEXEC);
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, shake, &s), 0);
  for (int i = 0; i < 2000; i++) {
    struct wd_model *m;
    struct wd_error err = {WD_OK, ""};
    char bytes[64];
    enum wd_status status = wd_model_open(f->root, "x.gguf", NULL, &m, &err);
    if (status != WD_OK) {
      assert_error(status, &err, WD_FAILED_PRECONDITION, "'x.gguf', byte ", NULL);
      continue;
    }
    status = wd_model_read(m, 0, wd_model_tensor(m, 0)->offset, bytes, 32, &err);
    if (status != WD_OK) {
      assert_error(status, &err, WD_DATA_LOSS, "'x.gguf', byte ", NULL);
    }
    wd_model_unref(m);
  }
  atomic_store(&s.stop, true);
  pthread_join(thread, NULL);
  close(s.fd);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      IN_FOLDER(split_by_any_name),
      IN_FOLDER(split_in_a_folder),
      IN_FOLDER(a_file_of_the_very_name_wins),
      IN_FOLDER(two_splits_of_one_name),
      IN_FOLDER(missing_parts),
      IN_FOLDER(parts_that_disagree),
      IN_FOLDER(split_keys),
      IN_FOLDER(files_that_are_no_parts),
      IN_FOLDER(keys_over_parts),
      IN_FOLDER(part_limits),
      IN_FOLDER(revisions),
      IN_FOLDER(revisions_of_large_headers),
      IN_FOLDER(companions_by_name),
      IN_FOLDER(companion_shapes),
      IN_FOLDER(companion_factors),
      IN_FOLDER(reading),
      IN_FOLDER(reading_far_away),
      IN_FOLDER(files_that_change),
      IN_FOLDER(files_that_shrink_meanwhile),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
