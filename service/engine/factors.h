// SPDX-License-Identifier: Apache-2.0
// The factors of a tensor's companion, a window of them at hand: what backends look them up with. For C and CUDA C++.
#ifndef WD_ENGINE_FACTORS_H
#define WD_ENGINE_FACTORS_H

#include "service/engine/backend.h"

#define WD_FACTORS_AT_HAND 256

struct wd_factors {
  uint64_t begin;  // numbers of the factors at hand; none where begin == end, which is how a job starts
  uint64_t end;
  float values[WD_FACTORS_AT_HAND];
};

// The factor that holds for an element of the job's tensor, and the element where the next one begins: 1 and UINT64_MAX
// for a tensor without companion.
static inline enum wd_status wd_find_factor(struct wd_factors *factors, struct wd_job *job, uint64_t element,
                                            float *factor, uint64_t *until) {
  *factor = 1;
  *until = UINT64_MAX;
  if (!job->factor_elements) {
    return WD_OK;
  }
  uint64_t i = element / job->factor_elements;
  if (i < factors->begin || i >= factors->end) {
    uint64_t n = job->tensor_elements / job->factor_elements - i;
    n = n < WD_FACTORS_AT_HAND ? n : WD_FACTORS_AT_HAND;
    factors->begin = factors->end = 0;
    enum wd_status status = job->read_factors(job, i, n, factors->values, &job->error);
    if (status) {
      return status;
    }
    factors->begin = i;
    factors->end = i + n;
  }
  *factor = factors->values[i - factors->begin];
  *until = (i + 1) * job->factor_elements;
  return WD_OK;
}

#endif
