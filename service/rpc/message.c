// SPDX-License-Identifier: Apache-2.0
#include "service/rpc/message.h"

#include <grpc/byte_buffer_reader.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "service/base/text.h"

// protobuf-c sizes its arrays by what it finds on the wire, and an empty sub-message takes two bytes there and a
// hundred here: so what one request may allocate is capped.
struct budget {
  size_t left;
};

static void *capped_alloc(void *data, size_t size) {
  struct budget *budget = data;
  if (size > budget->left) {
    return NULL;
  }
  budget->left -= size;
  return malloc(size ? size : 1);
}

static void plain_free(void *data, void *pointer) {
  (void)data;
  free(pointer);
}

// A varint at *at, before end; false where it is cut or too long.
static bool get_varint(const uint8_t **at, const uint8_t *end, uint64_t *value) {
  *value = 0;
  for (unsigned shift = 0; shift < 64 && *at < end; shift += 7) {
    uint8_t byte = *(*at)++;
    *value |= (uint64_t)(byte & 0x7f) << shift;
    if (!(byte & 0x80)) {
      return true;
    }
  }
  return false;
}

// The name of a string field in which there is a NUL, or NULL. protobuf-c gives strings as C strings, in which what
// follows a NUL would be passed over in silence. Messages nest as deep as the proto says, so recursion is bounded.
static const char *field_with_nul(const ProtobufCMessageDescriptor *type, const uint8_t *at, const uint8_t *end) {
  uint64_t tag;
  uint64_t size;
  while (at < end && get_varint(&at, end, &tag)) {
    switch (tag & 7) {
      case 0:
        if (!get_varint(&at, end, &size)) {
          return NULL;
        }
        continue;
      case 1:
        size = 8;
        break;
      case 2:
        if (!get_varint(&at, end, &size)) {
          return NULL;
        }
        break;
      case 5:
        size = 4;
        break;
      default:
        return NULL;
    }
    if (size > (uint64_t)(end - at)) {
      return NULL;
    }
    const ProtobufCFieldDescriptor *field =
        (tag & 7) == 2 ? protobuf_c_message_descriptor_get_field(type, (unsigned)(tag >> 3)) : NULL;
    if (field && field->type == PROTOBUF_C_TYPE_STRING && memchr(at, 0, size)) {
      return field->name;
    }
    if (field && field->type == PROTOBUF_C_TYPE_MESSAGE) {
      const char *found = field_with_nul(field->descriptor, at, at + size);
      if (found) {
        return found;
      }
    }
    at += size;
  }
  return NULL;
}

enum wd_status wd_message_unpack(const ProtobufCMessageDescriptor *type, grpc_byte_buffer *bytes,
                                 ProtobufCMessage **message, struct wd_error *err) {
  grpc_byte_buffer_reader reader;
  if (!bytes || !grpc_byte_buffer_reader_init(&reader, bytes)) {
    return wd_fail(err, WD_INVALID_ARGUMENT, "the request could not be read (is it compressed in a way unknown here?)");
  }
  grpc_slice flat = grpc_byte_buffer_reader_readall(&reader);
  grpc_byte_buffer_reader_destroy(&reader);
  struct budget budget = {WD_MAX_UNPACKED};
  ProtobufCAllocator allocator = {capped_alloc, plain_free, &budget};
  *message = protobuf_c_message_unpack(type, &allocator, GRPC_SLICE_LENGTH(flat), GRPC_SLICE_START_PTR(flat));
  const char *nul = NULL;
  if (*message) {
    nul = field_with_nul(type, GRPC_SLICE_START_PTR(flat), GRPC_SLICE_START_PTR(flat) + GRPC_SLICE_LENGTH(flat));
  }
  grpc_slice_unref(flat);
  if (nul) {
    wd_message_free(*message);
    *message = NULL;
    return wd_fail(err, WD_INVALID_ARGUMENT, "%s: holds a NUL character, which no name has", nul);
  }
  if (*message) {
    return WD_OK;
  }
  if (budget.left < WD_MAX_UNPACKED / 2) {
    return wd_fail_limit(err, WD_LIMIT_REQUEST_SIZE, "the request takes more than %s unpacked: ask for less at once",
                         WD_BYTES(WD_MAX_UNPACKED));
  }
  return wd_fail(err, WD_INVALID_ARGUMENT, "the request is not a valid %s", type->name);
}

void wd_message_free(ProtobufCMessage *message) {
  if (message) {
    protobuf_c_message_free_unpacked(message, NULL);
  }
}

grpc_byte_buffer *wd_message_pack(const ProtobufCMessage *message) {
  size_t size = protobuf_c_message_get_packed_size(message);
  grpc_slice slice = grpc_slice_malloc(size);
  protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
  grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
  grpc_slice_unref(slice);
  return buffer;
}
