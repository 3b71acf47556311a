// SPDX-License-Identifier: Apache-2.0
// The tensor types of GGML, in one table. Everything that needs to know a type reads it here.
//
// A tensor's data is a sequence of blocks; a block holds a fixed number of elements in a fixed number of bytes, and a
// row is whole blocks. The layouts are drawn in formats/blocks.h and the value of every element is in
// formats/decode8.h, both shared with the CUDA kernels.
#ifndef WD_FORMATS_TYPES_H
#define WD_FORMATS_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// X(name, GGUF id, elements of a block, bytes of a block), in order of the ids.
#define WD_TYPES(X)       \
  X(F32, 0, 1, 4)         \
  X(F16, 1, 1, 2)         \
  X(Q4_0, 2, 32, 18)      \
  X(Q4_1, 3, 32, 20)      \
  X(Q5_0, 6, 32, 22)      \
  X(Q5_1, 7, 32, 24)      \
  X(Q8_0, 8, 32, 34)      \
  X(Q8_1, 9, 32, 36)      \
  X(Q2_K, 10, 256, 84)    \
  X(Q3_K, 11, 256, 110)   \
  X(Q4_K, 12, 256, 144)   \
  X(Q5_K, 13, 256, 176)   \
  X(Q6_K, 14, 256, 210)   \
  X(Q8_K, 15, 256, 292)   \
  X(IQ2_XXS, 16, 256, 66) \
  X(IQ2_XS, 17, 256, 74)  \
  X(IQ3_XXS, 18, 256, 98) \
  X(IQ1_S, 19, 256, 50)   \
  X(IQ4_NL, 20, 32, 18)   \
  X(IQ3_S, 21, 256, 110)  \
  X(IQ2_S, 22, 256, 82)   \
  X(IQ4_XS, 23, 256, 136) \
  X(I8, 24, 1, 1)         \
  X(I16, 25, 1, 2)        \
  X(I32, 26, 1, 4)        \
  X(I64, 27, 1, 8)        \
  X(F64, 28, 1, 8)        \
  X(IQ1_M, 29, 256, 56)   \
  X(BF16, 30, 1, 2)       \
  X(TQ1_0, 34, 256, 54)   \
  X(TQ2_0, 35, 256, 66)   \
  X(MXFP4, 39, 32, 17)    \
  X(NVFP4, 40, 64, 36)    \
  X(Q1_0, 41, 128, 18)    \
  X(Q2_0, 42, 64, 18)

// Dense indices, for tables of our own: WD_F32 = 0, WD_F16 = 1, … WD_TYPE_COUNT = 35. Not the ids of a file.
enum wd_type {
#define WD_TYPE_ENUM(name, id, elements, bytes) WD_##name,
  WD_TYPES(WD_TYPE_ENUM)
#undef WD_TYPE_ENUM
      WD_TYPE_COUNT
};

// Most elements and bytes of any block.
#define WD_MAX_BLOCK_ELEMENTS 256
#define WD_MAX_BLOCK_BYTES 292

// `count` fields of `width` bytes (2, 4 or 8) at byte `offset` of a block: what a big-endian file stores swapped.
struct wd_field {
  uint16_t offset;
  uint8_t width;
  uint8_t count;
};

struct wd_type_info {
  enum wd_type type;
  uint32_t id;  // in a GGUF file
  const char *name;
  uint32_t block_elements;
  uint32_t block_bytes;
  bool scalable;              // may have a companion scale tensor (NVFP4)
  struct wd_field fields[3];  // unused ones have count 0
};

// The table, indexed by enum wd_type.
extern const struct wd_type_info wd_types[WD_TYPE_COUNT];

// The type with this GGUF id, or NULL: then wd_type_removed says whether it once existed.
const struct wd_type_info *wd_type_by_id(uint32_t id);

// The type of this name ("Q4_K", in any case), or NULL.
const struct wd_type_info *wd_type_by_name(const char *name);

// The name of a type that was removed from the format ("Q4_2", "Q4_0_4_4", …), or NULL.
const char *wd_type_removed(uint32_t id);

// Converts n_blocks blocks between big- and little-endian, in place.
void wd_swap_blocks(const struct wd_type_info *type, uint8_t *blocks, size_t n_blocks);

#endif
