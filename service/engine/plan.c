// SPDX-License-Identifier: Apache-2.0
#include "service/engine/plan.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "service/base/checked.h"
#include "service/base/text.h"

#define NO_SELECTION UINT32_MAX

struct wd_plan {
  const struct wd_model *model;
  enum wd_output output;
  bool no_companion_scale;
  struct wd_selection *selections;  // their patterns are spent
  uint32_t *tensors;                // selected, in file order; NULL: all
  uint32_t *selection_of;           // per entry of tensors (per tensor where that is NULL), or NULL: no selections
  uint64_t n_tensors;
  struct wd_range *ranges;  // each checked, `end` never 0 unless it is empty
  uint64_t n_ranges;
};

// Names and globs of a request, ready to be held against every tensor of a model: exact names by way of the model's own
// index, so that their number costs nothing, and the globs one by one.
struct matcher {
  uint32_t *exact;  // per tensor of the model: the first pattern that is its name, or NO_SELECTION; NULL: there is none
  uint32_t *globs;  // numbers of the patterns that are globs
  size_t n_globs;
};

static void matcher_free(struct matcher *matcher) {
  free(matcher->exact);
  free(matcher->globs);
}

static bool is_glob(struct wd_text text) {
  return memchr(text.data, '*', text.size) != NULL;
}

// Adds pattern number i to the matcher. A text that is a tensor's name is that name, whatever characters it has.
static enum wd_status matcher_add(struct matcher *matcher, const struct wd_model *model, uint32_t i,
                                  struct wd_text text, const char *field, struct wd_error *err) {
  const struct wd_tensor *tensor = wd_model_find_tensor(model, text.data, text.size);
  if (tensor) {
    uint64_t n = wd_model_info(model)->n_tensors;
    if (!matcher->exact) {
      matcher->exact = malloc(n * sizeof *matcher->exact);
      if (!matcher->exact) {
        return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory to select among %" PRIu64 " tensors", n);
      }
      memset(matcher->exact, 0xff, n * sizeof *matcher->exact);
    }
    uint32_t *slot = &matcher->exact[wd_model_tensor_index(model, tensor)];
    *slot = *slot == NO_SELECTION ? i : *slot;
    return WD_OK;
  }
  if (text.size == 0) {
    return wd_fail(err, WD_INVALID_ARGUMENT, "%s: is empty; give a tensor's name or a glob such as 'blk.0.*'", field);
  }
  if (!is_glob(text)) {
    return wd_fail(err, WD_NOT_FOUND, "%s: the model has no tensor %s", field, WD_QUOTE(text.data, text.size));
  }
  if (text.size > WD_MAX_GLOB_BYTES) {
    return wd_fail(err, WD_INVALID_ARGUMENT, "%s: a pattern with '*' has %zu bytes; %d are the most", field, text.size,
                   WD_MAX_GLOB_BYTES);
  }
  if (matcher->n_globs == WD_MAX_GLOBS) {
    return wd_fail(err, WD_INVALID_ARGUMENT, "%s: more than %d patterns with '*'; exact names are not limited", field,
                   WD_MAX_GLOBS);
  }
  if (!matcher->globs) {
    matcher->globs = malloc(WD_MAX_GLOBS * sizeof *matcher->globs);
    if (!matcher->globs) {
      return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory to select tensors");
    }
  }
  matcher->globs[matcher->n_globs++] = i;
  return WD_OK;
}

// What the names in a matcher came from.
struct pattern_list {
  const struct wd_text *texts;            // of StreamTensorsRequest.tensors …
  const struct wd_selection *selections;  // … or of .selections
};

static struct wd_text pattern_text(const struct pattern_list *list, uint32_t i) {
  return list->texts ? list->texts[i] : list->selections[i].pattern;
}

