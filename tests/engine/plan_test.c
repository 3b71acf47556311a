// SPDX-License-Identifier: Apache-2.0
// Plans: which tensors a request selects, which of their elements, and every way to get it wrong.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/engine/plan.h"
#include "tests/gguf/fixture.h"

#define TEXT(s) ((struct wd_text){(s), strlen(s)})

struct plan_fixture {
  struct fixture *base;
  struct wd_model *model;
};

// "t0" F32 [5 7 3 2], "t1" Q8_0 [64 4], "t*" F16 [6], "w.NVFP4" [64 2 3], its companion, "scalar", "empty" [0 4].
static int setup(void **state) {
  static struct plan_fixture f;
  void *base;
  assert_int_equal(fixture_setup(&base), 0);
  f.base = base;
  struct writer w = {0};
  w_start(&w, 3, 7, 0);
  uint64_t at = 0;
  const struct {
    const char *name;
    uint32_t type;
    uint32_t n_dims;
    uint64_t dims[4];
    uint64_t bytes;
  } tensors[] = {
      {"t0", 0, 4, {5, 7, 3, 2}, 840}, {"t1", 8, 2, {64, 4}, 272}, {"t*", 1, 1, {6}, 12},
      {"w", 40, 3, {64, 2, 3}, 216},   {"w.scale", 0, 1, {3}, 12}, {"scalar", 0, 0, {0}, 4},
      {"empty", 0, 2, {0, 4}, 0},
  };
  for (size_t i = 0; i < 7; i++) {
    w_tensor(&w, tensors[i].name, tensors[i].type, tensors[i].n_dims, tensors[i].dims, at);
    at += (tensors[i].bytes + 31) / 32 * 32;
  }
  w_pad(&w, 32);
  w_fill(&w, 0, at);
  fixture_save(f.base, "m.gguf", &w);
  f.model = fixture_open(f.base, "m.gguf");
  *state = &f;
  return 0;
}

static int teardown(void **state) {
  struct plan_fixture *f = *state;
  void *base = f->base;
  wd_model_unref(f->model);
  return fixture_teardown(&base);
}

static void refused(struct plan_fixture *f, const struct wd_plan_request *request, enum wd_status status,
                    const char *field, const char *word) {
  struct wd_plan *plan = NULL;
  struct wd_error err;
  assert_error(wd_plan_create(f->model, request, NULL, &plan, &err), &err, status, field, word, NULL);
}

static struct wd_plan *accepted(struct plan_fixture *f, const struct wd_plan_request *request) {
  struct wd_plan *plan = NULL;
  struct wd_error err = {WD_OK, ""};
  if (wd_plan_create(f->model, request, NULL, &plan, &err)) {
    fail_msg("refused: %s", err.message);
  }
  return plan;
}

// The names of the selected tensors, with a space behind each.
static const char *names(const struct wd_plan *plan, char *out) {
  *out = 0;
  for (uint64_t i = 0; i < wd_plan_units(plan); i++) {
    struct wd_unit unit;
    wd_plan_unit(plan, i, &unit);
    strcat(strcat(out, unit.tensor->name), " ");
  }
  return out;
}

static void select_by_name(struct plan_fixture *f, const char *patterns[], size_t n, const char *expected) {
  struct wd_text texts[8];
  char out[200];
  for (size_t i = 0; i < n; i++) {
    texts[i] = TEXT(patterns[i]);
  }
  struct wd_plan_request request = {.tensors = texts, .n_tensors = n};
  struct wd_plan *plan = accepted(f, &request);
  assert_string_equal(names(plan, out), expected);
  wd_plan_destroy(plan);
}

