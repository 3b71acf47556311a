// SPDX-License-Identifier: Apache-2.0
// The header of a safetensors file (https://github.com/huggingface/safetensors#format): eight bytes, little-endian,
// with the length of a JSON object, the object, then the tensors' bytes without gaps. The object has for each name a
// `dtype`, a `shape` (slowest first) and `data_offsets` counted from the end of the header; `__metadata__` maps text to
// text. Headers may not exceed 100 MB.
#ifndef WD_CLIENT_SAFETENSORS_H
#define WD_CLIENT_SAFETENSORS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "service/base/error.h"

#define WD_SAFETENSORS_MAX_HEADER 100000000u
#define WD_SAFETENSORS_MAX_SHAPE 8

struct wd_file_tensor {
  const char *name;   // valid UTF-8
  const char *dtype;  // "F16", "U8", …
  size_t n_shape;
  uint64_t shape[WD_SAFETENSORS_MAX_SHAPE];
  uint64_t begin, end;  // of its bytes, in the data section
};

// Bits of an element of a dtype, or 0 for one that is not known.
uint32_t wd_dtype_bits(const char *dtype);

// The 8 bytes and the object, padded with spaces to whole words of 8: *header (malloc'd) and *size. The tensors' places
// are taken as they are. `metadata` is an object of strings. RESOURCE_EXHAUSTED where the header would be too long.
enum wd_status wd_safetensors_header(const struct wd_file_tensor *tensors, size_t n, const json_t *metadata,
                                     char **header, size_t *size, struct wd_error *err);

// A header that was read.
struct wd_safetensors {
  struct wd_file_tensor *tensors;  // in order of their bytes
  size_t n;
  uint64_t data;  // where the data section begins
  json_t *root;   // owns the names
};

// Reads and checks a header of someone else's making from fd: sizes that fit, known dtypes, bytes that match dtype and
// shape, no gaps and no overlaps, the file's end where the data's is. FAILED_PRECONDITION says what is wrong.
enum wd_status wd_safetensors_read(int fd, struct wd_safetensors *file, struct wd_error *err);
void wd_safetensors_free(struct wd_safetensors *file);

// A string of `__metadata__`, or NULL.
const char *wd_safetensors_metadata(const struct wd_safetensors *file, const char *key);

// Lets all JSON values together take no more than `bytes`: what would take more fails like an allocation. To be called
// before any use of jansson.
#define WD_JSON_LIMIT ((uint64_t)1 << 30)
void wd_json_limit_memory(uint64_t bytes);

#endif
