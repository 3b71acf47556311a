// SPDX-License-Identifier: Apache-2.0
#include "client/safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "service/base/checked.h"
#include "service/base/text.h"

#define METADATA "__metadata__"

uint32_t wd_dtype_bits(const char *dtype) {
  static const struct {
    char name[12];
    uint32_t bits;
  } dtypes[] = {{"F16", 16},    {"BF16", 16},   {"F32", 32},    {"U8", 8},   {"F64", 64},    {"I8", 8},     {"I16", 16},
                {"I32", 32},    {"I64", 64},    {"BOOL", 8},    {"U16", 16}, {"U32", 32},    {"U64", 64},   {"C64", 64},
                {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F4", 4},   {"F6_E2M3", 6}, {"F6_E3M2", 6}};
  for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
    if (strcmp(dtype, dtypes[i].name) == 0) {
      return dtypes[i].bits;
    }
  }
  return 0;
}

// ----------------------------------------------------------------------------------------------------- writing

static json_t *json_entry(const struct wd_file_tensor *tensor) {
  json_t *shape = json_array();
  for (size_t i = 0; i < tensor->n_shape; i++) {
    json_array_append_new(shape, json_integer((json_int_t)tensor->shape[i]));
  }
  return json_pack("{s:s, s:o, s:[I, I]}", "dtype", tensor->dtype, "shape", shape, "data_offsets",
                   (json_int_t)tensor->begin, (json_int_t)tensor->end);
}

enum wd_status wd_safetensors_header(const struct wd_file_tensor *tensors, size_t n, const json_t *metadata,
                                     char **header, size_t *size, struct wd_error *err) {
  enum wd_status status = WD_OK;
  json_t *root = json_object();
  bool ok = root && json_object_set(root, METADATA, (json_t *)metadata) == 0;
  for (size_t i = 0; ok && i < n; i++) {
    if (strcmp(tensors[i].name, METADATA) == 0) {
      status = wd_fail(err, WD_FAILED_PRECONDITION,
                       "a tensor is named '" METADATA
                       "', which safetensors files keep for themselves; leave it out with "
                       "--tensor");
      goto out;
    }
    ok = json_object_set_new(root, tensors[i].name, json_entry(&tensors[i])) == 0;
  }
  size_t length = ok ? json_dumpb(root, NULL, 0, JSON_COMPACT) : 0;
  size_t padded = (length + 7) & ~(size_t)7;
  char *text = length ? malloc(8 + padded) : NULL;
  if (!text) {
    status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for the header of %zu tensors", n);
    goto out;
  }
  if (padded > WD_SAFETENSORS_MAX_HEADER) {
    free(text);
    status =
        wd_fail(err, WD_RESOURCE_EXHAUSTED,
                "the header of a safetensors file with these %zu tensors would have %zu bytes, and %u is what readers "
                "accept; fetch them in several files with --tensor",
                n, padded, WD_SAFETENSORS_MAX_HEADER);
    goto out;
  }
  for (int i = 0; i < 8; i++) {
    text[i] = (char)((uint64_t)padded >> 8 * i);
  }
  json_dumpb(root, text + 8, length, JSON_COMPACT);
  memset(text + 8 + length, ' ', padded - length);
  *header = text;
  *size = 8 + padded;
out:
  json_decref(root);
  return status;
}

// ----------------------------------------------------------------------------------------------------- reading

static bool read_u64s(const json_t *array, size_t room, size_t *n, uint64_t *values) {
  if (!json_is_array(array) || json_array_size(array) > room) {
    return false;
  }
  *n = json_array_size(array);
  for (size_t i = 0; i < *n; i++) {
    const json_t *value = json_array_get(array, i);
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
      return false;
    }
    values[i] = (uint64_t)json_integer_value(value);
  }
  return true;
}

static enum wd_status fail_entry(const char *name, const char *why, struct wd_error *err) {
  return wd_fail(err, WD_FAILED_PRECONDITION, "tensor %s: %s", WD_QUOTE(name, strlen(name)), why);
}

static enum wd_status read_entry(const char *name, const json_t *entry, struct wd_file_tensor *tensor,
                                 struct wd_error *err) {
  uint64_t offsets[2];
  size_t n_offsets;
  const char *dtype = json_string_value(json_object_get(entry, "dtype"));
  tensor->name = name;
  if (!dtype || !wd_dtype_bits(dtype)) {
    return fail_entry(name, "its `dtype` is missing or not known", err);
  }
  tensor->dtype = dtype;
  if (!read_u64s(json_object_get(entry, "shape"), WD_SAFETENSORS_MAX_SHAPE, &tensor->n_shape, tensor->shape)) {
    return fail_entry(name, "its `shape` is not a list of at most 8 whole numbers", err);
  }
  if (!read_u64s(json_object_get(entry, "data_offsets"), 2, &n_offsets, offsets) || n_offsets != 2 ||
      offsets[0] > offsets[1]) {
    return fail_entry(name, "its `data_offsets` are not two growing whole numbers", err);
  }
  tensor->begin = offsets[0];
  tensor->end = offsets[1];
  uint64_t bits = wd_dtype_bits(dtype);
  for (size_t i = 0; i < tensor->n_shape; i++) {
    if (!wd_mul_u64(bits, tensor->shape[i], &bits)) {
      return fail_entry(name, "its `shape` has too many elements", err);
    }
  }
  if (bits % 8 || bits / 8 != tensor->end - tensor->begin) {
    return fail_entry(name, "its `dtype` and `shape` do not make as many bytes as its `data_offsets`", err);
  }
  return WD_OK;
}

