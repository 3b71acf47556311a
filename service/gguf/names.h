// SPDX-License-Identifier: Apache-2.0
// Storage for many short names, and hash sets over them.
//
// Everything grows geometrically as names really arrive, never by a count that a file declares. Sets are seeded at
// random, so that a file cannot choose names that collide.
#ifndef WD_GGUF_NAMES_H
#define WD_GGUF_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Names, kept until all are freed together. Zero-initialized is empty.
struct wd_arena {
  struct wd_arena_block *blocks;
  size_t used;           // of the first block
  uint64_t total_bytes;  // allocated
};

// A copy of text[0..size) with a NUL after it, or NULL out of memory.
char *wd_arena_copy(struct wd_arena *arena, const char *text, size_t size);
void wd_arena_free(struct wd_arena *arena);

// A set of indices (below 2^32 - 1) of entries that have names. Zero-initialized is empty.
struct wd_name_set {
  struct wd_name_slot *slots;
  uint64_t capacity;  // a power of two, or 0
  uint64_t count;
  uint64_t seed;
};

// The name of an entry.
typedef const char *wd_name_of(const void *entries, uint32_t index, size_t *size);

// The entry of this name, or UINT32_MAX.
uint32_t wd_name_set_find(const struct wd_name_set *set, wd_name_of *name_of, const void *entries, const char *name,
                          size_t size);

// Adds an entry whose name is not in the set. False out of memory.
bool wd_name_set_add(struct wd_name_set *set, const char *name, size_t size, uint32_t index);
void wd_name_set_free(struct wd_name_set *set);
uint64_t wd_name_set_bytes(const struct wd_name_set *set);

// Makes room for one more element in an array of `count`: doubles *capacity and reallocates when they are equal.
// Returns the array, which may have moved, or NULL out of memory, when the old one still stands.
void *wd_grow(void *array, uint64_t count, uint64_t *capacity, size_t element_size);

#endif
