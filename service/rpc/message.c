// SPDX-License-Identifier: Apache-2.0
#include "service/rpc/message.h"

#include <grpc/byte_buffer_reader.h>
#include <stdint.h>
#include <stdlib.h>

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
  grpc_slice_unref(flat);
  if (*message) {
    return WD_OK;
  }
  if (budget.left < WD_MAX_UNPACKED / 2) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "the request takes more than %s unpacked: ask for less at once",
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

static const struct {
  grpc_status_code code;
  const char *name;
} statuses[] = {
    [WD_OK] = {GRPC_STATUS_OK, "OK"},
    [WD_CANCELLED] = {GRPC_STATUS_CANCELLED, "CANCELLED"},
    [WD_INVALID_ARGUMENT] = {GRPC_STATUS_INVALID_ARGUMENT, "INVALID_ARGUMENT"},
    [WD_NOT_FOUND] = {GRPC_STATUS_NOT_FOUND, "NOT_FOUND"},
    [WD_PERMISSION_DENIED] = {GRPC_STATUS_PERMISSION_DENIED, "PERMISSION_DENIED"},
    [WD_UNAUTHENTICATED] = {GRPC_STATUS_UNAUTHENTICATED, "UNAUTHENTICATED"},
    [WD_FAILED_PRECONDITION] = {GRPC_STATUS_FAILED_PRECONDITION, "FAILED_PRECONDITION"},
    [WD_RESOURCE_EXHAUSTED] = {GRPC_STATUS_RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED"},
    [WD_DATA_LOSS] = {GRPC_STATUS_DATA_LOSS, "DATA_LOSS"},
    [WD_DEADLINE_EXCEEDED] = {GRPC_STATUS_DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"},
    [WD_UNAVAILABLE] = {GRPC_STATUS_UNAVAILABLE, "UNAVAILABLE"},
    [WD_INTERNAL] = {GRPC_STATUS_INTERNAL, "INTERNAL"},
};
#define N_STATUSES (sizeof statuses / sizeof *statuses)

grpc_status_code wd_status_to_grpc(enum wd_status status) {
  return status < N_STATUSES ? statuses[status].code : GRPC_STATUS_UNKNOWN;
}

const char *wd_grpc_status_name(grpc_status_code code) {
  for (size_t i = 0; i < N_STATUSES; i++) {
    if (statuses[i].code == code) {
      return statuses[i].name;
    }
  }
  return code == GRPC_STATUS_UNIMPLEMENTED ? "UNIMPLEMENTED" : "UNKNOWN";
}
