// SPDX-License-Identifier: Apache-2.0
// The memory of one unpacked protobuf message. protobuf-c believes a sender's repeated counts, so what one message may
// take is capped here; and all of it goes back at once.
#ifndef WD_CLIENT_ARENA_H
#define WD_CLIENT_ARENA_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

struct wd_arena {
  struct wd_arena_block *blocks;  // newest first
  size_t used;                    // of the newest block
  uint64_t total;                 // bytes of all blocks,
  uint64_t limit;                 // what total may come to while a message is unpacked
};

// The most an unpacked message may take: messages are at most 4 MiB, but for chunk data, which is never unpacked.
#define WD_ARENA_LIMIT ((uint64_t)256 << 20)

// The most that messages may nest: metadata arrays, which hold arrays, go eight deep.
#define WD_ARENA_DEPTH 32

// Unpacks a message of `descriptor`'s type. NULL where the bytes are not one, or it would take more than
// WD_ARENA_LIMIT. The message lives until wd_arena_reset; several may share an arena, each with a cap of
// its own. A zeroed struct is an empty
// arena.
ProtobufCMessage *wd_arena_unpack(struct wd_arena *arena, const ProtobufCMessageDescriptor *descriptor,
                                  const void *data, size_t size);

// Frees everything, and leaves an empty arena.
void wd_arena_reset(struct wd_arena *arena);

#endif
