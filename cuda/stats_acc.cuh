// SPDX-License-Identifier: Apache-2.0
// Counting and exact summing of float32 values: what a thread and a thread block (CTA) of the statistics kernel hold.
// Runs on the host as well, one value after another, for tests.
//
// Histogram. A CTA keeps one counter for each bin and lane in shared memory: the 32 lanes of a warp add to 32 banks,
// so nothing collides whatever the data. A value costs a shift, a multiplication and an atomic addition without result.
//
// Sums. Each thread holds two wide integers in registers, the sum in units of 2^base and the sum of squares in units of
// 2^(2 base). Something at 2^p, base <= p <= base + 32, is shifted into place and added. Types whose scales are halves
// have nothing finer than 2^-27 and nothing beyond 2^29, so their base is fixed. For the others the base follows the
// data: where a value does not fit, the thread empties its sums into the totals in global memory and moves.
//
// Nothing is rounded. Extremes are integers that order as the floats do. So the order of the work cannot show.
#ifndef WD_CUDA_STATS_ACC_CUH
#define WD_CUDA_STATS_ACC_CUH

#include "cuda/stats_total.h"
#include "service/formats/decode8.h"

// Loops that the device compiler unrolls, and such that it must not.
#ifdef __CUDA_ARCH__
#define WD_UNROLL _Pragma("unroll")
#define WD_LOOP _Pragma("unroll 1")
#else
#define WD_UNROLL
#define WD_LOOP
#endif

#define WD_STATS_TABLE 2048

// The largest half: up to it no value overflows as FP16.
#define WD_STATS_FAR 65504.0f
#define WD_STATS_FAR_BITS 0x477fe000

// What the threads of a CTA share.
struct wd_stats_cta {
  uint32_t counts[WD_GPU_STATS_BINS][32];
  uint32_t sums[2][WD_GPU_STATS_SUM_DIGITS];
  uint32_t squares[WD_GPU_STATS_SQUARE_DIGITS];
  uint32_t largest, smallest;      // keys
  uint16_t table[WD_STATS_TABLE];  // of the type: see stats_parts.cuh
};

// Additions that other threads make too.
WD_FN void wd_atomic_add(uint32_t *to, uint32_t n) {
#ifdef __CUDA_ARCH__
  atomicAdd(to, n);
#else
  *to += n;
#endif
}
WD_FN void wd_atomic_add(uint64_t *to, uint64_t n) {
#ifdef __CUDA_ARCH__
  atomicAdd((unsigned long long *)to, (unsigned long long)n);
#else
  *to += n;
#endif
}
WD_FN void wd_atomic_max(uint32_t *to, uint32_t n) {
#ifdef __CUDA_ARCH__
  atomicMax(to, n);
#else
  *to = n > *to ? n : *to;
#endif
}

// Unsigned integers in the order of the floats; and back.
WD_FN uint32_t wd_stats_key(uint32_t bits) {
  return bits ^ ((uint32_t)((int32_t)bits >> 31) | 0x80000000);
}
WD_FN float wd_stats_key_value(uint32_t key) {
  return wd_bits_float(key ^ (~(uint32_t)((int32_t)key >> 31) | 0x80000000));
}

// n * 2^bits, as the low and high half of 128 bits; bits from 0 to 64.
WD_FN void wd_stats_shift(uint64_t n, uint32_t bits, uint64_t *low, uint64_t *high) {
#ifdef __CUDA_ARCH__
  asm("shl.b64 %0, %1, %2;" : "=l"(*low) : "l"(n), "r"(bits));
  asm("shr.b64 %0, %1, %2;" : "=l"(*high) : "l"(n), "r"(64 - bits));
#else
  *low = bits < 64 ? n << bits : 0;
  *high = bits ? n >> (64 - bits) : 0;
#endif
}

// From the least to the greatest of some values; none at first.
struct wd_range {
  float low, high;
};
WD_FN struct wd_range wd_no_range(void) {
  struct wd_range range = {wd_bits_float(0x7f800000), wd_bits_float(0xff800000)};
  return range;
}
WD_FN void wd_range_add(struct wd_range *range, float value) {
  range->low = value < range->low ? value : range->low;
  range->high = value > range->high ? value : range->high;
}

