// SPDX-License-Identifier: Apache-2.0
#include "service/rpc/plan_request.h"

#include <stdlib.h>
#include <string.h>

#include "service/base/text.h"

// A text of a request, which protobuf-c takes as it comes.
static enum wd_status read_text(const char *field, const char *text, struct wd_text *to, struct wd_error *err) {
  *to = (struct wd_text){text, strlen(text)};
  if (!wd_utf8_valid(to->data, to->size)) {
    return wd_fail(err, WD_INVALID_ARGUMENT, "%s: %s is not valid UTF-8", field, WD_QUOTE(to->data, to->size));
  }
  return WD_OK;
}

static enum wd_status no_memory(struct wd_error *err) {
  return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for the request");
}

enum wd_status wd_read_names(char *const *names, size_t n, struct wd_plan_request *plan, struct wd_error *err) {
  struct wd_text *texts = calloc(n + 1, sizeof *texts);
  enum wd_status status = texts ? WD_OK : no_memory(err);
  plan->tensors = texts;
  plan->n_tensors = n;
  for (size_t i = 0; !status && i < n; i++) {
    status = read_text("tensors", names[i], &texts[i], err);
  }
  return status;
}

enum wd_status wd_read_output(Weightd__V1__OutputType output, struct wd_plan_request *plan, struct wd_error *err) {
  if ((unsigned)output > WEIGHTD__V1__OUTPUT_TYPE__STORED) {
    return wd_fail(err, WD_INVALID_ARGUMENT, "output_type: %d is none of F16, BF16, F32, STORED", (int)output);
  }
  plan->output = (enum wd_output)output;
  return WD_OK;
}

static enum wd_status read_selection(const Weightd__V1__Selection *from, struct wd_selection *to,
                                     struct wd_error *err) {
  to->row_begin = from->row_begin;
  to->row_end = from->row_end;
  if (from->slice) {
    if (from->slice->of == 0) {
      return wd_fail(err, WD_INVALID_ARGUMENT, "selections.slice.of: is 0; give the number of slices, or no slice");
    }
    to->axis = from->slice->axis;
    to->rank = from->slice->rank;
    to->of = from->slice->of;
  }
  if ((unsigned)from->output_type > WEIGHTD__V1__OUTPUT_TYPE_CHOICE__AS_STORED) {
    return wd_fail(err, WD_INVALID_ARGUMENT,
                   "selections.output_type: %d is none of AS_REQUEST, AS_F16, AS_BF16, AS_F32, AS_STORED",
                   (int)from->output_type);
  }
  to->has_output = from->output_type != WEIGHTD__V1__OUTPUT_TYPE_CHOICE__AS_REQUEST;
  to->output = to->has_output ? (enum wd_output)(from->output_type - 1) : WD_OUT_F16;
  return read_text("selections.pattern", from->pattern, &to->pattern, err);
}

enum wd_status wd_read_selections(Weightd__V1__Selection *const *selections, size_t n, struct wd_plan_request *plan,
                                  struct wd_error *err) {
  struct wd_selection *to = calloc(n + 1, sizeof *to);
  enum wd_status status = to ? WD_OK : no_memory(err);
  plan->selections = to;
  plan->n_selections = n;
  for (size_t i = 0; !status && i < n; i++) {
    status = read_selection(selections[i], &to[i], err);
  }
  return status;
}

enum wd_status wd_read_ranges(Weightd__V1__Range *const *ranges, size_t n, struct wd_plan_request *plan,
                              struct wd_error *err) {
  struct wd_range *to = calloc(n + 1, sizeof *to);
  plan->ranges = to;
  plan->n_ranges = n;
  for (size_t i = 0; to && i < n; i++) {
    to[i] = (struct wd_range){ranges[i]->tensor_index, ranges[i]->begin, ranges[i]->end};
  }
  return to ? WD_OK : no_memory(err);
}

void wd_plan_request_free(struct wd_plan_request *plan) {
  free((void *)plan->tensors);
  free((void *)plan->selections);
  free((void *)plan->ranges);
}