static void tensors_are_selected(void **state) {
  struct plan_fixture *f = *state;
  select_by_name(f, NULL, 0, "t0 t1 t* w w.scale scalar empty ");
  select_by_name(f, (const char *[]){"t1"}, 1, "t1 ");
  select_by_name(f, (const char *[]){"w*", "t0"}, 2, "t0 w w.scale ");  // in file order
  select_by_name(f, (const char *[]){"t*"}, 1, "t* ");                  // a name that exists is that name
  select_by_name(f, (const char *[]){"t**"}, 1, "t0 t1 t* ");
  select_by_name(f, (const char *[]){"*", "t1", "t1"}, 3, "t0 t1 t* w w.scale scalar empty ");
  struct wd_text none = TEXT("nothing");
  refused(f, &(struct wd_plan_request){.tensors = &none, .n_tensors = 1}, WD_NOT_FOUND, "tensors", "'nothing'");
  none = TEXT("x*");
  refused(f, &(struct wd_plan_request){.tensors = &none, .n_tensors = 1}, WD_NOT_FOUND, "tensors", "'x*'");
  none = TEXT("");
  refused(f, &(struct wd_plan_request){.tensors = &none, .n_tensors = 1}, WD_INVALID_ARGUMENT, "tensors", "empty");
  struct wd_text many[WD_MAX_GLOBS + 1];
  for (size_t i = 0; i <= WD_MAX_GLOBS; i++) {
    many[i] = TEXT("t0*");
  }
  refused(f, &(struct wd_plan_request){.tensors = many, .n_tensors = WD_MAX_GLOBS + 1}, WD_INVALID_ARGUMENT, "tensors",
          "256");
}

static void an_exact_selection_beats_a_glob(void **state) {
  struct plan_fixture *f = *state;
  const struct wd_selection selections[] = {
      {.pattern = TEXT("*1"), .has_output = true, .output = WD_OUT_F32},
      {.pattern = TEXT("t1"), .has_output = true, .output = WD_OUT_BF16},
      {.pattern = TEXT("t1"), .has_output = true, .output = WD_OUT_STORED},
  };
  struct wd_plan_request request = {.selections = selections, .n_selections = 3};
  struct wd_plan *plan = accepted(f, &request);
  struct wd_unit unit;
  wd_plan_unit(plan, 1, &unit);
  assert_int_equal(unit.output, WD_OUT_BF16);
  wd_plan_unit(plan, 0, &unit);
  assert_int_equal(unit.output, WD_OUT_F16);
  wd_plan_destroy(plan);
}

// A pattern has to match something of the model, not something that is delivered.
static void selections_of_others_are_fine(void **state) {
  struct plan_fixture *f = *state;
  struct wd_text name = TEXT("t1");
  const struct wd_selection selections[] = {{.pattern = TEXT("t0*"), .row_end = 1},
                                            {.pattern = TEXT("w"), .row_end = 1}};
  struct wd_plan *plan = accepted(
      f, &(struct wd_plan_request){.tensors = &name, .n_tensors = 1, .selections = selections, .n_selections = 2});
  struct wd_unit unit;
  assert_int_equal(wd_plan_units(plan), 1);
  wd_plan_unit(plan, 0, &unit);
  assert_int_equal(unit.output_bytes, 512);
  wd_plan_destroy(plan);
}

// Every element of a view, held against indices worked out one by one.
static void check_view(const struct wd_unit *unit, const uint64_t *shape, uint32_t n, uint32_t axis, uint64_t begin,
                       uint64_t end) {
  uint64_t position = 0;
  uint64_t total = 1;
  for (uint32_t d = 0; d < n; d++) {
    total *= shape[d];
  }
  for (uint64_t e = 0; e < total; e++) {
    uint64_t inner = 1;
    for (uint32_t d = axis + 1; d < n; d++) {
      inner *= shape[d];
    }
    uint64_t index = e / inner % shape[axis];
    if (index < begin || index >= end) {
      continue;
    }
    const struct wd_view *view = &unit->view;
    assert_int_equal(view->first + position / view->run_elements * view->stride + position % view->run_elements, e);
    position++;
  }
  assert_int_equal(position, unit->view.run_elements * unit->view.n_runs);
  assert_int_equal(unit->output_bytes, position * 2);
  assert_int_equal(unit->output_shape[axis], end - begin);
}

