// SPDX-License-Identifier: Apache-2.0
#include "client/plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/base/checked.h"
#include "service/base/text.h"

static const struct {
  const char *name;
  uint32_t size;
} outputs[] = {
    [WEIGHTD__V1__OUTPUT_TYPE__F16] = {"f16", 2},
    [WEIGHTD__V1__OUTPUT_TYPE__BF16] = {"bf16", 2},
    [WEIGHTD__V1__OUTPUT_TYPE__F32] = {"f32", 4},
    [WEIGHTD__V1__OUTPUT_TYPE__STORED] = {"stored", 0},
};

const char *wd_output_name(Weightd__V1__OutputType output) {
  return (size_t)output < sizeof outputs / sizeof *outputs ? outputs[output].name : "unknown";
}

uint32_t wd_output_size(Weightd__V1__OutputType output) {
  return outputs[output].size;
}

bool wd_output_parse(const char *text, Weightd__V1__OutputType *output) {
  for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++) {
    if (strcasecmp(text, outputs[i].name) == 0) {
      *output = (Weightd__V1__OutputType)i;
      return true;
    }
  }
  return false;
}

// -------------------------------------------------------------------------------------------------------- cuts

// Splits text at its only `separator` into two pieces of at most 20 characters.
static bool split(const char *text, char separator, char left[21], char right[21]) {
  const char *at = strchr(text, separator);
  if (!at || at - text > 20 || strlen(at + 1) > 20) {
    return false;
  }
  snprintf(left, 21, "%.*s", (int)(at - text), text);
  snprintf(right, 21, "%s", at + 1);
  return true;
}

bool wd_parse_rows(const char *text, struct wd_cut *cut) {
  char begin[21], end[21];
  cut->has_rows = true;
  cut->row_begin = cut->row_end = 0;
  return split(text, ':', begin, end) && (!begin[0] || wd_parse_u64(begin, 0, UINT64_MAX, &cut->row_begin)) &&
         (!end[0] || (wd_parse_u64(end, 1, UINT64_MAX, &cut->row_end) && cut->row_end >= cut->row_begin));
}

bool wd_parse_slice(const char *text, struct wd_cut *cut) {
  char axis[21], rest[21], rank[21], of[21];
  uint64_t value, rank_value, of_value;
  if (!split(text, ':', axis, rest) || !split(rest, '/', rank, of)) {
    return false;
  }
  bool negative = axis[0] == '-';
  if (!wd_parse_u64(axis + negative, negative, WD_MAX_SHAPE, &value) ||
      !wd_parse_u64(rank, 0, UINT32_MAX - 1, &rank_value) || !wd_parse_u64(of, 1, UINT32_MAX, &of_value) ||
      rank_value >= of_value) {
    return false;
  }
  cut->has_slice = true;
  cut->axis = negative ? -(int32_t)value : (int32_t)value;
  cut->rank = (uint32_t)rank_value;
  cut->of = (uint32_t)of_value;
  return true;
}

bool wd_parse_share(const char *text, struct wd_share *share) {
  char index[21], of[21];
  uint64_t index_value, of_value;
  if (!split(text, '/', index, of) || !wd_parse_u64(of, 1, WD_MAX_SHARES, &of_value) ||
      !wd_parse_u64(index, 0, of_value - 1, &index_value)) {
    return false;
  }
  *share = (struct wd_share){(uint32_t)index_value, (uint32_t)of_value};
  return true;
}

static enum wd_status cut_rows(const struct wd_tensor_info *info, const struct wd_cut *cut, struct wd_item *item,
                               struct wd_error *err) {
  uint64_t row = info->n_shape ? info->shape[info->n_shape - 1] : 1;
  uint64_t rows = row ? info->elements / row : 0;
  uint64_t end = cut->row_end ? cut->row_end : rows;
  if (cut->row_begin > end || end > rows) {
    return wd_fail(err, WD_INVALID_ARGUMENT,
                   "--rows %" PRIu64 ":%" PRIu64 " is not within the %" PRIu64
                   " rows of tensor %s; choose other rows, or other tensors with --tensor",
                   cut->row_begin, end, rows, WD_QUOTE(info->name, strlen(info->name)));
  }
  item->n_shape = 2;
  item->shape[0] = end - cut->row_begin;
  item->shape[1] = row;
  return WD_OK;
}

