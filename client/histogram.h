// SPDX-License-Identifier: Apache-2.0
// A histogram in one line of characters.
#ifndef WD_CLIENT_HISTOGRAM_H
#define WD_CLIENT_HISTOGRAM_H

#include <stdbool.h>
#include <stddef.h>

#include "weightd/v1/weightd.pb-c.h"

#define WD_HISTOGRAM_SIDE 8  // powers of two shown on each side of zero
#define WD_HISTOGRAM_COLUMNS (2 * WD_HISTOGRAM_SIDE + 1)
#define WD_HISTOGRAM_ROOM (3 * WD_HISTOGRAM_COLUMNS + 1)

// Draws a tensor's values from the most negative to the most positive: the outermost columns are the largest power of
// two that occurs, each further in is half of it, the innermost of a side holds all that is smaller, and the middle is
// zero. Heights are shares of the fullest column; a column with anything in it is never drawn empty.
void wd_histogram_draw(const Weightd__V1__TensorStats *stats, bool utf8, char out[WD_HISTOGRAM_ROOM]);

#endif