// The number of the pattern that holds for a tensor, or NO_SELECTION. Marks every glob that matches in matched[].
static uint32_t matcher_find(const struct matcher *matcher, const struct pattern_list *list, uint64_t index,
                             const struct wd_tensor *tensor, bool *matched) {
  uint32_t found = matcher->exact ? matcher->exact[index] : NO_SELECTION;
  for (size_t g = 0; g < matcher->n_globs; g++) {
    struct wd_text pattern = pattern_text(list, matcher->globs[g]);
    if (matched[g] && found != NO_SELECTION) {
      continue;
    }
    if (wd_glob_match(pattern.data, pattern.size, tensor->name, tensor->name_size)) {
      matched[g] = true;
      found = found == NO_SELECTION ? matcher->globs[g] : found;
    }
  }
  return found;
}

static enum wd_status matcher_unmatched(const struct matcher *matcher, const struct pattern_list *list,
                                        const bool *matched, const char *field, struct wd_error *err) {
  for (size_t g = 0; g < matcher->n_globs; g++) {
    if (!matched[g]) {
      struct wd_text pattern = pattern_text(list, matcher->globs[g]);
      return wd_fail(err, WD_NOT_FOUND, "%s: no tensor of the model matches %s", field,
                     WD_QUOTE(pattern.data, pattern.size));
    }
  }
  return WD_OK;
}

static bool stopped(const volatile bool *cancelled, uint64_t i) {
  return cancelled && i % 1024 == 0 && *cancelled;
}

static enum wd_status fail_cancelled(struct wd_error *err) {
  return wd_fail(err, WD_CANCELLED, "cancelled while tensors were selected");
}

// Fills plan->tensors from the request's names and globs.
static enum wd_status select_tensors(struct wd_plan *plan, const struct wd_plan_request *request,
                                     const volatile bool *cancelled, struct wd_error *err) {
  uint64_t n = wd_model_info(plan->model)->n_tensors;
  plan->n_tensors = n;
  if (request->n_tensors == 0) {
    return WD_OK;
  }
  struct matcher matcher = {0};
  struct pattern_list list = {.texts = request->tensors};
  bool matched[WD_MAX_GLOBS] = {false};
  uint64_t count = 0;
  enum wd_status status = WD_OK;
  for (size_t i = 0; i < request->n_tensors; i++) {
    if ((status = matcher_add(&matcher, plan->model, (uint32_t)i, request->tensors[i], "tensors", err))) {
      goto out;
    }
  }
  plan->tensors = malloc((n ? n : 1) * sizeof *plan->tensors);
  if (!plan->tensors) {
    status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory to select among %" PRIu64 " tensors", n);
    goto out;
  }
  for (uint64_t i = 0; i < n; i++) {
    if (stopped(cancelled, i)) {
      status = fail_cancelled(err);
      goto out;
    }
    if (matcher_find(&matcher, &list, i, wd_model_tensor(plan->model, i), matched) != NO_SELECTION) {
      plan->tensors[count++] = (uint32_t)i;
    }
  }
  plan->n_tensors = count;
  status = matcher_unmatched(&matcher, &list, matched, "tensors", err);
out:
  matcher_free(&matcher);
  return status;
}

static uint64_t selected_index(const struct wd_plan *plan, uint64_t i) {
  return plan->tensors ? plan->tensors[i] : i;
}

// Fills plan->selection_of.
static enum wd_status match_selections(struct wd_plan *plan, const struct wd_plan_request *request,
                                       const volatile bool *cancelled, struct wd_error *err) {
  if (request->n_selections == 0) {
    return WD_OK;
  }
  struct matcher matcher = {0};
  struct pattern_list list = {.selections = request->selections};
  bool matched[WD_MAX_GLOBS] = {false};
  enum wd_status status = WD_OK;
  for (size_t i = 0; i < request->n_selections; i++) {
    status = matcher_add(&matcher, plan->model, (uint32_t)i, request->selections[i].pattern, "selections.pattern", err);
    if (status) {
      goto out;
    }
  }
  plan->selections = malloc(request->n_selections * sizeof *plan->selections);
  plan->selection_of = malloc((plan->n_tensors ? plan->n_tensors : 1) * sizeof *plan->selection_of);
  if (!plan->selections || !plan->selection_of) {
    status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for %zu selections", request->n_selections);
    goto out;
  }
  memcpy(plan->selections, request->selections, request->n_selections * sizeof *plan->selections);
  // Over all tensors of the model, so that a pattern counts as matched also by one that is not delivered.
  uint64_t place = 0;
  for (uint64_t index = 0; index < wd_model_info(plan->model)->n_tensors; index++) {
    if (stopped(cancelled, index)) {
      status = fail_cancelled(err);
      goto out;
    }
    uint32_t found = matcher_find(&matcher, &list, index, wd_model_tensor(plan->model, index), matched);
    if (place < plan->n_tensors && selected_index(plan, place) == index) {
      plan->selection_of[place++] = found;
    }
  }
  status = matcher_unmatched(&matcher, &list, matched, "selections.pattern", err);
out:
  matcher_free(&matcher);
  return status;
}