static enum wd_status cut_slice(const struct wd_tensor_info *info, const struct wd_cut *cut, bool rows,
                                struct wd_item *item, struct wd_error *err) {
  const char *name = WD_QUOTE(info->name, strlen(info->name));
  // A scalar is one element along one axis.
  int32_t n = info->n_shape ? (int32_t)info->n_shape : 1, axis = cut->axis < 0 ? n + cut->axis : cut->axis;
  if (axis < 0 || axis >= n) {
    return wd_fail(err, WD_INVALID_ARGUMENT,
                   "--slice: tensor %s has %d axes, there is no axis %d; choose other tensors with --tensor", name, n,
                   cut->axis);
  }
  if (rows && axis != n - 1) {
    return wd_fail(err, WD_INVALID_ARGUMENT, "--slice: beside --rows only the last axis (-1) can be sliced, not %d",
                   cut->axis);
  }
  uint64_t length = info->n_shape ? info->shape[axis] : 1;
  uint64_t begin = (uint64_t)((unsigned __int128)length * cut->rank / cut->of);
  uint64_t end = (uint64_t)((unsigned __int128)length * (cut->rank + 1) / cut->of);
  uint32_t block = item->output == WEIGHTD__V1__OUTPUT_TYPE__STORED && axis == n - 1 ? info->block_elements : 1;
  if (begin % block || end % block) {
    return wd_fail(
        err, WD_INVALID_ARGUMENT,
        "--slice: elements %" PRIu64 " to %" PRIu64
        " of the rows of tensor %s are not whole blocks of %u (%s), which --type stored needs; slice another "
        "axis, or fetch as f16",
        begin, end, name, block, info->type_name);
  }
  item->n_shape = rows ? 2 : (uint32_t)n;
  item->shape[rows ? 1 : axis] = end - begin;
  return WD_OK;
}

enum wd_status wd_item_init(const struct wd_description *description, uint64_t tensor, Weightd__V1__OutputType output,
                            const struct wd_cut *cut, bool no_companion_scale, struct wd_item *item,
                            struct wd_error *err) {
  const struct wd_tensor_info *info = &description->tensors[tensor];
  bool stored = output == WEIGHTD__V1__OUTPUT_TYPE__STORED;
  enum wd_status status = WD_OK;
  *item = (struct wd_item){.tensor = tensor, .output = output, .n_shape = info->n_shape};
  memcpy(item->shape, info->shape, sizeof item->shape);
  // As the server sees it, a range from 0 to the end is no cut.
  bool rows = cut->has_rows && (cut->row_begin || cut->row_end);
  if (rows && (status = cut_rows(info, cut, item, err))) {
    return status;
  }
  if (cut->has_slice && (status = cut_slice(info, cut, rows, item, err))) {
    return status;
  }
  uint64_t elements = 1;
  for (uint32_t i = 0; i < item->n_shape; i++) {
    elements *= item->shape[i];  // at most the tensor's
  }
  // The description bounded elements and stored bytes by 2^60.
  item->unit = stored ? info->block_bytes : wd_output_size(output);
  item->bytes = stored ? elements / info->block_elements * info->block_bytes : elements * item->unit;
  item->scaled = !stored && !no_companion_scale && info->companion;
  return WD_OK;
}

// ------------------------------------------------------------------------------------------------------- plans

// Marks the tensors of one pattern in chosen[].
static enum wd_status choose(const struct wd_description *d, const char *pattern, bool *chosen, struct wd_error *err) {
  uint64_t exact = wd_description_find(d, pattern);
  size_t size = strlen(pattern);
  bool any = exact != UINT64_MAX;
  if (any) {
    chosen[exact] = true;
  } else if (strchr(pattern, '*')) {
    for (uint64_t i = 0; i < d->n_tensors; i++) {
      if (wd_glob_match(pattern, size, d->tensors[i].name, strlen(d->tensors[i].name))) {
        chosen[i] = any = true;
      }
    }
  }
  return any ? WD_OK
             : wd_fail(err, WD_NOT_FOUND, "--tensor %s: %s; `weightctl describe` lists the names",
                       WD_QUOTE(pattern, size),
                       strchr(pattern, '*') ? "no tensor of the model matches" : "the model has no such tensor");
}

