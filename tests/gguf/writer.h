// SPDX-License-Identifier: Apache-2.0
// Builds GGUF files in memory, byte for byte as told, also wrong ones.
#ifndef WD_TESTS_GGUF_WRITER_H
#define WD_TESTS_GGUF_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Zero-initialized is an empty little-endian file. Out of memory aborts.
struct writer {
  unsigned char *data;
  size_t size, capacity;
  bool big_endian;
};

void writer_free(struct writer *w);

// Appends. Each returns the offset at which what it wrote begins.
size_t w_bytes(struct writer *w, const void *bytes, size_t size);
size_t w_fill(struct writer *w, unsigned char byte, size_t size);
size_t w_u8(struct writer *w, uint8_t value);
size_t w_u16(struct writer *w, uint16_t value);
size_t w_u32(struct writer *w, uint32_t value);
size_t w_u64(struct writer *w, uint64_t value);
size_t w_f32(struct writer *w, float value);
size_t w_f64(struct writer *w, double value);
size_t w_string(struct writer *w, const void *text, size_t size);  // with its length
size_t w_text(struct writer *w, const char *text);                 // the same of a C string
size_t w_pad(struct writer *w, size_t alignment);

// Overwrites.
void w_set_u32(struct writer *w, size_t offset, uint32_t value);
void w_set_u64(struct writer *w, size_t offset, uint64_t value);

// Magic, version and counts.
void w_start(struct writer *w, uint32_t version, uint64_t n_tensors, uint64_t n_keys);

// A key and its value's type (WD_VALUE_*); the value is to follow.
size_t w_key(struct writer *w, const char *key, uint32_t type);
void w_key_text(struct writer *w, const char *key, const char *text);
void w_key_u32(struct writer *w, const char *key, uint32_t value);
void w_key_split(struct writer *w, uint16_t no, uint16_t count, int32_t tensors);  // the three split.* keys

// An entry of the tensor directory.
size_t w_tensor(struct writer *w, const char *name, uint32_t type, uint32_t n_dims, const uint64_t *dims,
                uint64_t offset);

// A small valid file: four keys (a string, a number, an array of strings, an array of numbers) and two F32 tensors,
// "a.weight" of 8 and "b.weight" of [4, 2] elements whose values are their indices.
void w_sample(struct writer *w);

// A valid file with everything in it that a header can hold: an alignment, nested arrays, split.* keys, a tensor with a
// companion scale, one without elements. Its data are the last 52 bytes.
void w_rich_sample(struct writer *w);

// Writes the file to folder `dir`.
void w_save(const struct writer *w, int dir, const char *name);

#endif
