// SPDX-License-Identifier: Apache-2.0
// Parses the header of one part: magic, version, counts, metadata, tensor directory.
//
// The format's facts are those of the GGUF specification (ggml, docs/gguf.md): "GGUF", u32 version, u64 tensor count,
// u64 key count, the keys (string, u32 type, value), the tensors (string, u32 dimensions, u64 each, u32 type, u64
// offset), padding to the alignment, data. In a big-endian file all of these but the magic are big-endian, so its
// version read as little-endian has low 16 bits of zero.
#ifndef WD_GGUF_HEADER_H
#define WD_GGUF_HEADER_H

#include "service/gguf/contents.h"

// The most bytes of a key: what the specification allows.
#define WD_MAX_KEY 65535

// A key that parts of a split model have; `offset` is where its value stands.
struct wd_split_key {
  bool present;
  int64_t value;
  uint64_t offset;
};

struct wd_header {
  uint32_t version;
  bool big_endian;
  uint64_t alignment;
  uint64_t data_offset;
  struct wd_split_key split_no, split_count, split_tensors;
};

// One part's file. What is read lies within its size when it was opened.
struct wd_header_file {
  int fd;
  const char *name;  // for messages
  uint64_t bytes;
  uint32_t part;
};

// Adds the part's metadata and tensors to contents. A key that an earlier part has is passed over (each part of a split
// model repeats split.*, and the first part's word counts), but for general.alignment, which holds for its own part.
// FAILED_PRECONDITION with file, byte, key or tensor, and reason; RESOURCE_EXHAUSTED over a limit.
enum wd_status wd_header_parse(struct wd_contents *contents, const struct wd_header_file *file,
                               struct wd_header *header, struct wd_error *err);

#endif
