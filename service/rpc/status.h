// SPDX-License-Identifier: Apache-2.0
// Between weightd's statuses and gRPC's, for both ends of a call.
#ifndef WD_RPC_STATUS_H
#define WD_RPC_STATUS_H

#include <grpc/status.h>

#include "service/base/error.h"

// The trailer, of gRPC's retry design, that says after how many milliseconds a refused call may be made again.
#define WD_PUSHBACK_KEY "grpc-retry-pushback-ms"

// The code that a call ends with. UNKNOWN for what is no status.
grpc_status_code wd_status_to_grpc(enum wd_status status);

// The status that such a code tells of. Of those that weightd's own calls never end with, OUT_OF_RANGE is
// WD_INVALID_ARGUMENT, since it is no use to try again, and the others WD_INTERNAL.
enum wd_status wd_status_from_grpc(grpc_status_code code);

// "NOT_FOUND"; any number that is no code is "UNKNOWN".
const char *wd_grpc_status_name(grpc_status_code code);

#endif