enum wd_status wd_plan_create(const struct wd_description *d, char *const *patterns, size_t n_patterns,
                              Weightd__V1__OutputType output, const struct wd_cut *cut, bool no_companion_scale,
                              struct wd_plan *plan, struct wd_error *err) {
  *plan = (struct wd_plan){0};
  bool *chosen = calloc(d->n_tensors + 1, sizeof *chosen);
  plan->items = calloc(d->n_tensors + 1, sizeof *plan->items);
  enum wd_status status = WD_OK;
  if (!chosen || !plan->items) {
    status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory to plan %" PRIu64 " tensors", d->n_tensors);
    goto out;
  }
  memset(chosen, n_patterns == 0, d->n_tensors);
  for (size_t i = 0; i < n_patterns; i++) {
    if ((status = choose(d, patterns[i], chosen, err))) {
      goto out;
    }
  }
  for (uint64_t i = 0; i < d->n_tensors; i++) {
    struct wd_item *item = &plan->items[plan->n_items];
    if (chosen[i]) {
      if ((status = wd_item_init(d, i, output, cut, no_companion_scale, item, err))) {
        goto out;
      }
      if (!wd_add_u64(plan->bytes, item->bytes, &plan->bytes) || plan->bytes > INT64_MAX / 2) {
        status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "the tensors are larger together than any file may be");
        goto out;
      }
      plan->n_items++;
    }
  }
  plan->whole_model = plan->n_items == d->n_tensors;
out:
  free(chosen);
  if (status) {
    wd_plan_free(plan);
  }
  return status;
}

enum wd_status wd_plan_copy_share(const struct wd_plan *plan, struct wd_share share, struct wd_plan *part,
                                  struct wd_error *err) {
  uint64_t at = 0;
  *part = (struct wd_plan){.items = calloc(plan->n_items + 1, sizeof *part->items)};
  if (!part->items) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory to plan %zu tensors", plan->n_items);
  }
  for (size_t i = 0; i < plan->n_items; i++) {
    const struct wd_item *item = &plan->items[i];
    unsigned __int128 middle = (unsigned __int128)at + item->bytes / 2;
    // Tensors without bytes at the very end belong to the last share.
    uint64_t its = plan->bytes && share.of ? wd_min_u64((uint64_t)(middle * share.of / plan->bytes), share.of - 1) : 0;
    if (share.of == 0 || its == share.index) {
      part->items[part->n_items++] = *item;
      part->bytes += item->bytes;
    }
    at += item->bytes;
  }
  part->whole_model = plan->whole_model && part->n_items == plan->n_items;
  return WD_OK;
}

void wd_plan_free(struct wd_plan *plan) {
  free(plan->items);
  *plan = (struct wd_plan){0};
}

// ------------------------------------------------------------------------------------------------------- spans

bool wd_spans_add(struct wd_spans *spans, struct wd_span span) {
  if (spans->n == spans->room) {
    size_t room = spans->room ? 2 * spans->room : 64;
    struct wd_span *list = realloc(spans->list, room * sizeof *list);
    if (!list) {
      return false;
    }
    spans->list = list;
    spans->room = room;
  }
  spans->list[spans->n++] = span;
  return true;
}

void wd_spans_free(struct wd_spans *spans) {
  free(spans->list);
  *spans = (struct wd_spans){0};
}

uint64_t wd_spans_bytes(const struct wd_spans *spans) {
  uint64_t bytes = 0;
  for (size_t i = 0; i < spans->n; i++) {
    bytes += spans->list[i].end - spans->list[i].begin;
  }
  return bytes;
}

bool wd_spans_whole(const struct wd_plan *plan, struct wd_spans *spans) {
  for (size_t i = 0; i < plan->n_items; i++) {
    if (!wd_spans_add(spans, (struct wd_span){i, 0, plan->items[i].bytes})) {
      return false;
    }
  }
  return true;
}

static int compare_spans(const void *a, const void *b) {
  const struct wd_span *x = a, *y = b;
  if (x->item != y->item) {
    return x->item < y->item ? -1 : 1;
  }
  return x->begin < y->begin ? -1 : x->begin > y->begin;
}

// Adds [begin, end) of an item, brought to its units.
static bool add_gap(const struct wd_plan *plan, size_t item, uint64_t begin, uint64_t end, struct wd_spans *missing) {
  uint64_t unit = plan->items[item].unit;
  begin -= begin % unit;
  end = end % unit ? end + unit - end % unit : end;
  return begin >= end || wd_spans_add(missing, (struct wd_span){item, begin, end});
}

bool wd_spans_missing(const struct wd_plan *plan, struct wd_span *have, size_t n, struct wd_spans *missing) {
  size_t h = 0;
  if (n > 1) {
    qsort(have, n, sizeof *have, compare_spans);
  }
  for (size_t i = 0; i < plan->n_items; i++) {
    uint64_t at = 0;
    for (; h < n && have[h].item == i; h++) {
      if (have[h].begin > at && !add_gap(plan, i, at, have[h].begin, missing)) {
        return false;
      }
      at = wd_max_u64(at, have[h].end);
    }
    if (!add_gap(plan, i, at, plan->items[i].bytes, missing)) {
      return false;
    }
  }
  return true;
}
