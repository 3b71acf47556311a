// SPDX-License-Identifier: Apache-2.0
#include "tests/gguf/writer.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "service/gguf/model.h"

static void check(bool ok, const char *what) {
  if (!ok) {
    perror(what);
    abort();
  }
}

void writer_free(struct writer *w) {
  free(w->data);
  *w = (struct writer){.big_endian = w->big_endian};
}

size_t w_fill(struct writer *w, unsigned char byte, size_t size) {
  if (w->capacity - w->size < size) {
    w->capacity = 2 * w->capacity + size + 256;
    w->data = realloc(w->data, w->capacity);
    check(w->data != NULL, "realloc");
  }
  if (size > 0) {
    memset(w->data + w->size, byte, size);
  }
  w->size += size;
  return w->size - size;
}

size_t w_bytes(struct writer *w, const void *bytes, size_t size) {
  size_t at = w_fill(w, 0, size);
  if (size > 0) {
    memcpy(w->data + at, bytes, size);
  }
  return at;
}

static void put(struct writer *w, size_t at, uint64_t value, size_t size) {
  for (size_t i = 0; i < size; i++) {
    w->data[at + (w->big_endian ? size - 1 - i : i)] = (unsigned char)(value >> (8 * i));
  }
}

static size_t number(struct writer *w, uint64_t value, size_t size) {
  size_t at = w_fill(w, 0, size);
  put(w, at, value, size);
  return at;
}

size_t w_u8(struct writer *w, uint8_t value) {
  return number(w, value, 1);
}

size_t w_u16(struct writer *w, uint16_t value) {
  return number(w, value, 2);
}

size_t w_u32(struct writer *w, uint32_t value) {
  return number(w, value, 4);
}

size_t w_u64(struct writer *w, uint64_t value) {
  return number(w, value, 8);
}

size_t w_f32(struct writer *w, float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return w_u32(w, bits);
}

size_t w_f64(struct writer *w, double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  return w_u64(w, bits);
}

size_t w_string(struct writer *w, const void *text, size_t size) {
  size_t at = w_u64(w, size);
  w_bytes(w, text, size);
  return at;
}

size_t w_text(struct writer *w, const char *text) {
  return w_string(w, text, strlen(text));
}

size_t w_pad(struct writer *w, size_t alignment) {
  return w_fill(w, 0, (alignment - w->size % alignment) % alignment);
}

void w_set_u32(struct writer *w, size_t offset, uint32_t value) {
  put(w, offset, value, 4);
}

void w_set_u64(struct writer *w, size_t offset, uint64_t value) {
  put(w, offset, value, 8);
}

void w_start(struct writer *w, uint32_t version, uint64_t n_tensors, uint64_t n_keys) {
  w_bytes(w, "GGUF", 4);
  w_u32(w, version);
  w_u64(w, n_tensors);
  w_u64(w, n_keys);
}

size_t w_key(struct writer *w, const char *key, uint32_t type) {
  size_t at = w_text(w, key);
  w_u32(w, type);
  return at;
}

void w_key_text(struct writer *w, const char *key, const char *text) {
  w_key(w, key, WD_VALUE_STRING);
  w_text(w, text);
}

void w_key_u32(struct writer *w, const char *key, uint32_t value) {
  w_key(w, key, WD_VALUE_UINT32);
  w_u32(w, value);
}

void w_key_split(struct writer *w, uint16_t no, uint16_t count, int32_t tensors) {
  w_key(w, "split.no", WD_VALUE_UINT16);
  w_u16(w, no);
  w_key(w, "split.count", WD_VALUE_UINT16);
  w_u16(w, count);
  w_key(w, "split.tensors.count", WD_VALUE_INT32);
  w_u32(w, (uint32_t)tensors);
}

size_t w_tensor(struct writer *w, const char *name, uint32_t type, uint32_t n_dims, const uint64_t *dims,
                uint64_t offset) {
  size_t at = w_text(w, name);
  w_u32(w, n_dims);
  for (uint32_t i = 0; i < n_dims; i++) {
    w_u64(w, dims[i]);
  }
  w_u32(w, type);
  w_u64(w, offset);
  return at;
}

void w_sample(struct writer *w) {
  w_start(w, 3, 2, 4);
  w_key_text(w, "general.architecture", "sample");
  w_key_u32(w, "sample.count", 7);
  w_key(w, "sample.tokens", WD_VALUE_ARRAY);
  w_u32(w, WD_VALUE_STRING);
  w_u64(w, 3);
  w_text(w, "one");
  w_text(w, "");
  w_text(w, "three");
  w_key(w, "sample.scores", WD_VALUE_ARRAY);
  w_u32(w, WD_VALUE_INT16);
  w_u64(w, 2);
  w_u16(w, 1);
  w_u16(w, 2);
  w_tensor(w, "a.weight", 0, 1, (uint64_t[]){8}, 0);
  w_tensor(w, "b.weight", 0, 2, (uint64_t[]){4, 2}, 32);
  w_pad(w, 32);
  for (int i = 0; i < 16; i++) {
    w_f32(w, (float)(i % 8));
  }
}

void w_rich_sample(struct writer *w) {
  w_start(w, 3, 3, 7);
  w_key_text(w, "general.architecture", "x");
  w_key_u32(w, "general.alignment", 16);
  w_key(w, "a", WD_VALUE_ARRAY);
  w_u32(w, WD_VALUE_ARRAY);
  w_u64(w, 2);
  for (int i = 0; i < 2; i++) {
    w_u32(w, WD_VALUE_STRING);
    w_u64(w, 1);
    w_text(w, "s");
  }
  w_key_split(w, 0, 1, 3);
  w_key(w, "f", WD_VALUE_FLOAT64);
  w_f64(w, 1.5);
  w_tensor(w, "x.weight", 40, 2, (uint64_t[]){64, 1}, 0);
  w_tensor(w, "x.scale", 0, 1, (uint64_t[]){1}, 48);
  w_tensor(w, "z", 8, 3, (uint64_t[]){32, 0, 2}, 0);
  w_pad(w, 16);
  w_fill(w, 0x3C, 36);
  w_fill(w, 0, 12);
  w_f32(w, 2);
}

void w_save(const struct writer *w, int dir, const char *name) {
  unlinkat(dir, name, 0);  // ext4 writes a file that is cut to nothing and written again to the disk at once
  int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  check(fd >= 0, name);
  for (size_t done = 0; done < w->size;) {
    ssize_t n = write(fd, w->data + done, w->size - done);
    check(n > 0, name);
    done += (size_t)n;
  }
  check(close(fd) == 0, name);
}