// n * 2^bits where bits is below 32, else 0.
WD_FN uint32_t wd_stats_shift32(uint32_t n, uint32_t bits) {
#ifdef __CUDA_ARCH__
  uint32_t result;
  asm("shl.b32 %0, %1, %2;" : "=r"(result) : "r"(n), "r"(bits));
  return result;
#else
  return bits < 32 ? n << bits : 0;
#endif
}

// The widest shift, and the base of types whose scales are halves.
#define WD_STATS_SPAN 32
#define WD_STATS_HALF_BASE (-27)
#define WD_STATS_NO_BASE (-0x10000)

// What a thread holds. FIXED: the base is WD_STATS_HALF_BASE.
template <bool FIXED>
struct wd_stats_thread {
  struct wd_stats_cta *cta;
  struct wd_gpu_stats *total;
  uint32_t lane;
  uint32_t counts, pitch;  // on the GPU: address of the lane's first counter, and 128
  uint32_t two23;          // 2^23 as a float
  int base;
  uint64_t sum_low;
  uint32_t sum_high;  // two's complement with sum_low
  uint64_t square_low, square_middle;
  uint32_t square_high;
  // Where this CTA's extremes stand, as of some time ago: values within are no new ones. Drawn in to where
  // no value overflows as FP16.
  float floor, ceiling;
  struct wd_range range;  // of values that may be new ones
};

template <bool FIXED>
WD_FN void wd_stats_start(wd_stats_thread<FIXED> &t, struct wd_stats_cta *cta, struct wd_gpu_stats *total,
                          uint32_t lane, uint32_t pitch, uint32_t two23) {
#ifdef __CUDA_ARCH__
  t.counts = (uint32_t)__cvta_generic_to_shared(&cta->counts[0][lane]);
#else
  t.counts = 0;
#endif
  t.pitch = pitch;
  t.two23 = two23;
  t.cta = cta;
  t.total = total;
  t.lane = lane;
  t.base = FIXED ? WD_STATS_HALF_BASE : WD_STATS_NO_BASE;
  t.sum_low = t.square_low = t.square_middle = 0;
  t.sum_high = t.square_high = 0;
  t.range = wd_no_range();
}

// Looks up the extremes so far. NaN, within which nothing is, while there are none.
template <bool FIXED>
WD_FN void wd_stats_look(wd_stats_thread<FIXED> &t) {
  float ceiling = wd_stats_key_value(t.cta->largest), floor = wd_stats_key_value(~t.cta->smallest);
  t.ceiling = ceiling > WD_STATS_FAR ? WD_STATS_FAR : ceiling;
  t.floor = floor < -WD_STATS_FAR ? -WD_STATS_FAR : floor;
}

// n more values of these bits, which are no NaN. On the GPU the address is one multiplication and addition, with a
// factor that the compiler does not know: it would shift, and the unit that shifts is the busiest here.
template <bool FIXED>
WD_FN void wd_stats_count(wd_stats_thread<FIXED> &t, uint32_t bits, uint32_t n) {
#ifdef __CUDA_ARCH__
  asm volatile("red.shared.add.u32 [%0], %1;" ::"r"((bits >> 23) * t.pitch + t.counts), "r"(n) : "memory");
#else
  t.cta->counts[bits >> 23][t.lane] += n;
#endif
}
template <bool FIXED>
WD_FN void wd_stats_count_bin(wd_stats_thread<FIXED> &t, uint32_t bin) {
  wd_atomic_add(&t.cta->counts[bin][t.lane], 1);
}

// Adds a number of at most 160 bits times 2^position to digits of 16 bits.
template <class Digit>
WD_FN void wd_stats_add_digits(Digit *digits, uint64_t low, uint64_t middle, uint32_t high, uint32_t position) {
  digits += position / 16;
  uint32_t carried = 0;  // bits of the digit before
  uint32_t up = position % 16;
  WD_LOOP
  for (; low | middle | high | carried; digits++) {
    uint32_t all = (uint32_t)(low & 0xffff) << up | carried;
    if (all & 0xffff) {
      wd_atomic_add(digits, (Digit)(all & 0xffff));
    }
    carried = all >> 16;
    low = low >> 16 | middle << 48;
    middle = middle >> 16 | (uint64_t)high << 48;
    high >>= 16;
  }
}

