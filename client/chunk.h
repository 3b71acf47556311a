// SPDX-License-Identifier: Apache-2.0
// Reads a TensorChunk where it lies. A generated parser would copy the payload; this one only notes where it is in the
// pieces the transport delivered. The bytes are as untrusted as any: every length is checked, fields come in any order,
// unknown ones are passed over, and what is no protobuf at all is refused.
#ifndef WD_CLIENT_CHUNK_H
#define WD_CLIENT_CHUNK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "client/arena.h"
#include "service/base/error.h"
#include "weightd/v1/weightd.pb-c.h"

// A place in a list of pieces.
struct wd_place {
  size_t piece;
  size_t offset;  // in that piece
};

struct wd_chunk {
  uint64_t tensor_index;
  uint64_t offset;
  uint32_t crc32c;
  const Weightd__V1__Tensor *tensor;    // with a tensor's first chunk, else NULL; lives in the arena
  const Weightd__V1__Summary *summary;  // with its last, else NULL; lives in the arena
  uint64_t size;                        // of the payload
  struct wd_place data;                 // where the payload begins
};

// Most bytes of `tensor` and `summary` as sent: far above what a server has to say.
#define WD_CHUNK_DETAIL_LIMIT 65536

// Decodes one message. INTERNAL where it is not a TensorChunk; the message says at which byte and why.
enum wd_status wd_chunk_decode(const struct iovec *pieces, size_t n_pieces, struct wd_arena *arena,
                               struct wd_chunk *chunk, struct wd_error *err);

// Lists up to `room` pieces of the payload from *place on, no more than *left bytes, and moves both forward.
// Returns how many pieces were listed: 0 when nothing is left.
size_t wd_chunk_payload(const struct iovec *pieces, struct wd_place *place, uint64_t *left, struct iovec *out,
                        size_t room);

#endif
