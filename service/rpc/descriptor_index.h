// SPDX-License-Identifier: Apache-2.0
// The .proto files of our services, as server reflection looks them up.
#ifndef WD_RPC_DESCRIPTOR_INDEX_H
#define WD_RPC_DESCRIPTOR_INDEX_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>

// A serialized google.protobuf.FileDescriptorProto, or {0, NULL} where there is none.
ProtobufCBinaryData wd_descriptor_by_file(const char *file);

// … of the file that defines a service, method, message, field or enum of this full name.
ProtobufCBinaryData wd_descriptor_by_symbol(const char *symbol);

// The full name of service number i, in new memory, or NULL.
char *wd_descriptor_service(size_t i);

#endif
