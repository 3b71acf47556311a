// SPDX-License-Identifier: Apache-2.0
#include "service/telemetry/accept.h"

#include <ctype.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

// text[0..size) without the blanks around it.
static const char *trim(const char *text, size_t *size) {
  while (*size && isspace((unsigned char)*text)) {
    text++;
    --*size;
  }
  while (*size && isspace((unsigned char)text[*size - 1])) {
    --*size;
  }
  return text;
}

static bool is(const char *text, size_t size, const char *word) {
  return strlen(word) == size && strncasecmp(text, word, size) == 0;
}

// Thousandths; what cannot be read is 0, so that it is not chosen.
static int quality(const char *text, size_t size) {
  char copy[8] = "";
  char *end;
  if (size == 0 || size >= sizeof copy) {
    return 0;
  }
  memcpy(copy, text, size);
  double value = strtod(copy, &end);
  return *end == '\0' && value >= 0 && value <= 1 ? (int)(value * 1000 + 0.5) : 0;
}

// How much the header likes one thing it lists, and whether that is OpenMetrics of a version that we write, or text.
static int read_range(const char *text, size_t size, bool *openmetrics) {
  int liked = 1000;
  bool known = false;
  for (bool type = true; size; type = false) {
    size_t part = strcspn(text, ";,");
    part = part < size ? part : size;
    size_t n = part;
    const char *word = trim(text, &n);
    if (type) {
      *openmetrics = is(word, n, "application/openmetrics-text");
      known = *openmetrics || is(word, n, "text/plain") || is(word, n, "text/*") || is(word, n, "*/*");
    } else if (n > 2 && strncasecmp(word, "q=", 2) == 0) {
      liked = quality(word + 2, n - 2);
    } else if (*openmetrics && n > 8 && strncasecmp(word, "version=", 8) == 0) {
      known = is(word + 8, n - 8, "1.0.0");
    }
    part += part < size;  // the semicolon
    text += part;
    size -= part;
  }
  return known ? liked : 0;
}

bool wd_accepts_openmetrics(const char *accept) {
  int best[2] = {0, 0};
  while (*accept) {
    size_t size = strcspn(accept, ",");
    bool openmetrics = false;
    int liked = read_range(accept, size, &openmetrics);
    if (liked > best[openmetrics]) {
      best[openmetrics] = liked;
    }
    accept += size + (accept[size] == ',');
  }
  return best[true] > 0 && best[true] >= best[false];
}