// Adds the thread's sums to digits of the CTA (once) or of the whole, and begins anew.
template <class Digits, bool FIXED>
WD_FN void wd_stats_empty(wd_stats_thread<FIXED> &t, Digits *to) {
  if (t.sum_low | t.sum_high) {
    uint32_t negative = t.sum_high >> 31;
    uint64_t low = negative ? 0 - t.sum_low : t.sum_low;
    uint32_t high = negative ? ~t.sum_high + (t.sum_low == 0) : t.sum_high;
    wd_stats_add_digits(to->sums[negative], low, high, 0, (uint32_t)(t.base + 149));
  }
  wd_stats_add_digits(to->squares, t.square_low, t.square_middle, t.square_high, (uint32_t)(2 * t.base + 298));
  t.sum_low = t.square_low = t.square_middle = 0;
  t.sum_high = t.square_high = 0;
}

// Adds to the sum and to the sum of squares.
template <bool FIXED>
WD_FN void wd_stats_add_wide(wd_stats_thread<FIXED> &t, uint64_t sum_low, uint32_t sum_high, uint64_t low,
                             uint64_t middle, uint32_t high) {
#ifdef __CUDA_ARCH__
  asm("add.cc.u64 %0, %0, %2;\n\taddc.u32 %1, %1, %3;"
      : "+l"(t.sum_low), "+r"(t.sum_high)
      : "l"(sum_low), "r"(sum_high));
  asm("add.cc.u64 %0, %0, %3;\n\taddc.cc.u64 %1, %1, %4;\n\taddc.u32 %2, %2, %5;"
      : "+l"(t.square_low), "+l"(t.square_middle), "+r"(t.square_high)
      : "l"(low), "l"(middle), "r"(high));
#else
  t.sum_low += sum_low;
  t.sum_high += sum_high + (t.sum_low < sum_low);
  t.square_low += low;
  uint64_t carry = t.square_low < low;
  t.square_middle += carry;
  carry = t.square_middle < carry;
  t.square_middle += middle;
  t.square_high += high + (uint32_t)carry + (t.square_middle < middle);
#endif
}

#ifdef __CUDACC__
// Where all lanes of a warp have the same base, lane 0's sums become all of theirs, and the others' nothing.
template <bool FIXED>
static __device__ __forceinline__ void wd_stats_join(wd_stats_thread<FIXED> &t) {
  if (!FIXED && !__all_sync(0xffffffff, t.base == __shfl_sync(0xffffffff, t.base, 0))) {
    return;
  }
  WD_UNROLL
  for (int distance = 16; distance; distance /= 2) {
    uint64_t sum_low = __shfl_down_sync(0xffffffff, t.sum_low, distance);
    uint32_t sum_high = __shfl_down_sync(0xffffffff, t.sum_high, distance);
    uint64_t low = __shfl_down_sync(0xffffffff, t.square_low, distance);
    uint64_t middle = __shfl_down_sync(0xffffffff, t.square_middle, distance);
    uint32_t high = __shfl_down_sync(0xffffffff, t.square_high, distance);
    wd_stats_add_wide(t, sum_low, sum_high, low, middle, high);
  }
  if (threadIdx.x % 32) {
    t.sum_low = t.square_low = t.square_middle = 0;
    t.sum_high = t.square_high = 0;
  }
}
#endif

// Adds sum * 2^power and square * 2^(2 power), where power is within the span of the base.
// |sum| < 2^48; -149 <= power <= 104.
template <bool FIXED>
WD_FN void wd_stats_add_here(wd_stats_thread<FIXED> &t, int64_t sum, uint64_t square, uint32_t shift) {
  uint64_t sum_low = (uint64_t)sum << shift;
  uint32_t sum_high = (uint32_t)(sum >> 32 >> (32 - shift));
  uint64_t low, high;
  wd_stats_shift(square, 2 * shift, &low, &high);
  wd_stats_add_wide(t, sum_low, sum_high, low, high, 0);
}

