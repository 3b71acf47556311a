// SPDX-License-Identifier: Apache-2.0
#include "service/base/text.h"

#include <stdio.h>
#include <string.h>

#include "service/base/checked.h"

size_t wd_utf8_char(const char *text, size_t size) {
  const unsigned char *s = (const unsigned char *)text;
  if (size == 0) {
    return 0;
  }
  if (s[0] < 0x80) {
    return 1;
  }
  // The first byte says how many follow and which values of the second would be overlong, a surrogate, or too large.
  size_t length;
  unsigned char low = 0x80, high = 0xBF;
  if (s[0] >= 0xC2 && s[0] <= 0xDF) {
    length = 2;
  } else if (s[0] >= 0xE0 && s[0] <= 0xEF) {
    length = 3;
    if (s[0] == 0xE0) {
      low = 0xA0;
    } else if (s[0] == 0xED) {
      high = 0x9F;
    }
  } else if (s[0] >= 0xF0 && s[0] <= 0xF4) {
    length = 4;
    if (s[0] == 0xF0) {
      low = 0x90;
    } else if (s[0] == 0xF4) {
      high = 0x8F;
    }
  } else {
    return 0;
  }
  if (size < length || s[1] < low || s[1] > high) {
    return 0;
  }
  for (size_t i = 2; i < length; i++) {
    if (s[i] < 0x80 || s[i] > 0xBF) {
      return 0;
    }
  }
  return length;
}

bool wd_utf8_valid(const char *text, size_t size) {
  for (size_t i = 0; i < size;) {
    size_t n = wd_utf8_char(text + i, size - i);
    if (n == 0) {
      return false;
    }
    i += n;
  }
  return true;
}

size_t wd_utf8_repair(const char *text, size_t size, char *out) {
  static const char replacement[] = {'\xEF', '\xBF', '\xBD'};
  size_t written = 0;
  for (size_t i = 0; i < size;) {
    size_t n = wd_utf8_char(text + i, size - i);
    if (n == 0) {
      memcpy(out + written, replacement, sizeof replacement);
      written += sizeof replacement;
      i++;
    } else {
      memcpy(out + written, text + i, n);
      written += n;
      i += n;
    }
  }
  return written;
}

size_t wd_utf8_cut(const char *text, size_t size, size_t limit) {
  if (size <= limit) {
    return size;
  }
  while (limit > 0 && ((unsigned char)text[limit] & 0xC0) == 0x80) {
    limit--;
  }
  return limit;
}

// Whether the valid character at s would end a line or steer a terminal: C0, DEL, C1, the two Unicode line separators,
// and the marks that change the direction of text.
static bool is_control(const char *s, size_t length) {
  const unsigned char *u = (const unsigned char *)s;
  if (length == 1) {
    return u[0] < 0x20 || u[0] == 0x7F;
  }
  if (length == 2) {
    return u[0] == 0xC2 && u[1] < 0xA0;
  }
  if (length == 3 && u[0] == 0xE2) {
    return (u[1] == 0x80 && (u[2] == 0x8E || u[2] == 0x8F || (u[2] >= 0xA8 && u[2] <= 0xAE))) ||
           (u[1] == 0x81 && u[2] >= 0xA6 && u[2] <= 0xA9);
  }
  return false;
}

const char *wd_quote(const char *text, size_t size, char *out, size_t out_size) {
  static const char ellipsis[] = "\xE2\x80\xA6";
  enum { TAIL = 2, CUT_TAIL = 3 + TAIL };  // what must still fit: the quote and the NUL, perhaps after the ellipsis
  if (out_size < 1 + CUT_TAIL) {
    if (out_size > 0) {
      out[0] = '\0';
    }
    return out;
  }
  size_t n = 0, cut = 1;  // cut: the end of the longest piece that leaves room for the ellipsis
  out[n++] = '\'';
  for (size_t i = 0; i < size;) {
    size_t length = wd_utf8_char(text + i, size - i);
    char piece[4 * 4 + 1];
    size_t piece_size;
    if (length == 0 || is_control(text + i, length) || text[i] == '\'' || text[i] == '\\') {
      length = length ? length : 1;
      piece_size = 0;
      for (size_t k = 0; k < length; k++) {
        piece_size += (size_t)snprintf(piece + piece_size, 5, "\\x%02X", (unsigned char)text[i + k]);
      }
    } else {
      memcpy(piece, text + i, length);
      piece_size = length;
    }
    if (n + piece_size + TAIL > out_size) {
      n = cut;
      memcpy(out + n, ellipsis, 3);
      n += 3;
      break;
    }
    memcpy(out + n, piece, piece_size);
    n += piece_size;
    if (n + CUT_TAIL <= out_size) {
      cut = n;
    }
    i += length;
  }
  out[n++] = '\'';
  out[n] = '\0';
  return out;
}

