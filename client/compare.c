// SPDX-License-Identifier: Apache-2.0
#include "client/compare.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "service/formats/numeric.h"

uint32_t wd_compare_width(const struct wd_item *item) {
  return item->output == WEIGHTD__V1__OUTPUT_TYPE__STORED ? 1 : item->unit;
}

// Reads `size` bytes of the file.
static enum wd_status read_file(int fd, uint8_t *buffer, size_t size, uint64_t offset, struct wd_error *err) {
  while (size > 0) {
    ssize_t n = pread(fd, buffer, size, (off_t)offset);
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n <= 0) {
      return wd_fail(err, WD_DATA_LOSS, "the file cannot be read at byte %" PRIu64 ": %s", offset,
                     n < 0 ? strerror(errno) : "it ends there; it has changed since it was opened");
    }
    buffer += n;
    offset += (uint64_t)n;
    size -= (size_t)n;
  }
  return WD_OK;
}

// Notes the differences between two buffers of bytes [begin, begin + size) of an item.
static void note(struct wd_comparer *c, size_t item, uint64_t begin, const uint8_t *ours, const uint8_t *theirs,
                 size_t size) {
  size_t first = 0;
  uint64_t bytes = 0;
  while (ours[first] == theirs[first]) {
    first++;
  }
  for (size_t i = first; i < size; i++) {
    bytes += ours[i] != theirs[i];
  }
  uint32_t width = wd_compare_width(&c->plan->items[item]);
  struct wd_compared *found = &c->items[item];
  pthread_mutex_lock(&c->mutex);
  found->bytes += bytes;
  if (begin + first < found->first) {
    found->first = begin + first;
    // Chunks hold whole elements.
    size_t element = first - (size_t)((begin + first) % width);
    memcpy(found->ours, ours + element, width);
    memcpy(found->theirs, theirs + element, width);
  }
  pthread_mutex_unlock(&c->mutex);
}

enum wd_status wd_compare_chunk(void *state, size_t item, uint64_t begin, uint64_t size, uint32_t crc32c,
                                const struct iovec *pieces, struct wd_place place, struct wd_error *err) {
  struct wd_comparer *c = state;
  (void)crc32c;
  uint8_t *ours = malloc(size), *theirs = NULL;
  if (!ours) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory to compare a chunk of %" PRIu64 " bytes", size);
  }
  enum wd_status status = read_file(c->fd, ours, size, c->items[item].offset + begin, err);
  struct wd_place at = place;
  struct iovec piece;
  uint64_t left = size, done = 0;
  bool same = true;
  while (!status && wd_chunk_payload(pieces, &at, &left, &piece, 1) > 0) {
    same = same && memcmp(ours + done, piece.iov_base, piece.iov_len) == 0;
    done += piece.iov_len;
  }
  if (!status && !same) {
    theirs = malloc(size);
    if (theirs) {
      for (at = place, left = size, done = 0; wd_chunk_payload(pieces, &at, &left, &piece, 1) > 0;) {
        memcpy(theirs + done, piece.iov_base, piece.iov_len);
        done += piece.iov_len;
      }
      note(c, item, begin, ours, theirs, size);
    } else {
      status = wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory to compare a chunk of %" PRIu64 " bytes", size);
    }
  }
  free(ours);
  free(theirs);
  return status;
}

void wd_compare_place(const struct wd_item *item, uint64_t first, char *out, size_t size) {
  if (item->output == WEIGHTD__V1__OUTPUT_TYPE__STORED) {
    snprintf(out, size, "byte %" PRIu64, first);
    return;
  }
  uint64_t element = first / wd_compare_width(item), index[WD_MAX_SHAPE];
  for (uint32_t i = item->n_shape; i-- > 0;) {
    index[i] = element % item->shape[i];
    element /= item->shape[i];
  }
  size_t at = (size_t)snprintf(out, size, "[");
  for (uint32_t i = 0; i < item->n_shape && at < size; i++) {
    at += (size_t)snprintf(out + at, size - at, "%s%" PRIu64, i ? ", " : "", index[i]);
  }
  if (at < size) {
    snprintf(out + at, size - at, "]");
  }
}

void wd_compare_value(const struct wd_item *item, const uint8_t *bytes, char *out, size_t size) {
  uint16_t half;
  uint32_t word;
  switch (item->output) {
    case WEIGHTD__V1__OUTPUT_TYPE__F16:
    case WEIGHTD__V1__OUTPUT_TYPE__BF16:
      half = (uint16_t)(bytes[0] | bytes[1] << 8);
      snprintf(out, size, "0x%04x (%.9g)", half,
               (double)(item->output == WEIGHTD__V1__OUTPUT_TYPE__F16 ? wd_f16_to_f32(half) : wd_bf16_to_f32(half)));
      break;
    case WEIGHTD__V1__OUTPUT_TYPE__F32:
      word = bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
      snprintf(out, size, "0x%08x (%.9g)", word, (double)wd_bits_float(word));
      break;
    default:
      snprintf(out, size, "0x%02x", bytes[0]);
  }
}
