// SPDX-License-Identifier: Apache-2.0
// Metadata as DescribeModel sends it: read from the files piece by piece, so that a value of any size goes out in
// messages of bounded size from bounded memory.
#ifndef WD_RPC_DESCRIBE_METADATA_H
#define WD_RPC_DESCRIBE_METADATA_H

#include <grpc/grpc.h>
#include <stdbool.h>

#include "service/gguf/model.h"

// Strings are cut to this many bytes and arrays to this many elements, unless the request names their key.
#define WD_METADATA_CUT_STRING 4096
#define WD_METADATA_CUT_ARRAY 64
// An entry is closed when its value has this many bytes; a named value then goes on in further entries. A string that
// is an element of an array is cut to as many bytes, an array inside an array where its entry is full. What is not
// UTF-8 takes up to three times the space once it is repaired.
#define WD_METADATA_PIECE ((size_t)64 << 10)

struct wd_metadata_writer;

// keys are sent whole. NOT_FOUND where the model has no such key. The model must outlive the writer.
enum wd_status wd_metadata_writer_create(const struct wd_model *model, char *const *keys, size_t n_keys,
                                         struct wd_metadata_writer **writer, struct wd_error *err);
void wd_metadata_writer_destroy(struct wd_metadata_writer *writer);  // NULL is allowed

bool wd_metadata_writer_more(const struct wd_metadata_writer *writer);

// The next ModelDescription with about `bytes` bytes of metadata, packed. DATA_LOSS where the files changed.
enum wd_status wd_metadata_writer_next(struct wd_metadata_writer *writer, size_t bytes, grpc_byte_buffer **message,
                                       struct wd_error *err);

#endif
