// SPDX-License-Identifier: Apache-2.0
// Between protobuf-c messages and gRPC byte buffers.
#ifndef WD_RPC_MESSAGE_H
#define WD_RPC_MESSAGE_H

#include <grpc/grpc.h>
#include <protobuf-c/protobuf-c.h>

#include "service/base/error.h"

// Most bytes that one request may take once it is unpacked; a request of 4 MiB on the wire can ask for far more.
#define WD_MAX_UNPACKED ((size_t)16 << 20)

// Unpacks a request. INVALID_ARGUMENT where the bytes are no such message, RESOURCE_EXHAUSTED beyond WD_MAX_UNPACKED.
// On success *message is to be freed with wd_message_free.
enum wd_status wd_message_unpack(const ProtobufCMessageDescriptor *type, grpc_byte_buffer *bytes,
                                 ProtobufCMessage **message, struct wd_error *err);
void wd_message_free(ProtobufCMessage *message);  // NULL is allowed

// Packs a message into a new byte buffer, or returns NULL where there is no memory.
grpc_byte_buffer *wd_message_pack(const ProtobufCMessage *message);

#endif
