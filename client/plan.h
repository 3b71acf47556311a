// SPDX-License-Identifier: Apache-2.0
// What is to be fetched, known before the first byte arrives: which tensors, which part of each, as what type, how many
// bytes, and which byte ranges are still missing. The same arithmetic as the server's, from the same rules (see the
// proto's Selection), so that a file's layout can be written first; every delivered tensor is checked against it.
#ifndef WD_CLIENT_PLAN_H
#define WD_CLIENT_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/description.h"
#include "service/base/error.h"
#include "weightd/v1/weightd.pb-c.h"

// The same cut for every tensor. Zero: whole tensors.
struct wd_cut {
  bool has_rows;
  uint64_t row_begin, row_end;  // row_end 0: to the last row
  bool has_slice;
  int32_t axis;
  uint32_t rank, of;
};

// One of `of` shares of about as many bytes each: whole tensors, one after the other in file order. A tensor belongs to
// the share that its middle byte falls in, so a share differs from the others by less than its largest tensors. of 0:
// everything.
struct wd_share {
  uint32_t index;  // from 0
  uint32_t of;
};

// Parses "I/N", I from 0 to N - 1.
#define WD_MAX_SHARES 99999
bool wd_parse_share(const char *text, struct wd_share *share);

// Parses "BEGIN:END" (either may be missing) and "AXIS:RANK/OF". False where text is neither.
bool wd_parse_rows(const char *text, struct wd_cut *cut);
bool wd_parse_slice(const char *text, struct wd_cut *cut);

struct wd_item {
  uint64_t tensor;  // index in the description
  Weightd__V1__OutputType output;
  uint32_t n_shape;
  uint64_t shape[WD_MAX_SHAPE];  // of the selection, in elements
  uint64_t bytes;                // of the selection, as `output`
  uint32_t unit;                 // bytes that are never cut: an element's, or with STORED a block's
  bool scaled;                   // by a companion
};

struct wd_plan {
  struct wd_item *items;  // by tensor index
  size_t n_items;
  uint64_t bytes;    // of all items
  bool whole_model;  // every tensor is in it
};

// One tensor's geometry. INVALID_ARGUMENT where the cut does not fit it.
enum wd_status wd_item_init(const struct wd_description *description, uint64_t tensor, Weightd__V1__OutputType output,
                            const struct wd_cut *cut, bool no_companion_scale, struct wd_item *item,
                            struct wd_error *err);

// The tensors that the patterns name (none: all), each cut alike. A pattern that is a tensor's name is that name.
// NOT_FOUND where a pattern matches nothing.
enum wd_status wd_plan_create(const struct wd_description *description, char *const *patterns, size_t n_patterns,
                              Weightd__V1__OutputType output, const struct wd_cut *cut, bool no_companion_scale,
                              struct wd_plan *plan, struct wd_error *err);
void wd_plan_free(struct wd_plan *plan);

// A plan of just that share of the plan.
enum wd_status wd_plan_copy_share(const struct wd_plan *plan, struct wd_share share, struct wd_plan *part,
                                  struct wd_error *err);

// Bytes [begin, end) of an item. An item without bytes has one empty span.
struct wd_span {
  size_t item;
  uint64_t begin, end;
};

struct wd_spans {
  struct wd_span *list;
  size_t n;
  size_t room;
};

bool wd_spans_add(struct wd_spans *spans, struct wd_span span);  // false: no memory
void wd_spans_free(struct wd_spans *spans);
uint64_t wd_spans_bytes(const struct wd_spans *spans);

// Everything of a plan.
bool wd_spans_whole(const struct wd_plan *plan, struct wd_spans *spans);

// What of the plan is in none of the `n` spans of `have`, which it sorts. Items without bytes count as had.
// Ends are brought to the items' units, so that what is asked for can be.
bool wd_spans_missing(const struct wd_plan *plan, struct wd_span *have, size_t n, struct wd_spans *missing);

// The type's name as in the proto, in lower case on request; its element's bytes (0 for STORED).
const char *wd_output_name(Weightd__V1__OutputType output);
bool wd_output_parse(const char *text, Weightd__V1__OutputType *output);
uint32_t wd_output_size(Weightd__V1__OutputType output);

#endif
