// SPDX-License-Identifier: Apache-2.0
// A model: one GGUF file, or all parts of a split one seen as one. Untrusted bytes throughout.
//
// Opening reads the headers (metadata and tensor directory) of all parts once, checks everything there is to check, and
// keeps the tensor directory and where each metadata value stands; values and tensor data stay in the files and are
// read with pread when asked for. A wd_model is immutable after it was opened and may be used by any number of threads.
#ifndef WD_GGUF_MODEL_H
#define WD_GGUF_MODEL_H

#include "service/base/error.h"
#include "service/formats/types.h"
#include "service/gguf/root.h"

#define WD_MAX_DIMS 4
#define WD_MAX_NAME 64        // bytes of a tensor name
#define WD_MAX_ARRAY_DEPTH 8  // of nested metadata arrays; a plain array is 1 deep
#define WD_MAX_OVERLAP 4      // times the files' bytes that tensors which overlap may hold: a small file stays small
#define WD_REVISION_SIZE 33   // 32 hexadecimal digits and a NUL

// What a reader refuses beyond what the format forbids, so that memory and time are bounded. Over all parts of a model.
struct wd_model_limits {
  uint64_t max_header_bytes;
  uint64_t max_tensors;
  uint64_t max_metadata;
  uint32_t max_parts;
};
extern const struct wd_model_limits wd_model_default_limits;  // 1 GiB, 2^20, 2^18, 1024

// The types of metadata values, with GGUF's numbers.
enum wd_value_type {
  WD_VALUE_UINT8,
  WD_VALUE_INT8,
  WD_VALUE_UINT16,
  WD_VALUE_INT16,
  WD_VALUE_UINT32,
  WD_VALUE_INT32,
  WD_VALUE_FLOAT32,
  WD_VALUE_BOOL,
  WD_VALUE_STRING,
  WD_VALUE_ARRAY,
  WD_VALUE_UINT64,
  WD_VALUE_INT64,
  WD_VALUE_FLOAT64,
  WD_VALUE_TYPE_COUNT
};

// A metadata key and where its value stands: what follows the u32 value type, so a string's length field or an array's
// element type come first. gguf/value.h reads it.
struct wd_metadata {
  const char *key;  // valid UTF-8, NUL-terminated, no NUL inside, owned by the model
  uint32_t key_size;
  enum wd_value_type type;
  uint32_t part;
  uint64_t offset;  // in the part's file
  uint64_t bytes;   // all of the value
};

struct wd_tensor {
  const char *name;  // valid UTF-8, NUL-terminated, 1 to 64 bytes, no NUL inside, unique, owned by the model
  const struct wd_type_info *type;
  uint32_t name_size;
  uint32_t part;
  uint32_t n_dims;             // 0 to 4, as in the file; 0 is a scalar of one element
  uint64_t dims[WD_MAX_DIMS];  // as in the file: the fastest first; 1 beyond n_dims
  uint64_t elements;
  uint64_t bytes;   // stored: elements / block_elements * block_bytes
  uint64_t offset;  // of the first byte in the part's file: offset + bytes is within the file
  // The F32 tensor that scales this one (scalable types only; formats/types.h), or UINT64_MAX. It exists, but whether
  // its shape fits is for wd_model_companion to say.
  uint64_t companion;
};

struct wd_part {
  uint64_t file_bytes;
  uint64_t data_offset;  // where tensor data begins
};

struct wd_model_info {
  const char *name;                 // as clients name it: without the part suffix for a split model
  char revision[WD_REVISION_SIZE];  // from the headers' bytes and the files' sizes: equal wherever the same files are
  char architecture[65];            // general.architecture, cut and repaired, or empty
  char title[129];                  // general.name, cut and repaired, or empty
  uint32_t version;
  bool big_endian;
  uint64_t alignment;  // the first part's
  uint32_t n_parts;
  uint64_t file_bytes;  // of all parts
  uint64_t n_metadata;
  uint64_t n_tensors;
  uint64_t elements;      // of all tensors
  uint64_t stored_bytes;  // of all tensors
  uint64_t f16_bytes;     // of all tensors as FP16
  uint64_t memory_bytes;  // that this model holds
};

struct wd_model;

// Opens the model that `path` names beneath root (see the proto's conventions). limits may be NULL: the default ones.
// On success *model has one reference. NOT_FOUND, PERMISSION_DENIED (outside the root), FAILED_PRECONDITION (not a
// readable model: the message names the file, the byte and the reason), RESOURCE_EXHAUSTED (over a limit).
enum wd_status wd_model_open(const struct wd_root *root, const char *path, const struct wd_model_limits *limits,
                             struct wd_model **model, struct wd_error *err);

struct wd_model *wd_model_ref(struct wd_model *model);
void wd_model_unref(struct wd_model *model);  // the last one closes the files; NULL is allowed

const struct wd_model_info *wd_model_info(const struct wd_model *model);
const struct wd_part *wd_model_part(const struct wd_model *model, uint32_t part);
const struct wd_tensor *wd_model_tensor(const struct wd_model *model, uint64_t index);      // index < n_tensors
const struct wd_metadata *wd_model_metadata(const struct wd_model *model, uint64_t index);  // index < n_metadata

// The tensor or key of exactly this name, or NULL. Constant time.
const struct wd_tensor *wd_model_find_tensor(const struct wd_model *model, const char *name, size_t size);
const struct wd_metadata *wd_model_find_metadata(const struct wd_model *model, const char *key, size_t size);

// Tensors in wd_model_tensor's numbering.
uint64_t wd_model_tensor_index(const struct wd_model *model, const struct wd_tensor *tensor);

// Reads exactly size bytes at offset of a part's file into buffer. DATA_LOSS where the file ended early, changed its
// size or its time of modification since the model was opened, or could not be read; the message names file and byte.
enum wd_status wd_model_read(const struct wd_model *model, uint32_t part, uint64_t offset, void *buffer, size_t size,
                             struct wd_error *err);

// How a tensor's companion applies: factor number i holds for elements [i * elements_per_factor, (i+1) * …) and stands
// in the companion tensor's element i.
struct wd_companion {
  const struct wd_tensor *tensor;  // NULL: no companion, factor 1 throughout
  uint64_t count;                  // 1, or one per matrix of the last dimension
  uint64_t elements_per_factor;
};

// FAILED_PRECONDITION, naming both tensors, where the companion is not F32 or its count is neither 1 nor one per matrix
// of the last dimension.
enum wd_status wd_model_companion(const struct wd_model *model, const struct wd_tensor *tensor,
                                  struct wd_companion *companion, struct wd_error *err);

// Reads factors [begin, begin + count) of a companion with a tensor, as float. DATA_LOSS as wd_model_read.
enum wd_status wd_model_companion_factors(const struct wd_model *model, const struct wd_companion *companion,
                                          uint64_t begin, uint64_t count, float *factors, struct wd_error *err);

#endif
