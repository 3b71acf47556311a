// SPDX-License-Identifier: Apache-2.0
#include "client/histogram.h"

#include <limits.h>
#include <stdint.h>
#include <string.h>

void wd_histogram_draw(const Weightd__V1__TensorStats *stats, bool utf8, char out[WD_HISTOGRAM_ROOM]) {
  static const char *const blocks[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  static const char *const ascii[] = {" ", ".", ":", "-", "=", "+", "*", "#", "@"};
  double columns[WD_HISTOGRAM_COLUMNS] = {0}, most = 0;  // double: the sum of hostile counts does not wrap
  int64_t top = INT64_MIN;
  for (size_t i = 0; i < stats->n_histogram; i++) {
    top = stats->histogram[i]->exponent > top ? stats->histogram[i]->exponent : top;
  }
  for (size_t i = 0; i < stats->n_histogram; i++) {
    const Weightd__V1__HistogramBin *bin = stats->histogram[i];
    int64_t below = top - bin->exponent;  // powers of two under the largest
    int from_edge = below < WD_HISTOGRAM_SIDE ? (int)below : WD_HISTOGRAM_SIDE - 1;
    columns[bin->negative ? from_edge : WD_HISTOGRAM_COLUMNS - 1 - from_edge] += (double)bin->count;
  }
  columns[WD_HISTOGRAM_SIDE] = (double)stats->zeros;
  for (int i = 0; i < WD_HISTOGRAM_COLUMNS; i++) {
    most = columns[i] > most ? columns[i] : most;
  }
  for (int i = 0; i < WD_HISTOGRAM_COLUMNS; i++) {
    int level = columns[i] > 0 ? 1 + (int)(7 * columns[i] / most + 0.5) : 0;
    out = stpcpy(out, (utf8 ? blocks : ascii)[level]);
  }
}