// The effective number of axes: a scalar is seen as one element along one axis.
static uint32_t axes(const struct wd_tensor *tensor) {
  return tensor->n_dims ? tensor->n_dims : 1;
}

// Cuts `unit` down to the rows and the slice of a selection.
static enum wd_status apply_selection(struct wd_unit *unit, const struct wd_selection *selection,
                                      struct wd_error *err) {
  const struct wd_tensor *tensor = unit->tensor;
  uint32_t n_axes = axes(tensor);
  uint64_t row_elements = tensor->dims[0];
  uint64_t rows = row_elements ? tensor->elements / row_elements : 0;
  const char *name = WD_QUOTE(tensor->name, tensor->name_size);
  bool cut_rows = selection->row_begin != 0 || selection->row_end != 0;
  uint64_t row_begin = selection->row_begin;
  uint64_t row_end = selection->row_end ? selection->row_end : rows;
  if (cut_rows) {
    if (row_begin > row_end || row_end > rows) {
      return wd_fail(err, WD_INVALID_ARGUMENT,
                     "selections.row_begin, row_end: [%" PRIu64 ", %" PRIu64 ") is not within the %" PRIu64
                     " rows of tensor %s",
                     row_begin, row_end, rows, name);
    }
    unit->view.first = row_begin * row_elements;
    unit->view.run_elements = (row_end - row_begin) * row_elements;
    unit->view.stride = unit->view.run_elements;
    unit->output_dims = 2;
    unit->output_shape[0] = row_end - row_begin;
    unit->output_shape[1] = row_elements;
  }
  if (selection->of == 0) {
    return selection->rank == 0 && selection->axis == 0
               ? WD_OK
               : wd_fail(err, WD_INVALID_ARGUMENT, "selections.slice.of: is 0; give the number of slices");
  }
  int64_t axis = selection->axis < 0 ? (int64_t)n_axes + selection->axis : selection->axis;
  if (axis < 0 || axis >= (int64_t)n_axes) {
    return wd_fail(err, WD_INVALID_ARGUMENT, "selections.slice.axis: %d; tensor %s has axes 0 to %u (or -%u to -1)",
                   selection->axis, name, n_axes - 1, n_axes);
  }
  if (selection->rank >= selection->of) {
    return wd_fail(err, WD_INVALID_ARGUMENT, "selections.slice.rank: %u; with %u slices it is 0 to %u", selection->rank,
                   selection->of, selection->of - 1);
  }
  uint32_t dim = n_axes - 1 - (uint32_t)axis;
  unit->output_dims = cut_rows ? 2 : n_axes;
  if (cut_rows && dim != 0) {
    return wd_fail(err, WD_INVALID_ARGUMENT,
                   "selections.slice.axis: %d; beside a range of rows only the last axis (-1) can be sliced, tensor %s",
                   selection->axis, name);
  }
  uint64_t n = tensor->dims[dim];
  uint64_t begin = (uint64_t)((unsigned __int128)n * selection->rank / selection->of);
  uint64_t end = (uint64_t)((unsigned __int128)n * (selection->rank + 1) / selection->of);
  uint32_t grain = unit->output == WD_OUT_STORED && dim == 0 ? tensor->type->block_elements : 1;
  if (begin % grain || end % grain) {
    return wd_fail(err, WD_INVALID_ARGUMENT,
                   "selections.slice: elements [%" PRIu64 ", %" PRIu64
                   ") of the rows of tensor %s are not whole blocks of %u (%s), which STORED needs",
                   begin, end, name, grain, tensor->type->name);
  }
  uint64_t inner = 1;
  for (uint32_t d = 0; d < dim; d++) {
    inner *= tensor->dims[d];
  }
  uint64_t outer = n && inner ? (cut_rows ? row_end - row_begin : tensor->elements / n / inner) : 0;
  unit->view.first += begin * inner;
  unit->view.run_elements = (end - begin) * inner;
  unit->view.stride = n * inner;
  unit->view.n_runs = outer;
  unit->output_shape[cut_rows ? 1 : axis] = end - begin;
  return WD_OK;
}