static void slices_of_every_axis(void **state) {
  struct plan_fixture *f = *state;
  const uint64_t shape[] = {2, 3, 7, 5};
  for (int axis = -4; axis < 4; axis++) {
    for (uint32_t of = 1; of < 9; of++) {
      for (uint32_t rank = 0; rank < of; rank++) {
        struct wd_selection selection = {.pattern = TEXT("t0"), .axis = axis, .rank = rank, .of = of};
        struct wd_plan_request request = {.selections = &selection, .n_selections = 1};
        struct wd_plan *plan = accepted(f, &request);
        struct wd_unit unit;
        wd_plan_unit(plan, 0, &unit);
        uint32_t a = (uint32_t)(axis < 0 ? axis + 4 : axis);
        check_view(&unit, shape, 4, a, shape[a] * rank / of, shape[a] * (rank + 1) / of);
        wd_plan_destroy(plan);
      }
    }
  }
}

static void rows_and_columns(void **state) {
  struct plan_fixture *f = *state;
  struct wd_selection selection = {
      .pattern = TEXT("t0"), .row_begin = 5, .row_end = 12, .axis = -1, .rank = 1, .of = 2};
  struct wd_plan_request request = {.selections = &selection, .n_selections = 1};
  struct wd_plan *plan = accepted(f, &request);
  struct wd_unit unit;
  wd_plan_unit(plan, 0, &unit);
  assert_int_equal(unit.view.first, 5 * 5 + 2);
  assert_int_equal(unit.view.run_elements, 3);
  assert_int_equal(unit.view.stride, 5);
  assert_int_equal(unit.view.n_runs, 7);
  assert_int_equal(unit.output_dims, 2);
  assert_int_equal(unit.output_shape[0], 7);
  assert_int_equal(unit.output_shape[1], 3);
  wd_plan_destroy(plan);
}

