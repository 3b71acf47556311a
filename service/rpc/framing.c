// SPDX-License-Identifier: Apache-2.0
#include "service/rpc/framing.h"

// Field numbers of TensorChunk, and protobuf's wire types.
enum { FIELD_TENSOR_INDEX = 1, FIELD_OFFSET, FIELD_CRC32C, FIELD_TENSOR, FIELD_SUMMARY, FIELD_DATA };
enum { WIRE_VARINT = 0, WIRE_LENGTH = 2, WIRE_FIXED32 = 5 };

static size_t varint_size(uint64_t value) {
  size_t size = 1;
  while (value >>= 7) {
    size++;
  }
  return size;
}

static uint8_t *put_varint(uint8_t *out, uint64_t value) {
  while (value >= 0x80) {
    *out++ = (uint8_t)(value | 0x80);
    value >>= 7;
  }
  *out++ = (uint8_t)value;
  return out;
}

// Every field number here is below 16, so a tag is one byte.
static uint8_t *put_tag(uint8_t *out, unsigned field, unsigned wire) {
  *out++ = (uint8_t)(field << 3 | wire);
  return out;
}

static size_t submessage_size(const ProtobufCMessage *message) {
  size_t size = protobuf_c_message_get_packed_size(message);
  return 1 + varint_size(size) + size;
}

static uint8_t *put_submessage(uint8_t *out, unsigned field, const ProtobufCMessage *message) {
  out = put_tag(out, field, WIRE_LENGTH);
  out = put_varint(out, protobuf_c_message_get_packed_size(message));
  return out + protobuf_c_message_pack(message, out);
}

size_t wd_frame_header_size(const struct wd_frame *frame) {
  size_t size = 1 + varint_size(frame->tensor_index) + 1 + varint_size(frame->offset) + 1 + sizeof frame->crc32c;
  if (frame->tensor) {
    size += submessage_size(&frame->tensor->base);
  }
  if (frame->summary) {
    size += submessage_size(&frame->summary->base);
  }
  return size + 1 + varint_size(frame->data_size);
}

size_t wd_frame_header(const struct wd_frame *frame, uint8_t *out) {
  uint8_t *at = out;
  at = put_varint(put_tag(at, FIELD_TENSOR_INDEX, WIRE_VARINT), frame->tensor_index);
  at = put_varint(put_tag(at, FIELD_OFFSET, WIRE_VARINT), frame->offset);
  at = put_tag(at, FIELD_CRC32C, WIRE_FIXED32);
  for (int shift = 0; shift < 32; shift += 8) {
    *at++ = (uint8_t)(frame->crc32c >> shift);
  }
  if (frame->tensor) {
    at = put_submessage(at, FIELD_TENSOR, &frame->tensor->base);
  }
  if (frame->summary) {
    at = put_submessage(at, FIELD_SUMMARY, &frame->summary->base);
  }
  at = put_varint(put_tag(at, FIELD_DATA, WIRE_LENGTH), frame->data_size);
  return (size_t)(at - out);
}
