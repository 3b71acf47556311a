// SPDX-License-Identifier: Apache-2.0
// Statistics of float32 values, exact and therefore the same however the work was divided.
//
// A finite float32 x is m * 2^(e - 149) with integers |m| < 2^24 and e = max(exponent field, 1) - 1. The values are
// kept apart by sign and exponent field (that is the histogram), and each bin adds up |m| and m*m as integers. Nothing
// is rounded until the end, and adding two accumulators is adding their parts.
//
// Only the totals of the sums mean anything: a backend may add a value's part to another bin of its sign as the same
// value in that bin's unit (a sum may also be split between the signs), where it knows the total of many values at
// once. The counts are the histogram and are each bin's own.
#ifndef WD_ENGINE_STATS_H
#define WD_ENGINE_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "service/formats/decode.h"

// Exponent fields of finite floats: 0 (zeros and subnormals) to 254.
#define WD_STATS_EXPONENTS 255

struct wd_stats_bin {
  uint64_t count;
  uint64_t sum;         // of |m|: 2^40 values fit
  uint64_t square_low;  // of m*m, low 64 bits
  uint64_t square_high;
};

struct wd_stats {
  uint64_t count;  // all values
  uint64_t nans;
  uint64_t infinities[2];  // positive, negative
  uint64_t zeros;          // not in any bin's count
  uint64_t f16_overflows;
  uint64_t f16_subnormals;
  uint64_t f16_underflows;
  uint32_t seen;  // whether min and max hold anything
  float min;      // of the finite values
  float max;
  struct wd_stats_bin bins[2][WD_STATS_EXPONENTS];  // positive, negative; by exponent field
};

// The numbers that need rounding, each from the exact sums; all 0 where there is no finite value.
struct wd_stats_summary {
  double mean;  // rounded once
  double std;   // of the population: the square root of the variance rounded once
  double rms;   // the square root of the mean square rounded once
};

void wd_stats_clear(struct wd_stats *stats);

// Adds n values. Any number of calls; fewer than 2^40 values in all.
typedef void wd_stats_add_fn(struct wd_stats *stats, const float *values, size_t n);

// One value after another, on any processor: what the others are held to.
void wd_stats_add(struct wd_stats *stats, const float *values, size_t n);

// Adds n elements that are small integers times scales, without making them: many times as fast. False, and nothing is
// added, where they are out of the ordinary (NaN, infinite, very large or small or uneven scales, sums that would be
// rounded, n not a multiple of 16 groups, or of 2,048 where codes are indices) or the path has no way to: then they
// must be decoded and added as values.
typedef bool wd_stats_add_codes_fn(struct wd_stats *stats, const struct wd_codes *codes, size_t n);

// How statistics are taken on a decode path. The sums may be in other bins than wd_stats_add has them.
struct wd_stats_path {
  wd_stats_add_fn *add;
  wd_stats_add_codes_fn *add_codes;
};

// The fastest way for the decode path of this name (see formats/decode.h) on this processor.
struct wd_stats_path wd_stats_path(const char *path);

// Room for a tile, for wd_stats_add_blocks.
#define WD_STATS_TILE WD_CODES_TILE
struct wd_stats_tile {
  float values[WD_STATS_TILE] WD_VECTORS;
  struct wd_codes codes;
};

// Decodes whole blocks and adds their elements, the fastest way there is. `factor` is as for decoders.
void wd_stats_add_blocks(struct wd_stats *stats, const struct wd_decode_path *path, const struct wd_type_info *type,
                         const uint8_t *blocks, size_t n_blocks, float factor, struct wd_stats_tile *tile);

// Adds what `other` has seen.
void wd_stats_merge(struct wd_stats *stats, const struct wd_stats *other);

void wd_stats_summarize(const struct wd_stats *stats, struct wd_stats_summary *summary);

#endif
