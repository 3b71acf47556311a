// SPDX-License-Identifier: Apache-2.0
// Looks over decoded values for those a client wants to hear of: NaN, infinities, overflows.
#ifndef WD_ENGINE_SCAN_H
#define WD_ENGINE_SCAN_H

#include <stdbool.h>
#include <stddef.h>

#include "service/engine/backend.h"

// Whether any of n output elements is NaN or infinite. Fast: it runs over everything that is sent.
bool wd_any_special(enum wd_output output, const void *elements, size_t n);

// Adds to counts what n decoded float32 values become as `output`.
void wd_count_special(enum wd_output output, const float *values, size_t n, struct wd_chunk_counts *counts);

// Replaces every NaN among n output elements by the one with positive sign and no payload but the quiet bit. Which NaN
// an operation gives differs between processors; what clients get, and its CRC, must not.
void wd_unify_nans(enum wd_output output, void *elements, size_t n);

#endif
