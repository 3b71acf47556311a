// SPDX-License-Identifier: Apache-2.0
//
// Companion scales: an F32 tensor beside an NVFP4 one that holds a factor for all of it, or one for each matrix of its
// last dimension (the experts of a mixture).
#include <endian.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "service/base/checked.h"
#include "service/base/text.h"
#include "service/gguf/model.h"

enum wd_status wd_model_companion(const struct wd_model *model, const struct wd_tensor *tensor,
                                  struct wd_companion *companion, struct wd_error *err) {
  // Never 0, so that users may divide by elements_per_factor.
  *companion = (struct wd_companion){NULL, 1, wd_max_u64(tensor->elements, 1)};
  if (tensor->companion == UINT64_MAX) {
    return WD_OK;
  }
  const struct wd_tensor *scale = wd_model_tensor(model, tensor->companion);
  const char *name = WD_QUOTE(tensor->name, tensor->name_size), *scale_name = WD_QUOTE(scale->name, scale->name_size);
  if (scale->type->type != WD_F32) {
    return wd_fail(err, WD_FAILED_PRECONDITION,
                   "tensor %s is scaled by %s, which has type %s, but only F32 is allowed; request it without the "
                   "companion scale to get it as it is",
                   name, scale_name, scale->type->name);
  }
  uint32_t n_dims = tensor->n_dims;
  while (n_dims > 0 && tensor->dims[n_dims - 1] == 1) {
    n_dims--;
  }
  uint64_t matrices = n_dims >= 3 ? tensor->dims[n_dims - 1] : 1;
  if (scale->elements != 1 && (n_dims < 3 || scale->elements != matrices)) {
    char most[64] = "";
    if (n_dims >= 3) {
      snprintf(most, sizeof most, ", or %" PRIu64 ", one for each matrix,", matrices);
    }
    return wd_fail(err, WD_FAILED_PRECONDITION,
                   "tensor %s is scaled by %s, which holds %" PRIu64
                   " values, but 1%s is allowed; request it without the companion scale to get it as it is",
                   name, scale_name, scale->elements, most);
  }
  companion->tensor = scale;
  companion->count = scale->elements;
  companion->elements_per_factor = wd_max_u64(scale->elements ? tensor->elements / scale->elements : 0, 1);
  return WD_OK;
}

enum wd_status wd_model_companion_factors(const struct wd_model *model, const struct wd_companion *companion,
                                          uint64_t begin, uint64_t count, float *factors, struct wd_error *err) {
  const struct wd_tensor *scale = companion->tensor;
  if (!wd_in_range(begin, count, companion->count)) {
    return wd_fail(err, WD_INTERNAL, "tensor %s has %" PRIu64 " factors: those from %" PRIu64 " on were asked for",
                   WD_QUOTE(scale->name, scale->name_size), companion->count, begin);
  }
  enum wd_status status =
      wd_model_read(model, scale->part, scale->offset + begin * sizeof *factors, factors, count * sizeof *factors, err);
  if (status != WD_OK) {
    return status;
  }
  for (uint64_t i = 0; i < count; i++) {
    uint32_t bits;
    memcpy(&bits, &factors[i], sizeof bits);
    bits = wd_model_info(model)->big_endian ? be32toh(bits) : le32toh(bits);
    memcpy(&factors[i], &bits, sizeof bits);
  }
  return WD_OK;
}
