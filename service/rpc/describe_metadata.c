// SPDX-License-Identifier: Apache-2.0
#include "service/rpc/describe_metadata.h"

#include <stdlib.h>
#include <string.h>

#include "service/base/checked.h"
#include "service/base/text.h"
#include "service/gguf/value.h"
#include "service/rpc/message.h"
#include "weightd/v1/weightd.pb-c.h"

struct wd_metadata_writer {
  const struct wd_model *model;
  uint8_t *whole;  // a bit per key: named by the request
  uint64_t next;   // number of the key whose entry is written next
  // A named value that did not fit its entry goes on from here.
  struct wd_value_cursor *cursor;
  uint64_t offset;
  uint64_t length;
  uint64_t stop;  // where sending ends: length, or where the value is cut
  enum wd_value_type element_type;
  char carry[4];  // the bytes of a character that the last piece of a string ended in
  size_t n_carry;
};

// What one entry may still take, and what it had to leave out.
struct room {
  size_t bytes;
  bool whole;
  bool truncated;
  bool repaired;
};

enum wd_status wd_metadata_writer_create(const struct wd_model *model, char *const *keys, size_t n_keys,
                                         struct wd_metadata_writer **writer, struct wd_error *err) {
  uint64_t n = wd_model_info(model)->n_metadata;
  struct wd_metadata_writer *w = calloc(1, sizeof *w);
  uint8_t *whole = calloc(n / 8 + 1, 1);
  if (!w || !whole) {
    free(w);
    free(whole);
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory to describe the model");
  }
  w->model = model;
  w->whole = whole;
  for (size_t i = 0; i < n_keys; i++) {
    size_t size = strlen(keys[i]);
    const struct wd_metadata *metadata = wd_model_find_metadata(model, keys[i], size);
    if (!metadata) {
      wd_metadata_writer_destroy(w);
      return wd_fail(err, WD_NOT_FOUND, "metadata_keys: the model has no key %s", WD_QUOTE(keys[i], size));
    }
    uint64_t index = (uint64_t)(metadata - wd_model_metadata(model, 0));
    whole[index / 8] |= (uint8_t)(1 << index % 8);
  }
  *writer = w;
  return WD_OK;
}

void wd_metadata_writer_destroy(struct wd_metadata_writer *writer) {
  if (writer) {
    wd_value_close(writer->cursor);
    free(writer->whole);
    free(writer);
  }
}

bool wd_metadata_writer_more(const struct wd_metadata_writer *writer) {
  return writer->next < wd_model_info(writer->model)->n_metadata;
}

static enum wd_status no_memory(struct wd_error *err) {
  return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for a metadata value");
}

// ---- Strings

// How many bytes at the end of text[0..size) may be the beginning of a character that goes on behind it.
static size_t open_end(const char *text, size_t size) {
  for (size_t back = 1; back <= 3 && back <= size; back++) {
    unsigned char c = (unsigned char)text[size - back];
    if ((c & 0xc0) != 0x80) {  // where a character begins
      size_t need = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
      return need > back ? back : 0;
    }
  }
  return 0;
}

// A C string of text[0..size): what is not UTF-8, and NUL, which a protobuf-c string cannot hold, become U+FFFD.
static char *make_string(const char *text, size_t size, bool *repaired) {
  char *out = malloc(3 * size + 1);
  if (!out) {
    return NULL;
  }
  size_t n = 0;
  size_t begin = 0;
  for (size_t i = 0; i <= size; i++) {
    if (i == size || text[i] == 0) {
      *repaired |= !wd_utf8_valid(text + begin, i - begin);
      n += wd_utf8_repair(text + begin, i - begin, out + n);
      if (i < size) {
        memcpy(out + n, "\xef\xbf\xbd", 3);
        n += 3;
        *repaired = true;
      }
      begin = i + 1;
    }
  }
  out[n] = 0;
  return out;
}

