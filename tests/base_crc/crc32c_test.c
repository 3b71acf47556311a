// SPDX-License-Identifier: Apache-2.0
// wd_crc32c against published vectors and a sum taken bit by bit; wd_crc32c_combine against sums of whole messages.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
// cmocka needs the four above first
#include <cmocka.h>

#include "service/crc/crc32c.h"

static uint32_t bitwise(uint32_t crc, const uint8_t *data, size_t size) {
  crc = ~crc;
  for (size_t i = 0; i < size; i++) {
    crc ^= data[i];
    for (int bit = 0; bit < 8; bit++) {
      crc = crc & 1 ? crc >> 1 ^ 0x82F63B78u : crc >> 1;
    }
  }
  return ~crc;
}

static uint64_t random_state = 0x9E3779B97F4A7C15u;

static uint64_t random_u64(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

// RFC 3720 B.4, and the check value of every CRC catalogue.
static void published_vectors(void **state) {
  (void)state;
  uint8_t block[32];
  assert_int_equal(wd_crc32c(0, NULL, 0), 0);
  assert_int_equal(wd_crc32c(0, "123456789", 9), 0xE3069283u);
  memset(block, 0, sizeof block);
  assert_int_equal(wd_crc32c(0, block, sizeof block), 0x8A9136AAu);
  memset(block, 0xFF, sizeof block);
  assert_int_equal(wd_crc32c(0, block, sizeof block), 0x62A8AB43u);
  for (int i = 0; i < 32; i++) {
    block[i] = (uint8_t)i;
  }
  assert_int_equal(wd_crc32c(0, block, sizeof block), 0x46DD794Eu);
}

static void chains_and_agrees_with_bits(void **state) {
  (void)state;
  uint8_t data[2000];
  for (size_t i = 0; i < sizeof data; i++) {
    data[i] = (uint8_t)random_u64();
  }
  for (int round = 0; round < 500; round++) {
    size_t begin = random_u64() % 64, size = random_u64() % (sizeof data - 64), cut = size ? random_u64() % size : 0;
    uint32_t whole = wd_crc32c(0, data + begin, size);
    assert_int_equal(whole, bitwise(0, data + begin, size));
    assert_int_equal(whole, wd_crc32c(wd_crc32c(0, data + begin, cut), data + begin + cut, size - cut));
  }
}

static void combines_parts(void **state) {
  (void)state;
  uint8_t data[5000];
  for (size_t i = 0; i < sizeof data; i++) {
    data[i] = (uint8_t)random_u64();
  }
  for (int round = 0; round < 2000; round++) {
    size_t size = random_u64() % sizeof data, cut = size ? random_u64() % (size + 1) : 0;
    uint32_t a = wd_crc32c(0, data, cut), b = wd_crc32c(0, data + cut, size - cut);
    assert_int_equal(wd_crc32c_combine(a, b, size - cut), wd_crc32c(0, data, size));
  }
}

static void combines_large_sizes(void **state) {
  (void)state;
  // 16 MiB of zeros summed in fact, then the same message doubled and doubled.
  size_t size = 16u << 20;
  uint8_t *zeros = calloc(size, 1);
  assert_non_null(zeros);
  uint32_t prefix = wd_crc32c(0, "prefix", 6);
  uint32_t block = wd_crc32c(0, zeros, size);
  assert_int_equal(wd_crc32c_combine(prefix, block, size), wd_crc32c(prefix, zeros, size));
  free(zeros);
  // Appending 2^k blocks one after the other, or as one block of blocks, is the same.
  uint32_t doubled = block;
  uint64_t length = size;
  while (length < (uint64_t)1 << 62) {
    uint32_t twice = wd_crc32c_combine(doubled, doubled, length);
    uint32_t two_steps = wd_crc32c_combine(wd_crc32c_combine(prefix, doubled, length), doubled, length);
    assert_int_equal(wd_crc32c_combine(prefix, twice, length * 2), two_steps);
    doubled = twice;
    length *= 2;
  }
}

// The period that combining relies on: x^(2^31 - 1) = 1, shown with sizes on both sides of it.
static void sizes_count_modulo_the_period(void **state) {
  (void)state;
  for (int round = 0; round < 200; round++) {
    uint32_t crc = (uint32_t)random_u64();
    uint64_t n = random_u64() >> 20, m = random_u64() >> 20;
    assert_int_equal(wd_crc32c_combine(wd_crc32c_combine(crc, 0, n), 0, m), wd_crc32c_combine(crc, 0, n + m));
    assert_int_equal(wd_crc32c_combine(crc, 0, n + 0x7FFFFFFFu), wd_crc32c_combine(crc, 0, n));
  }
  assert_int_equal(wd_crc32c_combine(0x12345678u, 0, 0), 0x12345678u);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(published_vectors),
      cmocka_unit_test(chains_and_agrees_with_bits),
      cmocka_unit_test(combines_parts),
      cmocka_unit_test(combines_large_sizes),
      cmocka_unit_test(sizes_count_modulo_the_period),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
