// SPDX-License-Identifier: Apache-2.0
// What a request selects of a model: which tensors, which of their elements, as what, and in which byte ranges.
//
// A plan is compact (a few bytes a selected tensor); the geometry of each unit is computed when its turn comes.
#ifndef WD_ENGINE_PLAN_H
#define WD_ENGINE_PLAN_H

#include "service/formats/decode.h"
#include "service/gguf/model.h"

// Most patterns with a '*' in one request: each is held against every name of the model.
#define WD_MAX_GLOBS 256
// Most bytes of such a pattern: a name has WD_MAX_NAME at most, so more of them could only be further stars.
#define WD_MAX_GLOB_BYTES 256

// A piece of text from a request; not NUL-terminated as far as the plan is concerned.
struct wd_text {
  const char *data;
  size_t size;
};

// Fields as in the proto's Selection.
struct wd_selection {
  struct wd_text pattern;
  uint64_t row_begin;
  uint64_t row_end;  // 0: all
  int32_t axis;
  uint32_t rank;
  uint32_t of;      // 0: no slice
  bool has_output;  // else the request's
  enum wd_output output;
};

// Fields as in the proto's Range.
struct wd_range {
  uint64_t tensor_index;
  uint64_t begin;
  uint64_t end;  // 0: the end
};

struct wd_plan_request {
  const struct wd_text *tensors;  // exact names or globs; none: all
  size_t n_tensors;
  const struct wd_selection *selections;
  size_t n_selections;
  const struct wd_range *ranges;  // none: all of what is selected
  size_t n_ranges;
  enum wd_output output;
  bool no_companion_scale;
};

// The selected elements of a tensor: n_runs runs of run_elements consecutive ones, the starts stride elements apart.
struct wd_view {
  uint64_t first;
  uint64_t run_elements;
  uint64_t stride;
  uint64_t n_runs;
};

// One tensor's, or one range's, share of a plan.
struct wd_unit {
  const struct wd_tensor *tensor;
  uint64_t tensor_index;
  enum wd_output output;
  struct wd_view view;
  uint64_t output_shape[WD_MAX_DIMS];  // slowest first
  uint32_t output_dims;
  uint64_t output_bytes;  // of the selection
  uint64_t begin;         // the bytes of it to deliver
  uint64_t end;
  // Bytes that are never cut: an element's, or with STORED a block's.
  uint32_t grain_bytes;
  struct wd_companion companion;  // .tensor is NULL where none applies
};

struct wd_plan;

// Checks the whole request against the model: each name and pattern matches, each selection and range fits its tensor,
// and each companion its tensor. INVALID_ARGUMENT and NOT_FOUND name the field; FAILED_PRECONDITION is a companion that
// does not fit. *cancelled (may be NULL) is looked at now and then; when it is set the result is CANCELLED.
// The plan refers to the model, which must outlive it, and to nothing of the request.
enum wd_status wd_plan_create(const struct wd_model *model, const struct wd_plan_request *request,
                              const volatile bool *cancelled, struct wd_plan **plan, struct wd_error *err);
void wd_plan_destroy(struct wd_plan *plan);  // NULL is allowed

// The number of units, and unit i (i < wd_plan_units).
uint64_t wd_plan_units(const struct wd_plan *plan);
void wd_plan_unit(const struct wd_plan *plan, uint64_t i, struct wd_unit *unit);

// Units in device memory begin on multiples of this.
#define WD_DEVICE_ALIGNMENT 256

// What all units take in device memory, one behind the other. INVALID_ARGUMENT where that is beyond 64 bits.
enum wd_status wd_plan_device_bytes(const struct wd_plan *plan, uint64_t *bytes, struct wd_error *err);

#endif
