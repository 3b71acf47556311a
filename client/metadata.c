// SPDX-License-Identifier: Apache-2.0
#include "client/metadata.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/output.h"
#include "service/base/text.h"

const char *wd_metadata_type_name(Weightd__V1__MetadataType type) {
  const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value(&weightd__v1__metadata_type__descriptor, type);
  return value ? value->name : "UNKNOWN";
}

bool wd_value_continues(const struct wd_value *value, const Weightd__V1__MetadataEntry *entry) {
  return value->key && entry->offset > 0 && strcmp(value->key, entry->key) == 0;
}

static void add_text(struct wd_value *value, const char *text) {
  size_t size = strlen(text);
  if (value->text_room - value->text_size <= size) {
    size_t room = 2 * (value->text_size + size) + 1;
    char *grown = realloc(value->text, room);
    if (!grown) {
      value->failed = true;
      return;
    }
    value->text = grown;
    value->text_room = room;
  }
  memcpy(value->text + value->text_size, text, size + 1);
  value->text_size += size;
}

static json_t *array_json(const Weightd__V1__MetadataArray *array);

// Appends what the array message holds to a JSON array.
static void append_elements(json_t *out, const Weightd__V1__MetadataArray *array) {
  for (size_t i = 0; i < array->n_uint_values; i++) {
    json_array_append_new(out, wd_json_u64(array->uint_values[i]));
  }
  for (size_t i = 0; i < array->n_int_values; i++) {
    json_array_append_new(out, json_integer(array->int_values[i]));
  }
  for (size_t i = 0; i < array->n_float_values; i++) {
    json_array_append_new(out, wd_json_real(array->float_values[i]));
  }
  for (size_t i = 0; i < array->n_bool_values; i++) {
    json_array_append_new(out, json_boolean(array->bool_values[i]));
  }
  for (size_t i = 0; i < array->n_string_values; i++) {
    json_array_append_new(out, wd_json_text(array->string_values[i]));
  }
  for (size_t i = 0; i < array->n_array_values; i++) {
    json_array_append_new(out, array_json(array->array_values[i]));
  }
}

static json_t *array_json(const Weightd__V1__MetadataArray *array) {  // as deep as wd_arena_unpack lets through
  json_t *out = json_array();
  append_elements(out, array);
  return out;
}

static void begin(struct wd_value *value, const Weightd__V1__MetadataEntry *entry) {
  value->key = strdup(entry->key);
  value->failed = !value->key;
  value->type = entry->type;
  value->part = entry->part;
  value->length = entry->length;
}

void wd_value_add(struct wd_value *value, const Weightd__V1__MetadataEntry *entry) {
  const Weightd__V1__MetadataValue *v = entry->value;
  if (!value->key) {
    begin(value, entry);
  }
  value->truncated |= entry->truncated;
  value->repaired |= entry->repaired;
  switch (v ? v->kind_case : WEIGHTD__V1__METADATA_VALUE__KIND__NOT_SET) {
    case WEIGHTD__V1__METADATA_VALUE__KIND_STRING_VALUE:
      add_text(value, v->string_value);
      break;
    case WEIGHTD__V1__METADATA_VALUE__KIND_ARRAY_VALUE:
      value->element_type = v->array_value->element_type;
      if (!value->scalar_or_array) {
        value->scalar_or_array = json_array();
      }
      append_elements(value->scalar_or_array, v->array_value);
      break;
    case WEIGHTD__V1__METADATA_VALUE__KIND_UINT_VALUE:
      json_decref(value->scalar_or_array);
      value->scalar_or_array = wd_json_u64(v->uint_value);
      break;
    case WEIGHTD__V1__METADATA_VALUE__KIND_INT_VALUE:
      json_decref(value->scalar_or_array);
      value->scalar_or_array = json_integer(v->int_value);
      break;
    case WEIGHTD__V1__METADATA_VALUE__KIND_FLOAT_VALUE:
      json_decref(value->scalar_or_array);
      value->scalar_or_array = wd_json_real(v->float_value);
      break;
    case WEIGHTD__V1__METADATA_VALUE__KIND_BOOL_VALUE:
      json_decref(value->scalar_or_array);
      value->scalar_or_array = json_boolean(v->bool_value);
      break;
    default:  // proto3: a value that is not set is the zero of its kind
      if (!value->scalar_or_array && !value->text) {
        value->scalar_or_array = value->type == WEIGHTD__V1__METADATA_TYPE__STRING ? NULL : json_integer(0);
      }
  }
}

