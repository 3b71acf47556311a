// SPDX-License-Identifier: Apache-2.0
// The methods of the server, one file each.
#ifndef WD_RPC_METHODS_H
#define WD_RPC_METHODS_H

#include "service/rpc/call.h"

extern const struct wd_method wd_get_server_info;
extern const struct wd_method wd_list_models_method;
extern const struct wd_method wd_describe_model;
extern const struct wd_method wd_stream_tensors;
extern const struct wd_method wd_stream_stats;
extern const struct wd_method wd_lease_tensors;
extern const struct wd_method wd_health_check;
extern const struct wd_method wd_health_watch;
extern const struct wd_method wd_reflection_v1;
extern const struct wd_method wd_reflection_v1alpha;

// All of them.
#define WD_METHODS 10
extern const struct wd_method *const wd_methods[WD_METHODS];

#endif
