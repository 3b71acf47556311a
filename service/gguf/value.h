// SPDX-License-Identifier: Apache-2.0
// Reads metadata values from a model's files, a piece at a time, in bounded memory.
#ifndef WD_GGUF_VALUE_H
#define WD_GGUF_VALUE_H

#include "service/gguf/model.h"

// One scalar, in the widest of its kind; which member holds is the type's business.
union wd_scalar {
  uint64_t u;
  int64_t i;
  double f;  // a FLOAT32 widened
  bool b;    // any byte but 0 is true
};

// A place in a value: a buffered reader over the value's bytes, with the file's byte order.
struct wd_value_cursor;

// Starts at the value's first byte (after its type). The model must outlive the cursor.
enum wd_status wd_value_open(const struct wd_model *model, const struct wd_metadata *metadata,
                             struct wd_value_cursor **cursor, struct wd_error *err);
void wd_value_close(struct wd_value_cursor *cursor);  // NULL is allowed

// Each reads what the cursor stands on and moves past it. The caller knows from the types what comes next.
// DATA_LOSS where the file changed since it was opened.
enum wd_status wd_value_scalar(struct wd_value_cursor *cursor, enum wd_value_type type, union wd_scalar *scalar,
                               struct wd_error *err);
enum wd_status wd_value_array(struct wd_value_cursor *cursor, enum wd_value_type *element_type, uint64_t *count,
                              struct wd_error *err);
enum wd_status wd_value_string_size(struct wd_value_cursor *cursor, uint64_t *size, struct wd_error *err);
// After wd_value_string_size: the next `size` bytes of the string into out, or, where out is NULL, past them.
enum wd_status wd_value_string_bytes(struct wd_value_cursor *cursor, char *out, uint64_t size, struct wd_error *err);

// Moves past a whole value of the given type.
enum wd_status wd_value_skip(struct wd_value_cursor *cursor, enum wd_value_type type, struct wd_error *err);

#endif
