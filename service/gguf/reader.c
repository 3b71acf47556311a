// SPDX-License-Identifier: Apache-2.0
#include "service/gguf/reader.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "service/base/checked.h"
#include "service/base/text.h"

// One read's most bytes: Linux transfers no more than 2 GiB at once.
#define READ_MOST ((size_t)1 << 30)

enum wd_status wd_reader_init(struct wd_reader *reader, const struct wd_reader_owner *owner, uint64_t offset,
                              uint64_t end, size_t capacity, struct wd_error *err) {
  *reader = (struct wd_reader){.owner = *owner, .offset = offset, .end = end, .limit = end, .capacity = capacity};
  reader->buffer = malloc(capacity);
  return reader->buffer ? WD_OK : wd_fail(err, WD_RESOURCE_EXHAUSTED, "out of memory for a read buffer");
}

void wd_reader_free(struct wd_reader *reader) {
  free(reader->buffer);
  reader->buffer = NULL;
}

enum wd_status wd_reader_refuse(const struct wd_reader *reader, uint64_t offset, struct wd_error *err,
                                const char *format, ...) {
  char reason[600];
  va_list args;
  va_start(args, format);
  vsnprintf(reason, sizeof reason, format, args);
  va_end(args);
  return reader->owner.refuse(reader->owner.context, WD_FAILED_PRECONDITION, offset, reason, err);
}

enum wd_status wd_read_file(int fd, const char *file, enum wd_status failure, uint64_t offset, void *buffer,
                            size_t size, struct wd_error *err) {
  unsigned char *to = buffer;
  while (size > 0) {
    // Offsets stem from file sizes, so they fit off_t.
    ssize_t n = pread(fd, to, size < READ_MOST ? size : READ_MOST, (off_t)offset);
    if (n == 0) {
      return wd_fail(err, failure, "%s, byte %" PRIu64 ": the file ends here, but was longer when it was opened",
                     WD_QUOTE(file, strlen(file)), offset);
    }
    if (n < 0) {
      if (errno == EINTR) {
        continue;
      }
      return wd_fail(err, failure, "%s, byte %" PRIu64 ": reading failed: %s", WD_QUOTE(file, strlen(file)), offset,
                     strerror(errno));
    }
    to += n;
    offset += (uint64_t)n;
    size -= (size_t)n;
  }
  return WD_OK;
}

void wd_reader_flush_hash(struct wd_reader *reader) {
  if (reader->hash && reader->begin > reader->unhashed) {
    XXH3_128bits_update(reader->hash, reader->buffer + reader->unhashed, reader->begin - reader->unhashed);
  }
  reader->unhashed = reader->begin;
}

// Refuses where fewer than size bytes are left, or wanted.
static enum wd_status need(struct wd_reader *reader, const char *what, uint64_t size, struct wd_error *err) {
  if (size > wd_reader_left(reader)) {
    return wd_reader_refuse(reader, reader->offset, err, "%s needs %" PRIu64 " bytes, but the end is at byte %" PRIu64,
                            what, size, reader->end);
  }
  if (!wd_in_range(reader->offset, size, reader->limit)) {
    return reader->owner.refuse(reader->owner.context, WD_RESOURCE_EXHAUSTED, reader->offset,
                                "the header is larger than the limit on header bytes (max_header_bytes) allows", err);
  }
  return WD_OK;
}

static void advance(struct wd_reader *reader, size_t size) {
  reader->begin += size;
  reader->offset += size;
}

// Fetches until at least size bytes (at most the capacity) are in the buffer.
static enum wd_status fill(struct wd_reader *reader, size_t size, struct wd_error *err) {
  size_t held = reader->filled - reader->begin;
  if (held >= size) {
    return WD_OK;
  }
  wd_reader_flush_hash(reader);
  memmove(reader->buffer, reader->buffer + reader->begin, held);
  reader->begin = reader->unhashed = 0;
  reader->filled = held;
  uint64_t end = wd_min_u64(reader->end, reader->limit);
  size_t wanted = (size_t)wd_min_u64(reader->capacity - held, end - reader->offset - held);
  enum wd_status status =
      reader->owner.read(reader->owner.context, reader->offset + held, reader->buffer + held, wanted, err);
  if (status == WD_OK) {
    reader->filled += wanted;
  }
  return status;
}

static enum wd_status number(struct wd_reader *reader, const char *what, void *out, size_t size, struct wd_error *err) {
  if (reader->filled - reader->begin < size) {
    enum wd_status status = need(reader, what, size, err);
    if (status == WD_OK) {
      status = fill(reader, size, err);
    }
    if (status != WD_OK) {
      return status;
    }
  }
  memcpy(out, reader->buffer + reader->begin, size);
  advance(reader, size);
  return WD_OK;
}

enum wd_status wd_reader_u32(struct wd_reader *reader, const char *what, uint32_t *value, struct wd_error *err) {
  enum wd_status status = number(reader, what, value, sizeof *value, err);
  if (status == WD_OK) {
    *value = reader->big_endian ? be32toh(*value) : le32toh(*value);
  }
  return status;
}

enum wd_status wd_reader_u64(struct wd_reader *reader, const char *what, uint64_t *value, struct wd_error *err) {
  enum wd_status status = number(reader, what, value, sizeof *value, err);
  if (status == WD_OK) {
    *value = reader->big_endian ? be64toh(*value) : le64toh(*value);
  }
  return status;
}