// Moves the base so that `power` lies within its span, a little from its end: far above it where the values grew, as
// smaller ones will follow; near it where they shrank, so that what was seen before still fits.
template <bool FIXED>
WD_FN void wd_stats_move(wd_stats_thread<FIXED> &t, int power) {
  bool up = power > t.base;
  if (t.base != WD_STATS_NO_BASE) {
    wd_stats_empty(t, t.total);
  }
  t.base = power - (up ? 14 : 4);
  t.base = t.base < -149 ? -149 : t.base;
}

// As wd_stats_add_here, for any power from -149 to 104.
template <bool FIXED>
WD_FN void wd_stats_add(wd_stats_thread<FIXED> &t, int64_t sum, uint64_t square, int power) {
  if (FIXED) {
    wd_stats_add_here(t, sum, square, (uint32_t)(power - WD_STATS_HALF_BASE));
  } else {
    if ((uint32_t)(power - t.base) > WD_STATS_SPAN) {
      wd_stats_move(t, power);
    }
    wd_stats_add_here(t, sum, square, (uint32_t)(power - t.base));
  }
}

// Makes t.range part of the extremes. Neighbours who have one at the same time agree first, and one writes for all.
template <bool FIXED>
WD_FN void wd_stats_extremes(wd_stats_thread<FIXED> &t) {
  if (t.range.low <= t.range.high) {
    uint32_t high = wd_stats_key(wd_float_bits(t.range.high)), low = ~wd_stats_key(wd_float_bits(t.range.low));
    t.range = wd_no_range();
    bool write = true;
#if defined(__CUDA_ARCH__)
    uint32_t active = __activemask();
    high = __reduce_max_sync(active, high);
    low = __reduce_max_sync(active, low);
    write = (uint32_t)__ffs((int)active) == threadIdx.x % 32 + 1;
#endif
    if (write && high > t.cta->largest) {
      wd_atomic_max(&t.cta->largest, high);
    }
    if (write && low > t.cta->smallest) {
      wd_atomic_max(&t.cta->smallest, low);
    }
  }
}

// Everything about one value, whatever it is.
template <bool FIXED>
WD_FN void wd_stats_value(wd_stats_thread<FIXED> &t, float value) {
  uint32_t bits = wd_float_bits(value);
  uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) {
    wd_stats_count_bin(t, WD_GPU_STATS_NAN);
    return;
  }
  wd_stats_count(t, bits, 1);
  if (magnitude == 0x7f800000) {
    return;
  }
  uint32_t key = wd_stats_key(bits);
  if (key > t.cta->largest) {
    wd_atomic_max(&t.cta->largest, key);
  }
  if (~key > t.cta->smallest) {
    wd_atomic_max(&t.cta->smallest, ~key);
  }
  if (magnitude == 0) {
    return;
  }
  if (magnitude < 0x00800000) {
    wd_stats_count_bin(t, WD_GPU_STATS_SUBNORMAL + (bits >> 31));
  } else if (magnitude == 0x33000000) {
    wd_stats_count_bin(t, WD_GPU_STATS_UNDERFLOW);
  } else if (magnitude - 0x387fe000 < 0x2000) {
    wd_stats_count_bin(t, WD_GPU_STATS_NORMAL);
  } else if (magnitude - 0x477ff000 < 0x1000) {
    wd_stats_count_bin(t, WD_GPU_STATS_OVERFLOW);
  }
  int exponent = (int)(magnitude >> 23);
  uint32_t m = (magnitude & 0x7fffff) | (uint32_t)(exponent != 0) << 23;
  int power = (exponent ? exponent : 1) - 150;
  if (FIXED && power < WD_STATS_HALF_BASE) {
    m >>= WD_STATS_HALF_BASE - power;  // zeros: the values of these types are multiples of 2^-27
    power = WD_STATS_HALF_BASE;
  }
  wd_stats_add(t, bits >> 31 ? -(int64_t)m : (int64_t)m, (uint64_t)m * m, power);
}