// The whole of a selected tensor, cut as its selection says; `selection` may be NULL.
static enum wd_status make_unit(const struct wd_plan *plan, uint64_t index, const struct wd_selection *selection,
                                struct wd_unit *unit, struct wd_error *err) {
  const struct wd_tensor *tensor = wd_model_tensor(plan->model, index);
  const struct wd_type_info *type = tensor->type;
  *unit = (struct wd_unit){
      .tensor = tensor,
      .tensor_index = index,
      .output = selection && selection->has_output ? selection->output : plan->output,
      .view = {.run_elements = tensor->elements, .stride = tensor->elements, .n_runs = 1},
      .output_dims = tensor->n_dims,
  };
  for (uint32_t d = 0; d < tensor->n_dims; d++) {
    unit->output_shape[d] = tensor->dims[tensor->n_dims - 1 - d];
  }
  enum wd_status status = selection ? apply_selection(unit, selection, err) : WD_OK;
  if (status) {
    return status;
  }
  uint64_t grain_elements = unit->output == WD_OUT_STORED ? type->block_elements : 1;
  unit->grain_bytes = unit->output == WD_OUT_STORED ? type->block_bytes : wd_output_bytes(unit->output);
  uint64_t elements = unit->view.run_elements * unit->view.n_runs;  // at most the tensor's: it fits
  if (!wd_mul_u64(elements / grain_elements, unit->grain_bytes, &unit->output_bytes)) {
    return wd_fail(err, WD_INVALID_ARGUMENT, "output_type: tensor %s would have more than 2^64 bytes",
                   WD_QUOTE(tensor->name, tensor->name_size));
  }
  unit->end = unit->output_bytes;
  if (unit->output != WD_OUT_STORED && !plan->no_companion_scale) {
    return wd_model_companion(plan->model, tensor, &unit->companion, err);
  }
  return WD_OK;
}

static const struct wd_selection *selection_at(const struct wd_plan *plan, uint64_t i) {
  return plan->selection_of && plan->selection_of[i] != NO_SELECTION ? &plan->selections[plan->selection_of[i]] : NULL;
}