enum wd_status wd_reader_bytes(struct wd_reader *reader, const char *what, void *out, uint64_t size,
                               struct wd_error *err) {
  enum wd_status status = need(reader, what, size, err);
  unsigned char *to = out;
  while (status == WD_OK && size > 0) {
    uint64_t held = reader->filled - reader->begin;
    if (held == 0) {
      if (!to && !reader->hash) {
        reader->offset += size;  // nobody wants to see these bytes
        return WD_OK;
      }
      status = fill(reader, 1, err);
      continue;
    }
    size_t n = (size_t)wd_min_u64(held, size);
    if (to) {
      memcpy(to, reader->buffer + reader->begin, n);
      to += n;
    }
    advance(reader, n);
    size -= n;
  }
  return status;
}

static const struct {
  const char *name;
  uint64_t size;
} value_types[WD_VALUE_TYPE_COUNT] = {
    [WD_VALUE_UINT8] = {"uint8", 1},     [WD_VALUE_INT8] = {"int8", 1},     [WD_VALUE_UINT16] = {"uint16", 2},
    [WD_VALUE_INT16] = {"int16", 2},     [WD_VALUE_UINT32] = {"uint32", 4}, [WD_VALUE_INT32] = {"int32", 4},
    [WD_VALUE_FLOAT32] = {"float32", 4}, [WD_VALUE_BOOL] = {"bool", 1},     [WD_VALUE_STRING] = {"string", 0},
    [WD_VALUE_ARRAY] = {"array", 0},     [WD_VALUE_UINT64] = {"uint64", 8}, [WD_VALUE_INT64] = {"int64", 8},
    [WD_VALUE_FLOAT64] = {"float64", 8},
};

uint64_t wd_scalar_size(enum wd_value_type type) {
  return value_types[type].size;
}

const char *wd_value_type_name(enum wd_value_type type) {
  return value_types[type].name;
}

// The fewest bytes a value of this type takes: a string's length, an array's element type and count.
static uint64_t least_size(enum wd_value_type type) {
  return type == WD_VALUE_STRING ? 8 : type == WD_VALUE_ARRAY ? 12 : value_types[type].size;
}

enum wd_status wd_reader_value_type(struct wd_reader *reader, const char *what, enum wd_value_type *type,
                                    struct wd_error *err) {
  uint64_t at = reader->offset;
  uint32_t id;
  enum wd_status status = wd_reader_u32(reader, what, &id, err);
  if (status == WD_OK && id >= WD_VALUE_TYPE_COUNT) {
    return wd_reader_refuse(reader, at, err, "%s is %" PRIu32 ", but the types are 0 to %d", what, id,
                            WD_VALUE_TYPE_COUNT - 1);
  }
  *type = status == WD_OK ? (enum wd_value_type)id : WD_VALUE_UINT8;
  return status;
}

enum wd_status wd_reader_array(struct wd_reader *reader, enum wd_value_type *type, uint64_t *count,
                               struct wd_error *err) {
  enum wd_status status = wd_reader_value_type(reader, "the array's element type", type, err);
  uint64_t at = reader->offset, bytes;
  if (status == WD_OK) {
    status = wd_reader_u64(reader, "the array's count", count, err);
  }
  if (status == WD_OK && (!wd_mul_u64(*count, least_size(*type), &bytes) || bytes > wd_reader_left(reader))) {
    return wd_reader_refuse(reader, at, err,
                            "an array of %" PRIu64 " values of type %s goes past the end, which is at byte %" PRIu64,
                            *count, wd_value_type_name(*type), reader->end);
  }
  return status;
}

enum wd_status wd_reader_skip_value(struct wd_reader *reader, enum wd_value_type type, struct wd_error *err) {
  struct {
    enum wd_value_type type;
    uint64_t left;
  } arrays[WD_MAX_ARRAY_DEPTH];  // the arrays of strings or arrays that we are in
  size_t depth = 0;
  for (;;) {
    uint64_t at = reader->offset, size = wd_scalar_size(type);
    enum wd_status status = WD_OK;
    if (type == WD_VALUE_ARRAY) {
      if (depth == WD_MAX_ARRAY_DEPTH) {
        return wd_reader_refuse(reader, at, err, "arrays nested more than %d deep are not read", WD_MAX_ARRAY_DEPTH);
      }
      enum wd_value_type element_type = WD_VALUE_UINT8;
      uint64_t count = 0;
      status = wd_reader_array(reader, &element_type, &count, err);
      if (status == WD_OK && wd_scalar_size(element_type)) {
        size = count * wd_scalar_size(element_type);  // fits: wd_reader_array saw to it
      } else {
        arrays[depth].type = element_type;
        arrays[depth++].left = count;
      }
    } else if (type == WD_VALUE_STRING) {
      status = wd_reader_u64(reader, "the length of a string", &size, err);
      if (status == WD_OK && size > wd_reader_left(reader)) {
        return wd_reader_refuse(reader, at, err,
                                "a string of %" PRIu64 " bytes goes past the end, which is at byte %" PRIu64, size,
                                reader->end);
      }
    }
    if (status == WD_OK && size > 0) {
      status = wd_reader_bytes(reader, type == WD_VALUE_ARRAY ? "an array's data" : "the value", NULL, size, err);
    }
    if (status != WD_OK) {
      return status;
    }
    while (depth > 0 && arrays[depth - 1].left == 0) {
      depth--;
    }
    if (depth == 0) {
      return WD_OK;
    }
    arrays[depth - 1].left--;
    type = arrays[depth - 1].type;
  }
}