// A string that is an array's element: its beginning into *out, and the cursor past it.
static enum wd_status read_string(struct wd_value_cursor *cursor, struct room *room, char **out, struct wd_error *err) {
  uint64_t size;
  enum wd_status status = wd_value_string_size(cursor, &size, err);
  if (status) {
    return status;
  }
  size_t most = room->whole ? WD_METADATA_PIECE : WD_METADATA_CUT_STRING;
  size_t take = wd_min_u64(size, most);
  char *text = malloc(take + 1);
  if (!text) {
    return no_memory(err);
  }
  status = wd_value_string_bytes(cursor, text, take, err);
  if (!status && take < size) {
    room->truncated = true;
    status = wd_value_string_bytes(cursor, NULL, size - take, err);
    take -= open_end(text, take);
  }
  *out = status ? NULL : make_string(text, take, &room->repaired);
  room->bytes -= wd_min_u64(room->bytes, take + 8);
  free(text);
  return status ? status : *out ? WD_OK : no_memory(err);
}

// The next piece of the string at the writer's cursor: all of what is sent where the string is cut.
static enum wd_status read_string_piece(struct wd_metadata_writer *w, struct room *room,
                                        Weightd__V1__MetadataEntry *entry, struct wd_error *err) {
  entry->offset = w->offset - w->n_carry;
  size_t take = wd_min_u64(w->stop - w->offset, WD_METADATA_PIECE);
  char *text = malloc(w->n_carry + take + 1);
  if (!text) {
    return no_memory(err);
  }
  memcpy(text, w->carry, w->n_carry);
  enum wd_status status = wd_value_string_bytes(w->cursor, text + w->n_carry, take, err);
  size_t size = w->n_carry + take;
  w->offset += take;
  w->n_carry = w->offset < w->length ? open_end(text, size) : 0;
  memcpy(w->carry, text + size - w->n_carry, w->n_carry);
  if (!status) {
    entry->value->kind_case = WEIGHTD__V1__METADATA_VALUE__KIND_STRING_VALUE;
    entry->value->string_value = make_string(text, size - w->n_carry, &room->repaired);
    if (!entry->value->string_value) {
      entry->value->kind_case = WEIGHTD__V1__METADATA_VALUE__KIND__NOT_SET;
      status = no_memory(err);
    }
  }
  free(text);
  return status;
}

// ---- Scalars

enum scalar_kind { KIND_UINT, KIND_INT, KIND_FLOAT, KIND_BOOL };

static enum scalar_kind kind_of(enum wd_value_type type) {
  switch (type) {
    case WD_VALUE_INT8:
    case WD_VALUE_INT16:
    case WD_VALUE_INT32:
    case WD_VALUE_INT64:
      return KIND_INT;
    case WD_VALUE_FLOAT32:
    case WD_VALUE_FLOAT64:
      return KIND_FLOAT;
    case WD_VALUE_BOOL:
      return KIND_BOOL;
    default:
      return KIND_UINT;
  }
}

static enum wd_status read_scalar(struct wd_value_cursor *cursor, enum wd_value_type type,
                                  Weightd__V1__MetadataValue *value, struct wd_error *err) {
  union wd_scalar scalar;
  enum wd_status status = wd_value_scalar(cursor, type, &scalar, err);
  if (status) {
    return status;
  }
  switch (kind_of(type)) {
    case KIND_UINT:
      value->kind_case = WEIGHTD__V1__METADATA_VALUE__KIND_UINT_VALUE;
      value->uint_value = scalar.u;
      break;
    case KIND_INT:
      value->kind_case = WEIGHTD__V1__METADATA_VALUE__KIND_INT_VALUE;
      value->int_value = scalar.i;
      break;
    case KIND_FLOAT:
      value->kind_case = WEIGHTD__V1__METADATA_VALUE__KIND_FLOAT_VALUE;
      value->float_value = scalar.f;
      break;
    case KIND_BOOL:
      value->kind_case = WEIGHTD__V1__METADATA_VALUE__KIND_BOOL_VALUE;
      value->bool_value = scalar.b;
      break;
  }
  return WD_OK;
}

// ---- Arrays

// Grows *items, n of item_size bytes each, where n is a power of two, so that one more fits.
static bool grow(void *items, size_t n, size_t item_size) {
  void **at = items;
  if (n & (n - 1)) {
    return true;
  }
  void *more = realloc(*at, (n ? 2 * n : 1) * item_size);
  if (more) {
    *at = more;
  }
  return more != NULL;
}