// The place of a tensor among the selected ones, or UINT64_MAX. They are in file order.
static uint64_t place_of(const struct wd_plan *plan, uint64_t index) {
  if (!plan->tensors) {
    return index < plan->n_tensors ? index : UINT64_MAX;
  }
  uint64_t low = 0;
  uint64_t high = plan->n_tensors;
  while (low < high) {
    uint64_t middle = low + (high - low) / 2;
    if (plan->tensors[middle] < index) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < plan->n_tensors && plan->tensors[low] == index ? low : UINT64_MAX;
}

static enum wd_status check_ranges(struct wd_plan *plan, const struct wd_plan_request *request,
                                   const volatile bool *cancelled, struct wd_error *err) {
  if (request->n_ranges == 0) {
    return WD_OK;
  }
  plan->ranges = malloc(request->n_ranges * sizeof *plan->ranges);
  if (!plan->ranges) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for %zu ranges", request->n_ranges);
  }
  for (size_t i = 0; i < request->n_ranges; i++) {
    if (stopped(cancelled, i)) {
      return fail_cancelled(err);
    }
    struct wd_range range = request->ranges[i];
    uint64_t n = wd_model_info(plan->model)->n_tensors;
    if (range.tensor_index >= n) {
      return wd_fail(err, WD_INVALID_ARGUMENT, "ranges.tensor_index: %" PRIu64 "; the model has %" PRIu64 " tensors",
                     range.tensor_index, n);
    }
    uint64_t place = place_of(plan, range.tensor_index);
    if (place == UINT64_MAX) {
      return wd_fail(err, WD_INVALID_ARGUMENT,
                     "ranges.tensor_index: tensor %" PRIu64 " is not among those that `tensors` names",
                     range.tensor_index);
    }
    struct wd_unit unit;
    enum wd_status status = make_unit(plan, range.tensor_index, selection_at(plan, place), &unit, err);
    if (status) {
      return status;
    }
    range.end = range.end ? range.end : unit.output_bytes;
    if (range.begin > range.end || range.end > unit.output_bytes) {
      return wd_fail(err, WD_INVALID_ARGUMENT,
                     "ranges.begin, end: [%" PRIu64 ", %" PRIu64 ") is not within the %" PRIu64
                     " bytes selected of tensor %" PRIu64,
                     range.begin, range.end, unit.output_bytes, range.tensor_index);
    }
    if (range.begin % unit.grain_bytes || range.end % unit.grain_bytes) {
      return wd_fail(err, WD_INVALID_ARGUMENT,
                     "ranges.begin, end: [%" PRIu64 ", %" PRIu64 ") cuts through the %u-byte %s of tensor %" PRIu64,
                     range.begin, range.end, unit.grain_bytes, unit.output == WD_OUT_STORED ? "blocks" : "elements",
                     range.tensor_index);
    }
    plan->ranges[i] = range;
  }
  plan->n_ranges = request->n_ranges;
  return WD_OK;
}

enum wd_status wd_plan_create(const struct wd_model *model, const struct wd_plan_request *request,
                              const volatile bool *cancelled, struct wd_plan **plan, struct wd_error *err) {
  struct wd_plan *p = calloc(1, sizeof *p);
  if (!p) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for a plan");
  }
  p->model = model;
  p->output = request->output;
  p->no_companion_scale = request->no_companion_scale;
  enum wd_status status = select_tensors(p, request, cancelled, err);
  status = status ? status : match_selections(p, request, cancelled, err);
  // With ranges only their tensors are delivered; without, every selected tensor has to hold up.
  if (!status && request->n_ranges) {
    status = check_ranges(p, request, cancelled, err);
  } else {
    for (uint64_t i = 0; !status && i < p->n_tensors; i++) {
      struct wd_unit unit;
      status = stopped(cancelled, i) ? fail_cancelled(err)
                                     : make_unit(p, selected_index(p, i), selection_at(p, i), &unit, err);
    }
  }
  if (status) {
    wd_plan_destroy(p);
    return status;
  }
  *plan = p;
  return WD_OK;
}

void wd_plan_destroy(struct wd_plan *plan) {
  if (plan) {
    free(plan->selections);
    free(plan->tensors);
    free(plan->selection_of);
    free(plan->ranges);
    free(plan);
  }
}

uint64_t wd_plan_units(const struct wd_plan *plan) {
  return plan->ranges ? plan->n_ranges : plan->n_tensors;
}

void wd_plan_unit(const struct wd_plan *plan, uint64_t i, struct wd_unit *unit) {
  uint64_t index = plan->ranges ? plan->ranges[i].tensor_index : selected_index(plan, i);
  uint64_t place = plan->ranges ? place_of(plan, index) : i;
  make_unit(plan, index, selection_at(plan, place), unit, NULL);  // checked when the plan was made
  if (plan->ranges) {
    unit->begin = plan->ranges[i].begin;
    unit->end = plan->ranges[i].end;
  }
}

enum wd_status wd_plan_device_bytes(const struct wd_plan *plan, uint64_t *bytes, struct wd_error *err) {
  *bytes = 0;
  for (uint64_t i = 0; i < wd_plan_units(plan); i++) {
    struct wd_unit unit;
    wd_plan_unit(plan, i, &unit);
    if (!wd_add_u64(*bytes, unit.output_bytes, bytes) || !wd_align_u64(*bytes, WD_DEVICE_ALIGNMENT, bytes)) {
      return wd_fail(err, WD_INVALID_ARGUMENT, "tensors: what is selected takes more than 2^64 bytes");
    }
  }
  return WD_OK;
}
