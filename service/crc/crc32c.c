// SPDX-License-Identifier: Apache-2.0
// The sums come from ISA-L, which picks the processor's fastest way at run time. Combining is arithmetic on polynomials
// over GF(2): appending n bytes multiplies what came before by x^(8n) modulo the CRC's polynomial, and the ones that
// are added before and after cancel out.
//
// Two facts make x^(8n) cheap. The polynomial is x + 1 times a primitive polynomial of degree 31, so the powers of x
// repeat after 2^31 - 1, and n counts modulo that. And the 31 bits that are left split into four digits of eight, each
// with a table of 256 powers.
#include "service/crc/crc32c.h"

#include <isa-l/crc.h>
#include <limits.h>
#include <pthread.h>

#define POLYNOMIAL 0x82F63B78u  // reflected: bit 31 is the coefficient of x^0
#define ONE 0x80000000u
#define PERIOD 0x7FFFFFFFu

static uint32_t power[4][256];  // power[d][v] = x^(8 * v * 256^d)
static pthread_once_t power_once = PTHREAD_ONCE_INIT;

uint32_t wd_crc32c(uint32_t crc, const void *data, size_t size) {
  const unsigned char *at = data;
  crc = ~crc;
  while (size > 0) {
    // ISA-L counts in int. It does not write to the buffer its parameter calls non-const.
    int n = size > INT_MAX ? INT_MAX : (int)size;
    crc = crc32_iscsi((unsigned char *)at, n, crc);
    at += n;
    size -= (size_t)n;
  }
  return ~crc;
}

// a * b modulo the polynomial.
static uint32_t multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (int i = 31; i >= 0; i--) {
    product ^= b & -(a >> i & 1);
    b = b >> 1 ^ (POLYNOMIAL & -(b & 1));  // b *= x
  }
  return product;
}

static void fill_powers(void) {
  uint32_t step = ONE >> 8;  // x^8: one byte
  for (int digit = 0; digit < 4; digit++) {
    power[digit][0] = ONE;
    for (int v = 1; v < 256; v++) {
      power[digit][v] = multiply(power[digit][v - 1], step);
    }
    step = multiply(power[digit][255], step);
  }
}

uint32_t wd_crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t size_b) {
  pthread_once(&power_once, fill_powers);
  uint32_t n = (uint32_t)(size_b % PERIOD);
  for (int digit = 0; n != 0; digit++, n >>= 8) {
    if (n & 255) {
      crc_a = multiply(crc_a, power[digit][n & 255]);
    }
  }
  return crc_a ^ crc_b;
}