static enum wd_status read_array(struct wd_value_cursor *cursor, struct room *room, Weightd__V1__MetadataArray *array,
                                 struct wd_error *err);

// Reads one element and appends it.
static enum wd_status append(struct wd_value_cursor *cursor, enum wd_value_type type, struct room *room,
                             Weightd__V1__MetadataArray *array, struct wd_error *err) {
  enum wd_status status;
  if (type == WD_VALUE_STRING) {
    char *string;
    if (!grow(&array->string_values, array->n_string_values, sizeof *array->string_values)) {
      return no_memory(err);
    }
    status = read_string(cursor, room, &string, err);
    if (!status) {
      array->string_values[array->n_string_values++] = string;
    }
    return status;
  }
  if (type == WD_VALUE_ARRAY) {
    Weightd__V1__MetadataArray *inner = malloc(sizeof *inner);
    if (!inner || !grow(&array->array_values, array->n_array_values, sizeof *array->array_values)) {
      free(inner);
      return no_memory(err);
    }
    weightd__v1__metadata_array__init(inner);
    array->array_values[array->n_array_values++] = inner;
    room->bytes -= wd_min_u64(room->bytes, 16);
    return read_array(cursor, room, inner, err);
  }
  union wd_scalar scalar;
  status = wd_value_scalar(cursor, type, &scalar, err);
  if (status) {
    return status;
  }
  room->bytes -= wd_min_u64(room->bytes, 10);  // no varint and no double is longer
  bool grown = false;
  switch (kind_of(type)) {
    case KIND_UINT:
      grown = grow(&array->uint_values, array->n_uint_values, sizeof *array->uint_values);
      if (grown) {
        array->uint_values[array->n_uint_values++] = scalar.u;
      }
      break;
    case KIND_INT:
      grown = grow(&array->int_values, array->n_int_values, sizeof *array->int_values);
      if (grown) {
        array->int_values[array->n_int_values++] = scalar.i;
      }
      break;
    case KIND_FLOAT:
      grown = grow(&array->float_values, array->n_float_values, sizeof *array->float_values);
      if (grown) {
        array->float_values[array->n_float_values++] = scalar.f;
      }
      break;
    case KIND_BOOL:
      grown = grow(&array->bool_values, array->n_bool_values, sizeof *array->bool_values);
      if (grown) {
        array->bool_values[array->n_bool_values++] = scalar.b;
      }
      break;
  }
  return grown ? WD_OK : no_memory(err);
}

// An array inside another: as many elements as there is room for, and the cursor past all of it. Recursion is bounded
// by WD_MAX_ARRAY_DEPTH, which the parser holds files to.
static enum wd_status read_array(struct wd_value_cursor *cursor, struct room *room, Weightd__V1__MetadataArray *array,
                                 struct wd_error *err) {
  enum wd_value_type type;
  uint64_t count;
  enum wd_status status = wd_value_array(cursor, &type, &count, err);
  if (status) {
    return status;
  }
  array->element_type = (Weightd__V1__MetadataType)type;
  array->length = count;
  uint64_t most = room->whole ? UINT64_MAX : WD_METADATA_CUT_ARRAY;
  for (uint64_t i = 0; !status && i < count; i++) {
    if (i < most && room->bytes) {
      status = append(cursor, type, room, array, err);
    } else {
      room->truncated = true;
      status = wd_value_skip(cursor, type, err);
    }
  }
  return status;
}

// The next piece of the array at the writer's cursor: all of what is sent where the array is cut.
static enum wd_status read_array_piece(struct wd_metadata_writer *w, struct room *room,
                                       Weightd__V1__MetadataEntry *entry, struct wd_error *err) {
  Weightd__V1__MetadataArray *array = malloc(sizeof *array);
  if (!array) {
    return no_memory(err);
  }
  weightd__v1__metadata_array__init(array);
  entry->value->kind_case = WEIGHTD__V1__METADATA_VALUE__KIND_ARRAY_VALUE;
  entry->value->array_value = array;
  array->element_type = (Weightd__V1__MetadataType)w->element_type;
  array->length = w->length;
  entry->offset = w->offset;
  enum wd_status status = WD_OK;
  while (!status && w->offset < w->stop && room->bytes) {
    status = append(w->cursor, w->element_type, room, array, err);
    w->offset++;
  }
  if (!room->whole && w->offset < w->stop) {
    room->truncated = true;
    w->offset = w->stop;
  }
  return status;
}

