// SPDX-License-Identifier: Apache-2.0
// Every path against the reference: digests.inc holds sums of what the reference makes of the same blocks.
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on
#include <stdlib.h>

#include "tests/formats/stream.h"

static const struct digest {
  enum wd_type type;
  enum stream_kind kind;
  float factor;
  uint32_t crc[WD_DECODED_OUTPUTS];  // by enum wd_output
} digests[] = {
#define DIGEST(type, kind, factor, f16, bf16, f32) {WD_##type, kind, factor, {f16, bf16, f32}},
#include "tests/formats/digests.inc"
#undef DIGEST
};
#define DIGESTS (sizeof digests / sizeof digests[0])

static void digests_match(void **state) {
  const struct wd_decode_path *path = *state;
  int wrong = 0;
  if (!path->supported()) {
    print_message("this CPU does not support %s\n", path->name);
    skip();
  }
  for (size_t k = 0; k < DIGESTS; k++) {
    const struct digest *d = &digests[k];
    const struct wd_type_info *type = &wd_types[d->type];
    const size_t n = stream_digest_blocks(d->type), elements = n * type->block_elements;
    uint8_t *blocks = malloc(n * type->block_bytes);
    assert_non_null(blocks);
    stream_fill(d->kind, d->type, 0, n, blocks);
    for (enum wd_output o = 0; o < WD_DECODED_OUTPUTS; o++) {
      void *out = malloc(elements * wd_output_bytes(o));
      assert_non_null(out);
      path->decode[d->type][o](blocks, n, d->factor, out);
      stream_same_nan(o, out, elements);
      if (stream_crc32(out, elements * wd_output_bytes(o)) != d->crc[o]) {
        print_error("%s: %s differs from the reference: stream %d, output %d\n", path->name, type->name, d->kind, o);
        wrong++;
      }
      free(out);
    }
    free(blocks);
  }
  assert_int_equal(wrong, 0);
}

static void every_type_has_digests(void **state) {
  (void)state;
  for (enum wd_type t = 0; t < WD_TYPE_COUNT; t++) {
    int kinds = 0;
    for (size_t k = 0; k < DIGESTS; k++) {
      kinds |= digests[k].type == t ? 1 << digests[k].kind : 0;
    }
    assert_int_equal(kinds, 1 << STREAM_RANDOM | 1 << STREAM_SPECIAL);
  }
}

int main(void) {
  struct CMUnitTest tests[8] = {cmocka_unit_test(every_type_has_digests)};
  size_t n = 1;
  for (const struct wd_decode_path *const *p = wd_decode_paths; *p; p++) {
    tests[n++] = (struct CMUnitTest){(*p)->name, digests_match, NULL, NULL, (void *)*p};
  }
  return _cmocka_run_group_tests("digests", tests, n, NULL, NULL);
}
