// SPDX-License-Identifier: Apache-2.0
//
// A cursor is a bounded reader over the value's bytes alone. Their structure was checked when the model was opened, so
// whatever does not fit now is a file that changed meanwhile (wd_model_read notices most of that itself).
#include "service/gguf/value.h"

#include <endian.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "service/base/checked.h"
#include "service/base/text.h"
#include "service/gguf/model_private.h"
#include "service/gguf/reader.h"

#define BUFFER_SIZE 65536
#define LEAST_BUFFER_SIZE 64

struct wd_value_cursor {
  struct wd_reader reader;
  const struct wd_model *model;
  const struct wd_metadata *metadata;
};

static enum wd_status read_value(void *context, uint64_t offset, void *buffer, size_t size, struct wd_error *err) {
  const struct wd_value_cursor *cursor = context;
  return wd_model_read(cursor->model, cursor->metadata->part, offset, buffer, size, err);
}

static enum wd_status refuse(void *context, enum wd_status status, uint64_t offset, const char *reason,
                             struct wd_error *err) {
  (void)status;
  const struct wd_value_cursor *cursor = context;
  const char *path = cursor->model->files.files[cursor->metadata->part].path;
  return wd_fail(err, WD_DATA_LOSS, "%s, byte %" PRIu64 ": key %s: the file changed since it was opened: %s",
                 WD_QUOTE(path, strlen(path)), offset, WD_QUOTE(cursor->metadata->key, cursor->metadata->key_size),
                 reason);
}

enum wd_status wd_value_open(const struct wd_model *model, const struct wd_metadata *metadata,
                             struct wd_value_cursor **cursor, struct wd_error *err) {
  struct wd_value_cursor *c = calloc(1, sizeof *c);
  *cursor = NULL;
  if (!c) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "out of memory reading metadata");
  }
  c->model = model;
  c->metadata = metadata;
  const struct wd_reader_owner owner = {c, read_value, refuse};
  size_t capacity = (size_t)wd_max_u64(wd_min_u64(metadata->bytes, BUFFER_SIZE), LEAST_BUFFER_SIZE);
  enum wd_status status =
      wd_reader_init(&c->reader, &owner, metadata->offset, metadata->offset + metadata->bytes, capacity, err);
  if (status != WD_OK) {
    free(c);
    return status;
  }
  c->reader.big_endian = model->info.big_endian;
  *cursor = c;
  return WD_OK;
}

void wd_value_close(struct wd_value_cursor *cursor) {
  if (cursor) {
    wd_reader_free(&cursor->reader);
    free(cursor);
  }
}

enum wd_status wd_value_scalar(struct wd_value_cursor *cursor, enum wd_value_type type, union wd_scalar *scalar,
                               struct wd_error *err) {
  size_t size = (size_t)wd_scalar_size(type);
  unsigned char bytes[8];
  *scalar = (union wd_scalar){0};
  enum wd_status status = wd_reader_bytes(&cursor->reader, "a value", bytes, size, err);
  if (status != WD_OK) {
    return status;
  }
  uint64_t u = 0;  // the value's bits, whichever end they came from
  for (size_t i = 0; i < size; i++) {
    u |= (uint64_t)bytes[cursor->reader.big_endian ? size - 1 - i : i] << (8 * i);
  }
  uint32_t low = (uint32_t)u;
  float f;
  switch (type) {
    case WD_VALUE_INT8:
    case WD_VALUE_INT16:
    case WD_VALUE_INT32: {
      uint64_t sign = UINT64_C(1) << (8 * size - 1);
      scalar->i = (int64_t)((u ^ sign) - sign);
      break;
    }
    case WD_VALUE_FLOAT32:
      memcpy(&f, &low, sizeof f);
      scalar->f = f;
      break;
    case WD_VALUE_FLOAT64:
      memcpy(&scalar->f, &u, sizeof u);
      break;
    case WD_VALUE_BOOL:
      scalar->b = u != 0;
      break;
    default:
      scalar->u = u;  // an INT64's bits are an int64_t's
      break;
  }
  return WD_OK;
}

enum wd_status wd_value_array(struct wd_value_cursor *cursor, enum wd_value_type *element_type, uint64_t *count,
                              struct wd_error *err) {
  *count = 0;
  return wd_reader_array(&cursor->reader, element_type, count, err);
}

enum wd_status wd_value_string_size(struct wd_value_cursor *cursor, uint64_t *size, struct wd_error *err) {
  uint64_t at = cursor->reader.offset;
  *size = 0;
  enum wd_status status = wd_reader_u64(&cursor->reader, "a string's length", size, err);
  if (status == WD_OK && *size > wd_reader_left(&cursor->reader)) {
    return wd_reader_refuse(&cursor->reader, at, err, "a string of %" PRIu64 " bytes goes past the value's end", *size);
  }
  return status;
}

enum wd_status wd_value_string_bytes(struct wd_value_cursor *cursor, char *out, uint64_t size, struct wd_error *err) {
  return wd_reader_bytes(&cursor->reader, "a string", out, size, err);
}

enum wd_status wd_value_skip(struct wd_value_cursor *cursor, enum wd_value_type type, struct wd_error *err) {
  return wd_reader_skip_value(&cursor->reader, type, err);
}
