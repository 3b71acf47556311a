// SPDX-License-Identifier: Apache-2.0
// The bytes are a model file: open it, and do with it all that requests do. Nothing may crash, leak, loop or read what
// is not there; sanitizers see to that.
//
// gguf_driver.c runs this with any compiler. With clang's libFuzzer:
//   clang -g -O1 -std=c17 -D_GNU_SOURCE -I. -fsanitize=fuzzer,address,undefined tests/fuzz/gguf_fuzz.c service/gguf/*.c
//     service/base/*.c service/formats/types.c -lxxhash -o gguf_fuzz && ./gguf_fuzz
#include "tests/fuzz/gguf_fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "service/base/text.h"
#include "service/gguf/model_private.h"
#include "service/gguf/value.h"

#define CHECK(condition)                                              \
  do {                                                                \
    if (!(condition)) {                                               \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      abort();                                                        \
    }                                                                 \
  } while (0)

unsigned long long gguf_fuzz_opened, gguf_fuzz_refused;

// Reads a value piece by piece, at most `budget` pieces.
static void read_value(struct wd_value_cursor *cursor, enum wd_value_type type, int depth, unsigned *budget) {
  struct wd_error err;
  uint64_t n;
  if (*budget == 0) {
    return;
  }
  --*budget;
  if (type == WD_VALUE_STRING) {
    char text[64];
    CHECK(wd_value_string_size(cursor, &n, &err) == WD_OK);
    uint64_t head = n < sizeof text ? n : sizeof text;
    CHECK(wd_value_string_bytes(cursor, text, head, &err) == WD_OK);
    CHECK(wd_value_string_bytes(cursor, NULL, n - head, &err) == WD_OK);
  } else if (type == WD_VALUE_ARRAY) {
    enum wd_value_type element;
    CHECK(depth < WD_MAX_ARRAY_DEPTH);
    CHECK(wd_value_array(cursor, &element, &n, &err) == WD_OK);
    for (uint64_t i = 0; i < n && *budget; i++) {
      read_value(cursor, element, depth + 1, budget);
    }
  } else {
    union wd_scalar scalar;
    CHECK(wd_value_scalar(cursor, type, &scalar, &err) == WD_OK);
  }
}

static void use(struct wd_model *m, uint64_t file_bytes) {
  const struct wd_model_info *info = wd_model_info(m);
  struct wd_error err;
  uint64_t elements = 0;
  for (uint64_t i = 0; i < info->n_metadata; i++) {
    const struct wd_metadata *k = wd_model_metadata(m, i);
    struct wd_value_cursor *cursor;
    unsigned budget = 1000;
    CHECK(k->key_size > 0 && strlen(k->key) == k->key_size && wd_utf8_valid(k->key, k->key_size));
    CHECK(k->offset <= file_bytes && k->bytes <= file_bytes - k->offset);
    CHECK(wd_model_find_metadata(m, k->key, k->key_size) == k);
    CHECK(wd_value_open(m, k, &cursor, &err) == WD_OK);
    read_value(cursor, k->type, 0, &budget);
    wd_value_close(cursor);
    CHECK(wd_value_open(m, k, &cursor, &err) == WD_OK);
    CHECK(wd_value_skip(cursor, k->type, &err) == WD_OK);
    wd_value_close(cursor);
  }
  for (uint64_t i = 0; i < info->n_tensors; i++) {
    const struct wd_tensor *t = wd_model_tensor(m, i);
    struct wd_companion companion;
    float factor;
    CHECK(t->name_size > 0 && t->name_size <= WD_MAX_NAME && strlen(t->name) == t->name_size);
    CHECK(wd_utf8_valid(t->name, t->name_size) && wd_model_find_tensor(m, t->name, t->name_size) == t);
    CHECK(t->n_dims <= WD_MAX_DIMS && t->dims[0] % t->type->block_elements == 0);
    CHECK(t->elements == t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3]);
    CHECK(t->bytes == t->elements / t->type->block_elements * t->type->block_bytes);
    CHECK(t->offset <= file_bytes && t->bytes <= file_bytes - t->offset);
    elements += t->elements;
    if (t->bytes > 0) {
      char first, last;
      CHECK(wd_model_read(m, 0, t->offset, &first, 1, &err) == WD_OK);
      CHECK(wd_model_read(m, 0, t->offset + t->bytes - 1, &last, 1, &err) == WD_OK);
    }
    if (wd_model_companion(m, t, &companion, &err) == WD_OK && companion.tensor && companion.count > 0) {
      CHECK(companion.elements_per_factor > 0);
      CHECK(wd_model_companion_factors(m, &companion, companion.count - 1, 1, &factor, &err) == WD_OK);
    }
  }
  CHECK(elements == info->elements && info->f16_bytes == 2 * elements);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct wd_part_files files = {.count = 1};
  struct wd_error err = {WD_OK, ""};
  struct wd_model *m;
  int fd = memfd_create("model", MFD_CLOEXEC);
  files.files = calloc(1, sizeof *files.files);
  files.name = strdup("fuzz.gguf");
  CHECK(fd >= 0 && files.files && files.name);
  files.files[0].path = strdup("fuzz.gguf");
  files.files[0].fd = fd;
  CHECK(write(fd, data, size) == (ssize_t)size && fstat(fd, &files.files[0].st) == 0);
  enum wd_status status = wd_model_load(&files, NULL, UINT64_MAX, &m, &err);
  if (status == WD_OK) {
    gguf_fuzz_opened++;
    use(m, size);
    wd_model_unref(m);
  } else {
    gguf_fuzz_refused++;
    CHECK(status == WD_FAILED_PRECONDITION && err.status == status && strstr(err.message, "'fuzz.gguf', byte "));
    CHECK(wd_utf8_valid(err.message, strlen(err.message)) && !strpbrk(err.message, "\n\r"));
  }
  return 0;
}
