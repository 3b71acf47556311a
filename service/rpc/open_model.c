// SPDX-License-Identifier: Apache-2.0
#include "service/rpc/open_model.h"

#include <string.h>

#include "service/base/text.h"
#include "service/rpc/server.h"

enum wd_status wd_open_model(struct wd_call *call, const char *name, const char *if_revision, struct wd_model **model,
                             struct wd_error *err) {
  size_t size = strlen(name);
  if (size == 0) {
    return wd_fail(err, WD_INVALID_ARGUMENT,
                   "model: is empty; give a path relative to the model root (ListModels lists them)");
  }
  if (!wd_utf8_valid(name, size)) {
    return wd_fail(err, WD_INVALID_ARGUMENT, "model: %s is not valid UTF-8", WD_QUOTE(name, size));
  }
  wd_call_set_model(call, name);
  enum wd_status status = wd_model_cache_get(wd_server_cache(wd_call_server(call)), name, model, err);
  if (status) {
    return status;
  }
  const char *revision = wd_model_info(*model)->revision;
  if (*if_revision && strcmp(if_revision, revision) != 0) {
    status =
        wd_fail(err, WD_FAILED_PRECONDITION, "if_revision: model %s has revision %s now, not %s: describe it again",
                WD_QUOTE(name, size), revision, WD_QUOTE(if_revision, strlen(if_revision)));
    wd_model_unref(*model);
    *model = NULL;
  }
  return status;
}
