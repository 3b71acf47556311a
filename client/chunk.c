// SPDX-License-Identifier: Apache-2.0
#include "client/chunk.h"

#include <inttypes.h>
#include <string.h>

#include "service/base/checked.h"

enum wire { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

// A reader over the pieces, and how far it has come in the message.
struct cursor {
  const struct iovec *pieces;
  size_t n_pieces;
  struct wd_place place;
  uint64_t at;
  uint64_t size;  // of the message
};

// Brings the place to a byte that exists; false at the end.
static bool settle(struct cursor *c) {
  while (c->place.piece < c->n_pieces && c->place.offset == c->pieces[c->place.piece].iov_len) {
    c->place.piece++;
    c->place.offset = 0;
  }
  return c->place.piece < c->n_pieces;
}

// Copies n bytes to out, or passes over them where out is NULL. False, having moved nothing, where there are fewer.
static bool take(struct cursor *c, uint64_t n, uint8_t *out) {
  if (n > c->size - c->at) {
    return false;
  }
  c->at += n;
  while (n > 0 && settle(c)) {
    uint64_t here = wd_min_u64(n, c->pieces[c->place.piece].iov_len - c->place.offset);
    if (out) {
      memcpy(out, (const uint8_t *)c->pieces[c->place.piece].iov_base + c->place.offset, here);
      out += here;
    }
    c->place.offset += here;
    n -= here;
  }
  return true;
}

static bool take_varint(struct cursor *c, uint64_t *value) {
  *value = 0;
  for (int shift = 0; shift < 70; shift += 7) {
    uint8_t byte;
    if (!take(c, 1, &byte) || (shift == 63 && byte > 1)) {
      return false;
    }
    *value |= (uint64_t)(byte & 0x7f) << shift;
    if (byte < 0x80) {
      return true;
    }
  }
  return false;
}

static bool take_fixed32(struct cursor *c, uint32_t *value) {
  uint8_t b[4];
  if (!take(c, 4, b)) {
    return false;
  }
  *value = b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
  return true;
}

static bool skip(struct cursor *c, unsigned wire) {
  uint64_t n;
  switch (wire) {
    case VARINT:
      return take_varint(c, &n);
    case FIXED64:
      return take(c, 8, NULL);
    case BYTES:
      return take_varint(c, &n) && take(c, n, NULL);
    case FIXED32:
      return take(c, 4, NULL);
    default:  // groups, and what is no wire type
      return false;
  }
}

// A sub-message, gathered. One that comes in several parts is their concatenation: so protobuf defines merging.
struct detail {
  uint8_t data[WD_CHUNK_DETAIL_LIMIT];
  size_t size;
  bool present;
};

static bool take_detail(struct cursor *c, struct detail *detail) {
  uint64_t n;
  if (!take_varint(c, &n) || n > sizeof detail->data - detail->size || !take(c, n, detail->data + detail->size)) {
    return false;
  }
  detail->size += n;
  detail->present = true;
  return true;
}

static bool take_payload(struct cursor *c, struct wd_chunk *chunk) {
  if (!take_varint(c, &chunk->size)) {
    return false;
  }
  settle(c);
  chunk->data = c->place;
  return take(c, chunk->size, NULL);
}

static enum wd_status fail_at(uint64_t at, const char *why, struct wd_error *err) {
  return wd_fail(err, WD_INTERNAL, "the server sent a chunk that cannot be read: byte %" PRIu64 ": %s", at, why);
}

// Unpacks what a detail gathered; *message stays NULL where it was not sent.
static bool unpack(const struct detail *detail, const ProtobufCMessageDescriptor *descriptor, struct wd_arena *arena,
                   const ProtobufCMessage **message) {
  if (detail->present) {
    *message = wd_arena_unpack(arena, descriptor, detail->data, detail->size);
  }
  return !detail->present || *message;
}

enum wd_status wd_chunk_decode(const struct iovec *pieces, size_t n_pieces, struct wd_arena *arena,
                               struct wd_chunk *chunk, struct wd_error *err) {
  struct cursor c = {.pieces = pieces, .n_pieces = n_pieces};
  struct detail tensor, summary;  // only their first `size` bytes are ever read
  tensor.size = summary.size = 0;
  tensor.present = summary.present = false;
  *chunk = (struct wd_chunk){0};
  for (size_t i = 0; i < n_pieces; i++) {
    c.size += pieces[i].iov_len;
  }
  while (c.at < c.size) {
    uint64_t begin = c.at, key;
    if (!take_varint(&c, &key) || key >> 3 == 0 || key > UINT32_MAX) {
      return fail_at(begin, "no valid field number", err);
    }
    unsigned wire = key & 7;
    bool ok;
    switch (key) {
      case 1 << 3 | VARINT:
        ok = take_varint(&c, &chunk->tensor_index);
        break;
      case 2 << 3 | VARINT:
        ok = take_varint(&c, &chunk->offset);
        break;
      case 3 << 3 | FIXED32:
        ok = take_fixed32(&c, &chunk->crc32c);
        break;
      case 4 << 3 | BYTES:
        ok = take_detail(&c, &tensor);
        break;
      case 5 << 3 | BYTES:
        ok = take_detail(&c, &summary);
        break;
      case 6 << 3 | BYTES:
        ok = take_payload(&c, chunk);
        break;
      default:
        ok = skip(&c, wire);
    }
    if (!ok) {
      return fail_at(begin, "the field is cut off, too long, or of no known kind", err);
    }
  }
  const ProtobufCMessage *message = NULL;
  if (!unpack(&tensor, &weightd__v1__tensor__descriptor, arena, &message)) {
    return fail_at(c.size, "its `tensor` is no Tensor", err);
  }
  chunk->tensor = (const Weightd__V1__Tensor *)message;
  message = NULL;
  if (!unpack(&summary, &weightd__v1__summary__descriptor, arena, &message)) {
    return fail_at(c.size, "its `summary` is no Summary", err);
  }
  chunk->summary = (const Weightd__V1__Summary *)message;
  return WD_OK;
}

size_t wd_chunk_payload(const struct iovec *pieces, struct wd_place *place, uint64_t *left, struct iovec *out,
                        size_t room) {
  size_t n = 0;
  while (n<room && * left> 0) {
    const struct iovec *piece = &pieces[place->piece];
    size_t here = (size_t)wd_min_u64(piece->iov_len - place->offset, *left);
    if (here > 0) {
      out[n++] = (struct iovec){(char *)piece->iov_base + place->offset, here};
    }
    *left -= here;
    place->offset += here;
    if (place->offset == piece->iov_len) {
      place->piece++;
      place->offset = 0;
    }
  }
  return n;
}