bool wd_glob_match(const char *pattern, size_t pattern_size, const char *text, size_t text_size) {
  // On a mismatch the last star takes one character more. Earlier stars need not be tried again: whatever they took,
  // the last star can make up for.
  size_t p = 0, t = 0, star = SIZE_MAX, star_text = 0;
  while (t < text_size) {
    if (p < pattern_size && pattern[p] == '*') {
      star = p++;
      star_text = t;
    } else if (p < pattern_size && pattern[p] == text[t]) {
      p++;
      t++;
    } else if (star != SIZE_MAX) {
      p = star + 1;
      t = ++star_text;
    } else {
      return false;
    }
  }
  while (p < pattern_size && pattern[p] == '*') {
    p++;
  }
  return p == pattern_size;
}

// A decimal number: whole + fraction / scale. Fractions have at most six digits.
struct decimal {
  uint64_t whole, fraction, scale;
};

// Parses the number at the start of text; returns what follows it, or NULL.
static const char *parse_decimal(const char *text, struct decimal *d) {
  *d = (struct decimal){0, 0, 1};
  const char *s = text;
  for (; *s >= '0' && *s <= '9'; s++) {
    if (!wd_mul_u64(d->whole, 10, &d->whole) || !wd_add_u64(d->whole, (uint64_t)(*s - '0'), &d->whole)) {
      return NULL;
    }
  }
  if (s == text) {
    return NULL;
  }
  if (*s != '.') {
    return s;
  }
  const char *point = s++;
  for (; *s >= '0' && *s <= '9'; s++) {
    if (s - point > 6) {
      return NULL;
    }
    d->fraction = d->fraction * 10 + (uint64_t)(*s - '0');
    d->scale *= 10;
  }
  return s == point + 1 ? NULL : s;
}

// d times unit, rounded down. A fraction of the smallest unit is no number we know what to do with.
static bool scale_decimal(const struct decimal *d, uint64_t unit, uint64_t *value) {
  uint64_t fraction;  // fits: at most 10^6 * 2^40
  return (d->scale == 1 || unit > 1) && wd_mul_u64(d->whole, unit, value) && wd_mul_u64(d->fraction, unit, &fraction) &&
         wd_add_u64(*value, fraction / d->scale, value);
}

bool wd_parse_bytes(const char *text, uint64_t *bytes) {
  struct decimal d;
  const char *s = parse_decimal(text, &d);
  if (!s) {
    return false;
  }
  uint64_t unit = 1;
  if (*s) {
    static const char letters[] = "kmgt";
    const char *letter = strchr(letters, *s | 0x20);
    if (!letter) {
      return false;
    }
    unit = UINT64_C(1) << (10 * (letter - letters + 1));
    s++;
    s += *s == 'i';
    s += *s == 'B' || *s == 'b';
  }
  return !*s && scale_decimal(&d, unit, bytes);
}

bool wd_parse_duration_ms(const char *text, uint64_t *ms) {
  static const struct {
    const char *name;
    uint64_t ms;
  } units[] = {{"", 1000}, {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
  struct decimal d;
  const char *s = parse_decimal(text, &d);
  for (size_t i = 0; s && i < sizeof units / sizeof *units; i++) {
    if (strcmp(s, units[i].name) == 0) {
      return scale_decimal(&d, units[i].ms, ms);
    }
  }
  return false;
}

bool wd_parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *value) {
  struct decimal d;
  const char *s = parse_decimal(text, &d);
  if (!s || *s || d.scale != 1 || d.whole < min || d.whole > max) {
    return false;
  }
  *value = d.whole;
  return true;
}

const char *wd_format_bytes(uint64_t bytes, char *out, size_t out_size) {
  static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes < 1024) {
    snprintf(out, out_size, "%u B", (unsigned)bytes);
    return out;
  }
  // Tenths of a unit, rounded; from 1024.0 on the next unit says it better.
  uint64_t tenths = 0;
  size_t unit = 0;
  for (;; unit++) {
    unsigned shift = 10 * (unsigned)(unit + 1);
    uint64_t rest = bytes & ((UINT64_C(1) << shift) - 1);
    // Keep the product within 64 bits: only the top bits of the rest matter for one digit.
    unsigned drop = shift > 50 ? shift - 50 : 0;
    tenths = (bytes >> shift) * 10 + (((rest >> drop) * 10 + (UINT64_C(1) << (shift - drop - 1))) >> (shift - drop));
    if (tenths < 10240 || unit + 1 == sizeof units / sizeof *units) {
      break;
    }
  }
  snprintf(out, out_size, "%u.%u %s", (unsigned)(tenths / 10), (unsigned)(tenths % 10), units[unit]);
  return out;
}
