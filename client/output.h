// SPDX-License-Identifier: Apache-2.0
// What the user sees: text made fit for a terminal, tables, and JSON.
#ifndef WD_CLIENT_OUTPUT_H
#define WD_CLIENT_OUTPUT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Copies text to out with everything escaped that steers a terminal or is not UTF-8, cut with "…" where out is full.
// Like wd_quote, but without quotes and with quotes and backslashes as they are. Returns out.
const char *wd_clean(const char *text, size_t size, char *out, size_t out_size);

// "weightctl: <message>" on stderr. What comes from a server or a file goes in through wd_clean or wd_quote.
void wd_complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Whether the locale writes UTF-8, so that blocks and bars may be drawn.
bool wd_utf8_locale(void);

// Columns of the terminal that `fd` is, or 0 where it is none.
size_t wd_terminal_width(int fd);

// The columns that valid text takes on a terminal: its characters.
size_t wd_text_width(const char *text, size_t size);

// A table: cells are text, columns as wide as their widest cell. On a terminal that is too narrow the columns with the
// lowest rank go first, then the widest column is cut.
struct wd_table;
struct wd_column {
  const char *title;
  bool right;  // numbers
  int rank;    // 0: never left out
};
struct wd_table *wd_table_create(const struct wd_column *columns, size_t n_columns);
// Adds the next cell, row by row; made clean, and copied. Running out of memory shows when the table is printed.
void wd_table_cell(struct wd_table *table, const char *format, ...) __attribute__((format(printf, 2, 3)));
void wd_table_free(struct wd_table *table);  // one that is not to be printed; NULL is allowed
// Prints it, and frees it. False where memory ran out or stdout failed.
bool wd_table_print(struct wd_table *table);

// JSON values; each returns a new reference. Text that is not UTF-8 is repaired. A number that JSON or jansson's 64-bit
// integers cannot hold is text, as in protobuf's JSON: "NaN", "Infinity", "-Infinity", and digits from 2^63 on.
json_t *wd_json_text(const char *text);
json_t *wd_json_u64(uint64_t value);
json_t *wd_json_real(double value);

// Prints a JSON value and a line feed, and drops it. False where it is NULL (memory) or stdout failed.
bool wd_json_print(json_t *value);

#endif