static void selections_are_checked(void **state) {
  struct plan_fixture *f = *state;
  const struct {
    struct wd_selection selection;
    enum wd_status status;
    const char *field;
    const char *word;
  } cases[] = {
      {{.pattern = TEXT("t0"), .row_begin = 3, .row_end = 2}, WD_INVALID_ARGUMENT, "selections.row_begin", "42 rows"},
      {{.pattern = TEXT("t0"), .row_end = 43}, WD_INVALID_ARGUMENT, "row_end", "42 rows"},
      {{.pattern = TEXT("t0"), .row_begin = UINT64_MAX}, WD_INVALID_ARGUMENT, "row_begin", "t0"},
      {{.pattern = TEXT("t0"), .axis = 4, .of = 2}, WD_INVALID_ARGUMENT, "selections.slice.axis", "0 to 3"},
      {{.pattern = TEXT("t0"), .axis = INT32_MIN, .of = 2}, WD_INVALID_ARGUMENT, "selections.slice.axis", "-4"},
      {{.pattern = TEXT("t0"), .rank = 2, .of = 2}, WD_INVALID_ARGUMENT, "selections.slice.rank", "0 to 1"},
      {{.pattern = TEXT("t0"), .row_end = 2, .axis = 0, .of = 2}, WD_INVALID_ARGUMENT, "slice.axis", "last axis"},
      {{.pattern = TEXT("t1"), .axis = 1, .of = 4, .has_output = true, .output = WD_OUT_STORED},
       WD_INVALID_ARGUMENT,
       "selections.slice",
       "blocks of 32 (Q8_0)"},
      {{.pattern = TEXT("nothing")}, WD_NOT_FOUND, "selections.pattern", "nothing"},
      {{.pattern = TEXT("")}, WD_INVALID_ARGUMENT, "selections.pattern", "empty"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct wd_plan_request request = {.selections = &cases[i].selection, .n_selections = 1};
    refused(f, &request, cases[i].status, cases[i].field, cases[i].word);
  }
  struct wd_selection stored = {.pattern = TEXT("t1"), .axis = 1, .of = 2, .has_output = true, .output = WD_OUT_STORED};
  struct wd_plan *plan = accepted(f, &(struct wd_plan_request){.selections = &stored, .n_selections = 1});
  struct wd_unit unit;
  wd_plan_unit(plan, 1, &unit);
  assert_int_equal(unit.output_bytes, 4 * 34);
  assert_int_equal(unit.grain_bytes, 34);
  wd_plan_destroy(plan);
}

static void ranges_are_checked(void **state) {
  struct plan_fixture *f = *state;
  const struct {
    struct wd_range range;
    const char *field;
    const char *word;
  } cases[] = {
      {{7, 0, 0}, "ranges.tensor_index", "7 tensors"},        {{UINT64_MAX, 0, 0}, "ranges.tensor_index", "7 tensors"},
      {{0, 0, 421}, "ranges.begin, end", "420 bytes"},        {{0, 4, 2}, "ranges.begin, end", "420 bytes"},
      {{0, 422, 0}, "ranges.begin, end", "420 bytes"},        {{0, 1, 4}, "ranges.begin, end", "2-byte elements"},
      {{0, 0, UINT64_MAX}, "ranges.begin, end", "420 bytes"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    refused(f, &(struct wd_plan_request){.ranges = &cases[i].range, .n_ranges = 1}, WD_INVALID_ARGUMENT, cases[i].field,
            cases[i].word);
  }
  struct wd_range stored = {1, 17, 34};
  refused(f, &(struct wd_plan_request){.ranges = &stored, .n_ranges = 1, .output = WD_OUT_STORED}, WD_INVALID_ARGUMENT,
          "ranges", "34-byte blocks");
  struct wd_text name = TEXT("t1");
  struct wd_range other = {0, 0, 2};
  refused(f, &(struct wd_plan_request){.tensors = &name, .n_tensors = 1, .ranges = &other, .n_ranges = 1},
          WD_INVALID_ARGUMENT, "ranges.tensor_index", "not among");
  // Any order, the same tensor twice, and to the end.
  const struct wd_range good[] = {{1, 2, 4}, {0, 418, 0}, {1, 0, 2}};
  struct wd_plan *plan = accepted(f, &(struct wd_plan_request){.ranges = good, .n_ranges = 3});
  struct wd_unit unit;
  assert_int_equal(wd_plan_units(plan), 3);
  wd_plan_unit(plan, 1, &unit);
  assert_int_equal(unit.tensor_index, 0);
  assert_int_equal(unit.begin, 418);
  assert_int_equal(unit.end, 420);
  wd_plan_destroy(plan);
}

static void companions_apply(void **state) {
  struct plan_fixture *f = *state;
  struct wd_plan *plan = accepted(f, &(struct wd_plan_request){0});
  struct wd_unit unit;
  wd_plan_unit(plan, 3, &unit);
  assert_non_null(unit.companion.tensor);
  assert_int_equal(unit.companion.count, 3);
  assert_int_equal(unit.companion.elements_per_factor, 128);
  wd_plan_destroy(plan);
  plan = accepted(f, &(struct wd_plan_request){.no_companion_scale = true});
  wd_plan_unit(plan, 3, &unit);
  assert_null(unit.companion.tensor);
  wd_plan_destroy(plan);
  plan = accepted(f, &(struct wd_plan_request){.output = WD_OUT_STORED});
  wd_plan_unit(plan, 3, &unit);
  assert_null(unit.companion.tensor);
  wd_plan_destroy(plan);
}

static void cancelling_stops_planning(void **state) {
  struct plan_fixture *f = *state;
  volatile bool cancelled = true;
  struct wd_plan *plan = NULL;
  struct wd_error err;
  assert_int_equal(wd_plan_create(f->model, &(struct wd_plan_request){0}, &cancelled, &plan, &err), WD_CANCELLED);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(tensors_are_selected),
      cmocka_unit_test(an_exact_selection_beats_a_glob),
      cmocka_unit_test(selections_of_others_are_fine),
      cmocka_unit_test(slices_of_every_axis),
      cmocka_unit_test(rows_and_columns),
      cmocka_unit_test(selections_are_checked),
      cmocka_unit_test(ranges_are_checked),
      cmocka_unit_test(companions_apply),
      cmocka_unit_test(cancelling_stops_planning),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
