// SPDX-License-Identifier: Apache-2.0
// TensorChunk messages, written by hand so that the payload is never copied.
//
// A protobuf parser takes fields in any order, so the small ones go first and `data` last: one slice holds the small
// fields and the tag and length of `data`, the next is the payload where it lies.
//
//   ┌ header slice ──────────────────────────────────────────────────────────────┐┌ payload slice ┐
//    tensor_index  offset  crc32c  [tensor]  [summary]  tag(data) length(data)     bytes of data
#ifndef WD_RPC_FRAMING_H
#define WD_RPC_FRAMING_H

#include <stddef.h>
#include <stdint.h>

#include "weightd/v1/weightd.pb-c.h"

struct wd_frame {
  uint64_t tensor_index;
  uint64_t offset;
  uint32_t crc32c;
  const Weightd__V1__Tensor *tensor;    // NULL: not the first chunk
  const Weightd__V1__Summary *summary;  // NULL: not the last one
  uint64_t data_size;
};

// The bytes that wd_frame_header writes.
size_t wd_frame_header_size(const struct wd_frame *frame);

// Writes everything of the message that comes before the bytes of `data`. Returns wd_frame_header_size's value.
size_t wd_frame_header(const struct wd_frame *frame, uint8_t *out);

#endif