// N values one by one, which are used up: moving them keeps them in registers, and the code short.
template <int N, bool FIXED>
WD_FN void wd_stats_each(wd_stats_thread<FIXED> &t, float *values) {
  WD_LOOP
  for (int i = 0; i < N; i++) {
    wd_stats_value(t, values[0]);
    WD_UNROLL
    for (int j = 0; j + 1 < N; j++) {
      values[j] = values[j + 1];
    }
  }
}

// N values.
template <int N, bool FIXED>
WD_FN void wd_stats_values(wd_stats_thread<FIXED> &t, const float *values) {
  uint32_t top = 0, normal = 0xffffffff, least = 0xffffffff;
  float largest = values[0], smallest = values[0];
  WD_UNROLL
  for (int i = 0; i < N; i++) {
    uint32_t magnitude = wd_float_bits(values[i]) & 0x7fffffff;
    top = magnitude > top ? magnitude : top;
    normal = magnitude - 0x387fe000 < normal ? magnitude - 0x387fe000 : normal;
    least = magnitude - 1 < least ? magnitude - 1 : least;
    largest = largest < values[i] ? values[i] : largest;
    smallest = smallest > values[i] ? values[i] : smallest;
  }
  // NaN, what overflows as FP16, and what the bins do not tell: one by one.
  if (top > WD_STATS_FAR_BITS || normal < 0x2000 || least < 0x33000000) {
    float left[N];
    WD_UNROLL
    for (int i = 0; i < N; i++) {
      left[i] = values[i];
    }
    wd_stats_each<N>(t, left);
    wd_stats_look(t);
    return;
  }
  if (!(largest <= t.ceiling && smallest >= t.floor)) {
    t.range.low = smallest;
    t.range.high = largest;
    wd_stats_extremes(t);
    wd_stats_look(t);
  }
  // In units of the least significant bit of a value 2^15 times smaller than the largest: a mantissa times a power of
  // two of 16 bits, and the square's two halves of 24 bits times one of 31. The unit of smaller ones, and of zero, is
  // shifted out: they count nothing here, and those that are not zero, which are rare, go on their own.
  int first = (int)(top >> 23) - 15;
  first = first < 1 ? 1 : first;
  int64_t sum = 0;
  uint64_t low = 0, high = 0;
  WD_UNROLL
  for (int i = 0; i < N; i++) {
    uint32_t bits = wd_float_bits(values[i]);
    wd_stats_count(t, bits, 1);
    uint32_t m = (bits & 0x7fffff) | 0x800000;
    int32_t unit = (int32_t)wd_stats_shift32((uint32_t)((int32_t)bits >> 31 | 1), (bits >> 23 & 255) - (uint32_t)first);
    uint32_t unit_square = (uint32_t)(unit * unit);
    uint64_t square = (uint64_t)m * m;
    sum += (int64_t)(int32_t)m * unit;
    low += (square & 0xffffff) * unit_square;
    high += (square >> 24) * unit_square;
  }
  if (least + 1 < (uint32_t)first << 23 && top) {
    float left[N];
    WD_UNROLL
    for (int i = 0; i < N; i++) {
      left[i] = values[i];
    }
    WD_LOOP
    for (int i = 0; i < N; i++) {
      uint32_t bits = wd_float_bits(left[0]);
      uint32_t exponent = bits >> 23 & 255;
      if (bits << 1 && exponent < (uint32_t)first) {
        int64_t m = (bits & 0x7fffff) | 0x800000;
        wd_stats_add(t, (int32_t)bits < 0 ? -m : m, (uint64_t)(m * m), (int)exponent - 150);
      }
      WD_UNROLL
      for (int j = 0; j + 1 < N; j++) {
        left[j] = left[j + 1];
      }
    }
  }
  int power = first - 150;
  if ((uint32_t)(power - t.base) > WD_STATS_SPAN - 12) {
    wd_stats_move(t, power);
  }
  wd_stats_add_here(t, sum, low, (uint32_t)(power - t.base));
  wd_stats_add_here(t, 0, high, (uint32_t)(power - t.base) + 12);
}

#endif
