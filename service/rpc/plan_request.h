// SPDX-License-Identifier: Apache-2.0
// What requests say of tensors, in the engine's terms.
#ifndef WD_RPC_PLAN_REQUEST_H
#define WD_RPC_PLAN_REQUEST_H

#include "service/engine/plan.h"
#include "weightd/v1/weightd.pb-c.h"

// Each checks a part of a request and puts it into *plan. INVALID_ARGUMENT names the field. Names, patterns and arrays
// of the request must outlive the plan request; what is allocated is freed by wd_plan_request_free, whatever they
// returned.
enum wd_status wd_read_names(char *const *names, size_t n, struct wd_plan_request *plan, struct wd_error *err);
enum wd_status wd_read_output(Weightd__V1__OutputType output, struct wd_plan_request *plan, struct wd_error *err);
enum wd_status wd_read_selections(Weightd__V1__Selection *const *selections, size_t n, struct wd_plan_request *plan,
                                  struct wd_error *err);
enum wd_status wd_read_ranges(Weightd__V1__Range *const *ranges, size_t n, struct wd_plan_request *plan,
                              struct wd_error *err);

void wd_plan_request_free(struct wd_plan_request *plan);

#endif