static int compare_places(const void *a, const void *b) {
  const struct wd_file_tensor *x = a, *y = b;
  if (x->begin != y->begin) {
    return x->begin < y->begin ? -1 : 1;
  }
  return x->end < y->end ? -1 : x->end > y->end;
}

static enum wd_status read_entries(struct wd_safetensors *file, uint64_t data_bytes, struct wd_error *err) {
  const char *name;
  json_t *entry;
  file->tensors = calloc(json_object_size(file->root) + 1, sizeof *file->tensors);
  if (!file->tensors) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for its tensors");
  }
  json_object_foreach(file->root, name, entry) {
    if (strcmp(name, METADATA) == 0) {
      continue;
    }
    enum wd_status status = read_entry(name, entry, &file->tensors[file->n], err);
    if (status) {
      return status;
    }
    file->n++;
  }
  qsort(file->tensors, file->n, sizeof *file->tensors, compare_places);
  uint64_t at = 0;
  for (size_t i = 0; i < file->n; i++) {
    if (file->tensors[i].begin != at) {
      return fail_entry(file->tensors[i].name,
                        file->tensors[i].begin > at ? "there is a gap before its bytes" : "its bytes overlap another's",
                        err);
    }
    at = file->tensors[i].end;
  }
  return at == data_bytes
             ? WD_OK
             : wd_fail(err, WD_FAILED_PRECONDITION,
                       "its tensors have %" PRIu64 " bytes but %" PRIu64 " follow its header", at, data_bytes);
}

static bool read_all(int fd, void *buffer, size_t size, uint64_t offset) {
  char *at = buffer;
  while (size > 0) {
    ssize_t n = pread(fd, at, size, (off_t)offset);
    if (n <= 0 && !(n < 0 && errno == EINTR)) {
      return false;
    }
    if (n > 0) {
      at += n;
      offset += (uint64_t)n;
      size -= (size_t)n;
    }
  }
  return true;
}

enum wd_status wd_safetensors_read(int fd, struct wd_safetensors *file, struct wd_error *err) {
  struct stat info;
  uint8_t word[8];
  *file = (struct wd_safetensors){0};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    return wd_fail(err, WD_FAILED_PRECONDITION, "not a regular file");
  }
  uint64_t file_bytes = (uint64_t)info.st_size, length = 0;
  if (file_bytes < 8 || !read_all(fd, word, 8, 0)) {
    return wd_fail(err, WD_FAILED_PRECONDITION, "too short for a safetensors file");
  }
  for (int i = 0; i < 8; i++) {
    length |= (uint64_t)word[i] << 8 * i;
  }
  if (length > WD_SAFETENSORS_MAX_HEADER || length > file_bytes - 8) {
    return wd_fail(err, WD_FAILED_PRECONDITION,
                   "not a safetensors file: its first 8 bytes say that the header has %" PRIu64
                   " bytes; the file has %" PRIu64 ", and %u is allowed",
                   length, file_bytes, WD_SAFETENSORS_MAX_HEADER);
  }
  char *text = malloc(length + 1);
  if (!text) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for its header of %" PRIu64 " bytes", length);
  }
  if (!read_all(fd, text, length, 8)) {
    free(text);
    return wd_fail(err, WD_DATA_LOSS, "could not read its header: %s", strerror(errno));
  }
  json_error_t wrong;
  file->root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &wrong);
  free(text);
  file->data = 8 + length;
  enum wd_status status;
  if (!file->root) {
    status = wd_fail(err, WD_FAILED_PRECONDITION, "its header is not JSON: byte %d: %s", 8 + wrong.position,
                     WD_QUOTE(wrong.text, strnlen(wrong.text, sizeof wrong.text)));
  } else if (!json_is_object(file->root)) {
    status = wd_fail(err, WD_FAILED_PRECONDITION, "its header is not a JSON object");
  } else {
    status = read_entries(file, file_bytes - file->data, err);
  }
  if (status) {
    wd_safetensors_free(file);
  }
  return status;
}

void wd_safetensors_free(struct wd_safetensors *file) {
  free(file->tensors);
  json_decref(file->root);
  *file = (struct wd_safetensors){0};
}

const char *wd_safetensors_metadata(const struct wd_safetensors *file, const char *key) {
  return json_string_value(json_object_get(json_object_get(file->root, METADATA), key));
}

// ------------------------------------------------------------------------------------------------------ memory
// A hundred megabytes of "[[],[],…" would become many gigabytes of values.

static _Atomic uint64_t json_bytes;
static uint64_t json_limit;

static void *limited_malloc(size_t size) {
  if (atomic_load(&json_bytes) + size > json_limit) {
    return NULL;
  }
  void *memory = malloc(size);
  atomic_fetch_add(&json_bytes, malloc_usable_size(memory));
  return memory;
}

static void limited_free(void *memory) {
  atomic_fetch_sub(&json_bytes, malloc_usable_size(memory));
  free(memory);
}

void wd_json_limit_memory(uint64_t bytes) {
  json_limit = bytes;
  json_set_alloc_funcs(limited_malloc, limited_free);
}
