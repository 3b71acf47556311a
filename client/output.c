// SPDX-License-Identifier: Apache-2.0
#include "client/output.h"

#include <langinfo.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "service/base/text.h"

#define ELLIPSIS "\xE2\x80\xA6"

// Whether the valid character at s would end a line or steer a terminal: C0, DEL, C1, the Unicode line ends and the
// marks that turn the direction of text.
static bool steers(const char *s, size_t length) {
  unsigned char a = (unsigned char)s[0], b = length > 1 ? (unsigned char)s[1] : 0,
                c = length > 2 ? (unsigned char)s[2] : 0;
  if (length == 1) {
    return a < 0x20 || a == 0x7F;
  }
  if (length == 2) {
    return a == 0xC2 && b < 0xA0;
  }
  return length == 3 && a == 0xE2 &&
         ((b == 0x80 && (c == 0x8E || c == 0x8F || (c >= 0xA8 && c <= 0xAE))) || (b == 0x81 && c >= 0xA6 && c <= 0xA9));
}

const char *wd_clean(const char *text, size_t size, char *out, size_t out_size) {
  size_t n = 0, cut = 0;  // cut: the end of the longest piece that leaves room for the ellipsis and the NUL
  for (size_t i = 0; i < size;) {
    char piece[16 + 1];
    size_t length = wd_utf8_char(text + i, size - i), piece_size = 0;
    if (length == 0 || steers(text + i, length)) {
      length = length ? length : 1;
      for (size_t k = 0; k < length; k++) {
        piece_size += (size_t)snprintf(piece + piece_size, 5, "\\x%02X", (unsigned char)text[i + k]);
      }
    } else {
      memcpy(piece, text + i, length);
      piece_size = length;
    }
    if (n + piece_size + 1 > out_size) {
      if (out_size >= sizeof ELLIPSIS) {
        memcpy(out + cut, ELLIPSIS, sizeof ELLIPSIS);
        return out;
      }
      break;
    }
    memcpy(out + n, piece, piece_size);
    n += piece_size;
    if (n + sizeof ELLIPSIS <= out_size) {
      cut = n;
    }
    i += length;
  }
  if (out_size > 0) {
    out[n] = '\0';
  }
  return out;
}

void wd_complain(const char *format, ...) {
  va_list args;
  fflush(stdout);
  fputs("weightctl: ", stderr);
  va_start(args, format);
  vfprintf(stderr, format, args);
  va_end(args);
  fputc('\n', stderr);
}

bool wd_utf8_locale(void) {
  return strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
}

