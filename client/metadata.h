// SPDX-License-Identifier: Apache-2.0
// Metadata entries as values: long ones come in pieces, which are put together here, and shown as text or JSON.
#ifndef WD_CLIENT_METADATA_H
#define WD_CLIENT_METADATA_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "weightd/v1/weightd.pb-c.h"

// One key with as much of its value as was sent.
struct wd_value {
  char *key;
  Weightd__V1__MetadataType type;
  Weightd__V1__MetadataType element_type;  // of an array
  uint32_t part;
  uint64_t length;  // of the whole string (bytes) or array (elements)
  bool truncated, repaired;
  json_t *scalar_or_array;  // NULL for strings
  char *special;            // a scalar that JSON has no number for, as text; else NULL
  char *text;               // a string, NUL-terminated
  size_t text_size, text_room;
  bool failed;  // memory ran out
};

// Whether an entry goes on with the value's key.
bool wd_value_continues(const struct wd_value *value, const Weightd__V1__MetadataEntry *entry);

// Begins a value with an entry, or goes on with it. A zeroed struct is an empty value.
void wd_value_add(struct wd_value *value, const Weightd__V1__MetadataEntry *entry);
void wd_value_free(struct wd_value *value);

// {"key", "type", "part", "value", …}: a new reference.
json_t *wd_value_json(const struct wd_value *value);

// The value in one line of about `limit` bytes, or, with limit 0, whole: then strings keep their line feeds, and what
// would steer a terminal is escaped either way. malloc'd; NULL without memory.
char *wd_value_text(const struct wd_value *value, size_t limit);

const char *wd_metadata_type_name(Weightd__V1__MetadataType type);  // "UINT32"

#endif
