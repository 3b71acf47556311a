// SPDX-License-Identifier: Apache-2.0
// What every method that takes a model does first.
#ifndef WD_RPC_OPEN_MODEL_H
#define WD_RPC_OPEN_MODEL_H

#include "service/gguf/model.h"
#include "service/rpc/call.h"

// Opens the model that a request names, and holds it against the revision that the request asks for (empty: any).
// May block: for tasks only. The reference is the caller's.
enum wd_status wd_open_model(struct wd_call *call, const char *name, const char *if_revision, struct wd_model **model,
                             struct wd_error *err);

#endif