// ---- Entries

// Opens the writer's cursor on a value and, for strings and arrays, reads their length.
static enum wd_status open_value(struct wd_metadata_writer *w, const struct wd_metadata *metadata, bool whole,
                                 struct wd_error *err) {
  uint64_t cut = UINT64_MAX;
  enum wd_status status = wd_value_open(w->model, metadata, &w->cursor, err);
  w->offset = 0;
  w->length = 0;
  w->n_carry = 0;
  if (!status && metadata->type == WD_VALUE_STRING) {
    status = wd_value_string_size(w->cursor, &w->length, err);
    cut = WD_METADATA_CUT_STRING;
  } else if (!status && metadata->type == WD_VALUE_ARRAY) {
    status = wd_value_array(w->cursor, &w->element_type, &w->length, err);
    cut = WD_METADATA_CUT_ARRAY;
  }
  w->stop = whole ? w->length : wd_min_u64(w->length, cut);
  return status;
}

// Fills the next entry, and moves to the next key when the value is done.
static enum wd_status read_entry(struct wd_metadata_writer *w, Weightd__V1__MetadataEntry *entry, size_t *bytes,
                                 struct wd_error *err) {
  const struct wd_metadata *metadata = wd_model_metadata(w->model, w->next);
  struct room room = {.bytes = WD_METADATA_PIECE, .whole = (w->whole[w->next / 8] >> w->next % 8 & 1) != 0};
  enum wd_status status = w->cursor ? WD_OK : open_value(w, metadata, room.whole, err);
  if (status) {
    return status;
  }
  entry->key = strdup(metadata->key);
  entry->value = malloc(sizeof *entry->value);
  if (!entry->key || !entry->value) {
    return no_memory(err);
  }
  weightd__v1__metadata_value__init(entry->value);
  entry->type = (Weightd__V1__MetadataType)metadata->type;
  entry->part = metadata->part;
  if (metadata->type == WD_VALUE_ARRAY) {
    status = read_array_piece(w, &room, entry, err);
  } else if (metadata->type == WD_VALUE_STRING) {
    status = read_string_piece(w, &room, entry, err);
  } else {
    status = read_scalar(w->cursor, metadata->type, entry->value, err);
  }
  entry->length = w->length;
  entry->truncated = room.truncated || w->stop < w->length;
  entry->repaired = room.repaired;
  *bytes = protobuf_c_message_get_packed_size(&entry->base);
  if (w->offset >= w->stop) {
    wd_value_close(w->cursor);
    w->cursor = NULL;
    w->next++;
  }
  return status;
}

enum wd_status wd_metadata_writer_next(struct wd_metadata_writer *writer, size_t bytes, grpc_byte_buffer **message,
                                       struct wd_error *err) {
  Weightd__V1__ModelDescription *description = malloc(sizeof *description);
  if (!description) {
    return no_memory(err);
  }
  weightd__v1__model_description__init(description);
  enum wd_status status = WD_OK;
  size_t used = 0;
  while (!status && used < bytes && wd_metadata_writer_more(writer)) {
    Weightd__V1__MetadataEntry *entry = malloc(sizeof *entry);
    if (!entry || !grow(&description->metadata, description->n_metadata, sizeof *description->metadata)) {
      free(entry);
      status = no_memory(err);
      break;
    }
    weightd__v1__metadata_entry__init(entry);
    description->metadata[description->n_metadata++] = entry;
    size_t size = 0;
    status = read_entry(writer, entry, &size, err);
    used += size;
  }
  *message = status ? NULL : wd_message_pack(&description->base);
  wd_message_free(&description->base);
  return status;
}
