// SPDX-License-Identifier: Apache-2.0
#include "client/arena.h"

#include <stdalign.h>
#include <stdlib.h>

struct wd_arena_block {
  struct wd_arena_block *next;
  size_t size;
  alignas(max_align_t) char data[];
};

#define BLOCK_BYTES ((size_t)64 << 10)

static void *arena_alloc(void *context, size_t size) {
  struct wd_arena *arena = context;
  size_t align = alignof(max_align_t);
  if (size > WD_ARENA_LIMIT) {
    return NULL;
  }
  size = (size + align - 1) & ~(align - 1);
  if (!arena->blocks || arena->blocks->size - arena->used < size) {
    size_t room = size > BLOCK_BYTES ? size : BLOCK_BYTES;
    if (arena->total + room > WD_ARENA_LIMIT) {
      return NULL;
    }
    struct wd_arena_block *block = malloc(sizeof *block + room);
    if (!block) {
      return NULL;
    }
    block->next = arena->blocks;
    block->size = room;
    arena->blocks = block;
    arena->used = 0;
    arena->total += room;
  }
  void *memory = arena->blocks->data + arena->used;
  arena->used += size;
  return memory;
}

static void arena_free(void *context, void *memory) {
  (void)context;
  (void)memory;
}

ProtobufCMessage *wd_arena_unpack(struct wd_arena *arena, const ProtobufCMessageDescriptor *descriptor,
                                  const void *data, size_t size) {
  ProtobufCAllocator allocator = {.alloc = arena_alloc, .free = arena_free, .allocator_data = arena};
  return protobuf_c_message_unpack(descriptor, &allocator, size, data);
}

void wd_arena_reset(struct wd_arena *arena) {
  while (arena->blocks) {
    struct wd_arena_block *block = arena->blocks;
    arena->blocks = block->next;
    free(block);
  }
  *arena = (struct wd_arena){0};
}
