// SPDX-License-Identifier: Apache-2.0
#include "client/arena.h"

#include <stdalign.h>
#include <stdbool.h>
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
    if (arena->total + room > arena->limit) {
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

// Reads a varint at *at; false where there is none.
static bool read_varint(const uint8_t **at, const uint8_t *end, uint64_t *value) {
  *value = 0;
  for (int shift = 0; shift < 64 && *at < end; shift += 7) {
    uint8_t byte = *(*at)++;
    *value |= (uint64_t)(byte & 0x7f) << shift;
    if (byte < 0x80) {
      return true;
    }
  }
  return false;
}

// Whether messages nest at most `depth` deep. protobuf-c recurses as deep as the sender likes, and a stack has an end.
// What is wrong in other ways passes: protobuf-c finds it.
static bool nests_within(const ProtobufCMessageDescriptor *descriptor, const uint8_t *at, const uint8_t *end,
                         int depth) {
  uint64_t key, size;
  if (depth == 0) {
    return false;
  }
  while (at < end && read_varint(&at, end, &key)) {
    switch (key & 7) {
      case 0:
        if (!read_varint(&at, end, &size)) {
          return true;
        }
        continue;
      case 1:
      case 5:
        size = (key & 7) == 1 ? 8 : 4;
        break;
      case 2:
        if (!read_varint(&at, end, &size)) {
          return true;
        }
        break;
      default:
        return true;
    }
    if (size > (uint64_t)(end - at)) {
      return true;
    }
    const ProtobufCFieldDescriptor *field =
        (key & 7) == 2 ? protobuf_c_message_descriptor_get_field(descriptor, (unsigned)(key >> 3)) : NULL;
    if (field && field->type == PROTOBUF_C_TYPE_MESSAGE && !nests_within(field->descriptor, at, at + size, depth - 1)) {
      return false;
    }
    at += size;
  }
  return true;
}

ProtobufCMessage *wd_arena_unpack(struct wd_arena *arena, const ProtobufCMessageDescriptor *descriptor,
                                  const void *data, size_t size) {
  ProtobufCAllocator allocator = {.alloc = arena_alloc, .free = arena_free, .allocator_data = arena};
  const uint8_t *bytes = data;
  arena->limit = arena->total + WD_ARENA_LIMIT;
  if (size > 0 && !nests_within(descriptor, bytes, bytes + size, WD_ARENA_DEPTH)) {
    return NULL;
  }
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
