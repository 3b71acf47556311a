// SPDX-License-Identifier: Apache-2.0
#include "service/gguf/names.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <xxhash.h>

struct wd_arena_block {
  struct wd_arena_block *next;
  size_t size;
  char text[];
};

char *wd_arena_copy(struct wd_arena *arena, const char *text, size_t size) {
  if (!arena->blocks || arena->blocks->size - arena->used < size + 1) {
    // A quarter more each time, from 4 KiB to 1 MiB.
    size_t block_size = (size_t)(arena->total_bytes / 4);
    block_size = block_size < 4096 ? 4096 : block_size > 1048576 ? 1048576 : block_size;
    block_size = block_size < size + 1 ? size + 1 : block_size;
    struct wd_arena_block *block = malloc(sizeof *block + block_size);
    if (!block) {
      return NULL;
    }
    block->next = arena->blocks;
    block->size = block_size;
    arena->blocks = block;
    arena->used = 0;
    arena->total_bytes += sizeof *block + block_size;
  }
  char *copy = arena->blocks->text + arena->used;
  memcpy(copy, text, size);
  copy[size] = '\0';
  arena->used += size + 1;
  return copy;
}

void wd_arena_free(struct wd_arena *arena) {
  while (arena->blocks) {
    struct wd_arena_block *next = arena->blocks->next;
    free(arena->blocks);
    arena->blocks = next;
  }
  *arena = (struct wd_arena){0};
}

// The hash beside the index saves most comparisons of names, and hashing them again when the set grows.
struct wd_name_slot {
  uint32_t index_plus_1;  // 0: free
  uint32_t hash;
};

static uint32_t hash_name(const struct wd_name_set *set, const char *name, size_t size) {
  return (uint32_t)XXH3_64bits_withSeed(name, size, set->seed);
}

uint32_t wd_name_set_find(const struct wd_name_set *set, wd_name_of *name_of, const void *entries, const char *name,
                          size_t size) {
  if (set->count == 0) {
    return UINT32_MAX;
  }
  uint32_t hash = hash_name(set, name, size);
  for (uint64_t i = hash & (set->capacity - 1); set->slots[i].index_plus_1; i = (i + 1) & (set->capacity - 1)) {
    if (set->slots[i].hash == hash) {
      size_t other_size;
      const char *other = name_of(entries, set->slots[i].index_plus_1 - 1, &other_size);
      if (other_size == size && memcmp(other, name, size) == 0) {
        return set->slots[i].index_plus_1 - 1;
      }
    }
  }
  return UINT32_MAX;
}

static void put(struct wd_name_set *set, struct wd_name_slot slot) {
  uint64_t i = slot.hash & (set->capacity - 1);
  while (set->slots[i].index_plus_1) {
    i = (i + 1) & (set->capacity - 1);
  }
  set->slots[i] = slot;
}

// Doubles the slots.
static bool grow(struct wd_name_set *set) {
  struct wd_name_set old = *set;
  if (!old.slots && getrandom(&set->seed, sizeof set->seed, GRND_NONBLOCK) != sizeof set->seed) {
    struct timespec now;  // too early after boot for random numbers: the nanoseconds are hard enough to guess
    clock_gettime(CLOCK_REALTIME, &now);
    set->seed = ((uint64_t)now.tv_sec << 32) ^ (uint64_t)now.tv_nsec ^ (uintptr_t)set;
  }
  set->capacity = old.capacity ? old.capacity * 2 : 16;
  set->slots = calloc(set->capacity, sizeof *set->slots);
  if (!set->slots) {
    *set = old;
    return false;
  }
  for (uint64_t i = 0; i < old.capacity; i++) {
    if (old.slots[i].index_plus_1) {
      put(set, old.slots[i]);
    }
  }
  free(old.slots);
  return true;
}

bool wd_name_set_add(struct wd_name_set *set, const char *name, size_t size, uint32_t index) {
  if (set->count >= set->capacity / 2 && !grow(set)) {
    return false;
  }
  put(set, (struct wd_name_slot){index + 1, hash_name(set, name, size)});
  set->count++;
  return true;
}

void wd_name_set_free(struct wd_name_set *set) {
  free(set->slots);
  *set = (struct wd_name_set){0};
}

uint64_t wd_name_set_bytes(const struct wd_name_set *set) {
  return set->capacity * sizeof *set->slots;
}

void *wd_grow(void *array, uint64_t count, uint64_t *capacity, size_t element_size) {
  if (count < *capacity) {
    return array;
  }
  uint64_t wanted = *capacity ? *capacity * 2 : 16;
  void *grown = reallocarray(array, wanted, element_size);
  if (grown) {
    *capacity = wanted;
  }
  return grown;
}
