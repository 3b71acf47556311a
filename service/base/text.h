// SPDX-License-Identifier: Apache-2.0
// Text from untrusted sources, and numbers with units.
#ifndef WD_BASE_TEXT_H
#define WD_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The length of the valid UTF-8 character at the start of text[0..size), or 0 where there is none (the encoding is
// wrong, overlong, a surrogate, beyond U+10FFFF, or cut by the end).
size_t wd_utf8_char(const char *text, size_t size);

// Whether all of text[0..size) is valid UTF-8. NUL counts as a character.
bool wd_utf8_valid(const char *text, size_t size);

// Copies text to out with each byte that starts no valid character replaced by U+FFFD. out needs 3 * size bytes.
// Returns the bytes written.
size_t wd_utf8_repair(const char *text, size_t size, char *out);

// The longest prefix of at most `limit` bytes of valid UTF-8 text[0..size) that ends between characters.
size_t wd_utf8_cut(const char *text, size_t size, size_t limit);

// Room for a quoted name of 64 bytes with some escapes.
#define WD_QUOTED 160

// Writes text in single quotes, cut with "…" where out is full. Quotes, backslashes, control characters (line
// separators and direction marks among them) and invalid UTF-8 become \xNN. Returns out, so that it can stand in an
// argument list.
const char *wd_quote(const char *text, size_t size, char *out, size_t out_size);

// wd_quote into a fresh local buffer: valid until the end of the enclosing block.
#define WD_QUOTE(text, size) wd_quote((text), (size), (char[WD_QUOTED]){0}, WD_QUOTED)

// Whether text[0..text_size) matches pattern, in which '*' stands for any run of characters, the empty one too.
// Time is at most the product of the two lengths.
bool wd_glob_match(const char *pattern, size_t pattern_size, const char *text, size_t text_size);

// Parses "4096", "256MiB", "1.5G", "64k": a number and an optional unit (k M G T, each with optional i and B; all are
// powers of 1024). False where text is anything else or does not fit.
bool wd_parse_bytes(const char *text, uint64_t *bytes);

// Parses "500ms", "30s", "5m", "1h", "2.5" (seconds) to milliseconds.
bool wd_parse_duration_ms(const char *text, uint64_t *ms);

// Parses a whole number in [min, max], nothing before or after it.
bool wd_parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *value);

// "1.5 MiB" and the like, into out. Returns out.
const char *wd_format_bytes(uint64_t bytes, char *out, size_t out_size);
#define WD_BYTES(n) wd_format_bytes((n), (char[24]){0}, 24)

#endif