size_t wd_terminal_width(int fd) {
  struct winsize size;
  if (!isatty(fd)) {
    return 0;
  }
  return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

size_t wd_text_width(const char *text, size_t size) {
  size_t width = 0;
  for (size_t i = 0; i < size; i++) {
    width += ((unsigned char)text[i] & 0xC0) != 0x80;
  }
  return width;
}

// ------------------------------------------------------------------------------------------------------ tables

struct wd_table {
  size_t n_columns;
  size_t n_cells;
  size_t cells_room;
  char **cells;
  bool failed;
  struct wd_column columns[];
};

struct wd_table *wd_table_create(const struct wd_column *columns, size_t n_columns) {
  struct wd_table *table = calloc(1, sizeof *table + n_columns * sizeof *columns);
  if (table) {
    table->n_columns = n_columns;
    memcpy(table->columns, columns, n_columns * sizeof *columns);
  }
  return table;
}

void wd_table_cell(struct wd_table *table, const char *format, ...) {
  if (!table || table->failed) {
    return;
  }
  if (table->n_cells == table->cells_room) {
    size_t room = table->cells_room ? 2 * table->cells_room : 64;
    char **cells = realloc(table->cells, room * sizeof *cells);
    if (!cells) {
      table->failed = true;
      return;
    }
    table->cells = cells;
    table->cells_room = room;
  }
  char *text;
  va_list args;
  va_start(args, format);
  int n = vasprintf(&text, format, args);
  va_end(args);
  char *cell = n < 0 ? NULL : malloc(4 * (size_t)n + 1);
  if (!cell) {
    table->failed = true;
  } else {
    wd_clean(text, (size_t)n, cell, 4 * (size_t)n + 1);
    char *fitted = realloc(cell, strlen(cell) + 1);
    table->cells[table->n_cells++] = fitted ? fitted : cell;
  }
  if (n >= 0) {
    free(text);
  }
}

static void print_cell(const char *text, size_t width, bool right, bool last) {
  size_t size = strlen(text), own = wd_text_width(text, size);
  int pad = own < width ? (int)(width - own) : 0;
  if (own > width) {  // cut, with an ellipsis in the last column where the locale has one
    size_t end = 0, column = 0;
    while (column + 1 < width) {
      end += wd_utf8_char(text + end, size - end);
      column++;
    }
    printf("%.*s%s", (int)end, text, wd_utf8_locale() ? ELLIPSIS : "~");
  } else if (right) {
    printf("%*s%s", pad, "", text);
  } else {
    printf("%s%*s", text, last ? 0 : pad, "");
  }
  if (!last) {
    fputs("  ", stdout);
  }
}

// Leaves out columns, then cuts the widest, until the table fits `limit`; a width of SIZE_MAX marks one left out.
static void fit(const struct wd_table *table, size_t *widths, size_t limit) {
  for (;;) {
    size_t total = 0, shown = 0, widest = SIZE_MAX, first_to_go = SIZE_MAX;
    for (size_t i = 0; i < table->n_columns; i++) {
      if (widths[i] == SIZE_MAX) {
        continue;
      }
      total += widths[i];
      shown++;
      if (widest == SIZE_MAX || widths[i] > widths[widest]) {
        widest = i;
      }
      if (table->columns[i].rank &&
          (first_to_go == SIZE_MAX || table->columns[i].rank >= table->columns[first_to_go].rank)) {
        first_to_go = i;
      }
    }
    total += shown ? 2 * (shown - 1) : 0;
    if (total <= limit || widest == SIZE_MAX) {
      return;
    }
    if (first_to_go != SIZE_MAX) {
      widths[first_to_go] = SIZE_MAX;
    } else {
      size_t excess = total - limit, least = 8;
      widths[widest] = widths[widest] > excess + least ? widths[widest] - excess : least;
      return;
    }
  }
}

void wd_table_free(struct wd_table *table) {
  for (size_t i = 0; table && i < table->n_cells; i++) {
    free(table->cells[i]);
  }
  if (table) {
    free(table->cells);
  }
  free(table);
}

bool wd_table_print(struct wd_table *table) {
  if (!table) {
    return false;
  }
  size_t n = table->n_columns;
  size_t *widths = calloc(n ? n : 1, sizeof *widths);
  bool ok = widths && !table->failed;
  if (ok) {
    for (size_t i = 0; i < n; i++) {
      widths[i] = strlen(table->columns[i].title);
    }
    for (size_t i = 0; i < table->n_cells; i++) {
      size_t width = wd_text_width(table->cells[i], strlen(table->cells[i]));
      widths[i % n] = width > widths[i % n] ? width : widths[i % n];
    }
    size_t limit = wd_terminal_width(STDOUT_FILENO);
    size_t last = 0;
    if (limit) {
      fit(table, widths, limit);
    }
    for (size_t i = 0; i < n; i++) {
      last = widths[i] == SIZE_MAX ? last : i;
    }
    for (size_t row = 0; row <= table->n_cells / n; row++) {
      for (size_t i = 0; i < n; i++) {
        if (widths[i] != SIZE_MAX) {
          const char *text = row == 0 ? table->columns[i].title : table->cells[(row - 1) * n + i];
          print_cell(text, widths[i], table->columns[i].right, i == last);
        }
      }
      putchar('\n');
    }
    ok = !ferror(stdout);
  }
  free(widths);
  wd_table_free(table);
  return ok;
}

// -------------------------------------------------------------------------------------------------------- JSON

json_t *wd_json_text(const char *text) {
  size_t size = strlen(text);
  json_t *value = json_stringn(text, size);
  if (value) {
    return value;
  }
  char *repaired = malloc(3 * size + 1);
  if (repaired) {
    value = json_stringn(repaired, wd_utf8_repair(text, size, repaired));
    free(repaired);
  }
  return value;
}

json_t *wd_json_u64(uint64_t value) {
  return value <= INT64_MAX ? json_integer((json_int_t)value) : json_sprintf("%llu", (unsigned long long)value);
}

json_t *wd_json_real(double value) {
  return isfinite(value) ? json_real(value) : json_string(isnan(value) ? "NaN" : value < 0 ? "-Infinity" : "Infinity");
}

bool wd_json_print(json_t *value) {
  bool ok = value && json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY) == 0 && putchar('\n') != EOF;
  json_decref(value);
  return ok;
}