void wd_value_free(struct wd_value *value) {
  free(value->key);
  free(value->text);
  json_decref(value->scalar_or_array);
  *value = (struct wd_value){0};
}

static bool is_long(const struct wd_value *value) {
  return value->type == WEIGHTD__V1__METADATA_TYPE__STRING || value->type == WEIGHTD__V1__METADATA_TYPE__ARRAY;
}

json_t *wd_value_json(const struct wd_value *value) {
  json_t *object = json_object();
  json_object_set_new(object, "key", wd_json_text(value->key));
  json_object_set_new(object, "type", json_string(wd_metadata_type_name(value->type)));
  if (value->type == WEIGHTD__V1__METADATA_TYPE__ARRAY) {
    json_object_set_new(object, "element_type", json_string(wd_metadata_type_name(value->element_type)));
  }
  if (is_long(value)) {
    json_object_set_new(object, "length", wd_json_u64(value->length));
    json_object_set_new(object, "truncated", json_boolean(value->truncated));
  }
  if (value->repaired) {
    json_object_set_new(object, "repaired", json_true());
  }
  json_object_set_new(object, "part", wd_json_u64(value->part));
  if (value->scalar_or_array) {
    json_object_set(object, "value", value->scalar_or_array);
  } else {
    json_object_set_new(object, "value", wd_json_text(value->text ? value->text : ""));
  }
  return object;
}

// Text that grows; `limit` 0 is none.
struct builder {
  char *data;
  size_t size;
  FILE *stream;
  size_t limit;
};

static bool full(struct builder *b) {
  fflush(b->stream);
  return b->limit && b->size >= b->limit;
}

static void put_string(struct builder *b, const char *text, bool quote) {
  size_t size = strlen(text);
  if (b->limit && size > b->limit) {
    size = wd_utf8_cut(text, size, b->limit);
  }
  char *clean = malloc(4 * size + 1);
  if (!clean) {
    return;
  }
  fputs(quote ? "'" : "", b->stream);
  for (size_t i = 0; i < size;) {  // a whole string keeps its line feeds and tabs
    size_t n = b->limit ? size : strcspn(text + i, "\n\t");
    n = n < size - i ? n : size - i;
    fputs(wd_clean(text + i, n, clean, 4 * size + 1), b->stream);
    i += n;
    if (i < size) {
      fputc(text[i++], b->stream);
    }
  }
  fputs(quote ? "'" : "", b->stream);
  free(clean);
}

static void put_json(struct builder *b, const json_t *value, Weightd__V1__MetadataType type) {
  switch (json_typeof(value)) {
    case JSON_STRING:
      put_string(b, json_string_value(value), type == WEIGHTD__V1__METADATA_TYPE__STRING);
      break;
    case JSON_INTEGER:
      fprintf(b->stream, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
      break;
    case JSON_REAL:
      fprintf(b->stream, "%.*g", type == WEIGHTD__V1__METADATA_TYPE__FLOAT64 ? 17 : 9, json_real_value(value));
      break;
    case JSON_TRUE:
    case JSON_FALSE:
      fputs(json_is_true(value) ? "true" : "false", b->stream);
      break;
    case JSON_ARRAY:
      fputc('[', b->stream);
      for (size_t i = 0; i < json_array_size(value) && !full(b); i++) {
        fputs(i ? ", " : "", b->stream);
        put_json(b, json_array_get(value, i), type);
      }
      fputc(']', b->stream);
      break;
    default:
      break;
  }
}

char *wd_value_text(const struct wd_value *value, size_t limit) {
  struct builder b = {.limit = limit};
  b.stream = open_memstream(&b.data, &b.size);
  if (!b.stream) {
    return NULL;
  }
  if (value->type == WEIGHTD__V1__METADATA_TYPE__ARRAY && value->scalar_or_array) {
    put_json(&b, value->scalar_or_array, value->element_type);
  } else if (value->scalar_or_array) {
    put_json(&b, value->scalar_or_array, value->type);
  } else {
    put_string(&b, value->text ? value->text : "", false);
  }
  if (fclose(b.stream) != 0) {
    free(b.data);
    return NULL;
  }
  return b.data;
}
