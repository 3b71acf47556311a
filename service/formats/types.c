// SPDX-License-Identifier: Apache-2.0
#include "service/formats/types.h"

#include <strings.h>

#include "service/formats/blocks.h"

// The fields of several bytes in each block. Whether four bytes are a u32 or u8[4] matters to big-endian files only;
// these are the widths that ggml's own structures have, checked against a big-endian file it wrote.
#define FIELDS_F32 \
  { 0, 4, 1 }
#define FIELDS_F16 \
  { 0, 2, 1 }
#define FIELDS_Q4_0 \
  { WD_Q4_0_D, 2, 1 }
#define FIELDS_Q4_1 \
  { WD_Q4_1_D, 2, 2 }
#define FIELDS_Q5_0 \
  { WD_Q5_0_D, 2, 1 }
#define FIELDS_Q5_1 \
  { WD_Q5_1_D, 2, 2 }
#define FIELDS_Q8_0 \
  { WD_Q8_0_D, 2, 1 }
#define FIELDS_Q8_1 \
  { WD_Q8_1_D, 2, 2 }
#define FIELDS_Q2_K \
  { WD_Q2_K_D, 2, 2 }
#define FIELDS_Q3_K \
  { WD_Q3_K_D, 2, 1 }
#define FIELDS_Q4_K \
  { WD_Q4_K_D, 2, 2 }
#define FIELDS_Q5_K \
  { WD_Q5_K_D, 2, 2 }
#define FIELDS_Q6_K \
  { WD_Q6_K_D, 2, 1 }
#define FIELDS_Q8_K     \
  {WD_Q8_K_D, 4, 1}, {  \
    WD_Q8_K_SUMS, 2, 16 \
  }
#define FIELDS_IQ2_XXS    \
  {WD_IQ2_XXS_D, 2, 1}, { \
    WD_IQ2_XXS_Q, 2, 32   \
  }
#define FIELDS_IQ2_XS    \
  {WD_IQ2_XS_D, 2, 1}, { \
    WD_IQ2_XS_Q, 2, 32   \
  }
#define FIELDS_IQ3_XXS \
  { WD_IQ3_XXS_D, 2, 1 }
#define FIELDS_IQ1_S    \
  {WD_IQ1_S_D, 2, 1}, { \
    WD_IQ1_S_H, 2, 8    \
  }
#define FIELDS_IQ4_NL \
  { WD_IQ4_NL_D, 2, 1 }
#define FIELDS_IQ3_S \
  { WD_IQ3_S_D, 2, 1 }
#define FIELDS_IQ2_S \
  { WD_IQ2_S_D, 2, 1 }
#define FIELDS_IQ4_XS    \
  {WD_IQ4_XS_D, 2, 1}, { \
    WD_IQ4_XS_SCH, 2, 1  \
  }
#define FIELDS_I8 \
  { 0, 0, 0 }
#define FIELDS_I16 \
  { 0, 2, 1 }
#define FIELDS_I32 \
  { 0, 4, 1 }
#define FIELDS_I64 \
  { 0, 8, 1 }
#define FIELDS_F64 \
  { 0, 8, 1 }
#define FIELDS_IQ1_M \
  { 0, 0, 0 }
#define FIELDS_BF16 \
  { 0, 2, 1 }
#define FIELDS_TQ1_0 \
  { WD_TQ1_0_D, 2, 1 }
#define FIELDS_TQ2_0 \
  { WD_TQ2_0_D, 2, 1 }
#define FIELDS_MXFP4 \
  { 0, 0, 0 }
#define FIELDS_NVFP4 \
  { 0, 0, 0 }
#define FIELDS_Q1_0 \
  { WD_Q1_0_D, 2, 1 }
#define FIELDS_Q2_0 \
  { WD_Q2_0_D, 2, 1 }

const struct wd_type_info wd_types[WD_TYPE_COUNT] = {
#define ROW(name, id, elements, bytes) \
  [WD_##name] = {WD_##name, id, #name, elements, bytes, WD_##name == WD_NVFP4, {FIELDS_##name}},
    WD_TYPES(ROW)
#undef ROW
};

#define CHECK(name, id, elements, bytes)                                                                       \
  _Static_assert((elements) <= WD_MAX_BLOCK_ELEMENTS && (bytes) <= WD_MAX_BLOCK_BYTES, #name " is too large"); \
  _Static_assert((elements) == 1 || (elements) % 32 == 0, #name " has an odd number of elements");
WD_TYPES(CHECK)
#undef CHECK

const struct wd_type_info *wd_type_by_id(uint32_t id) {
  for (int t = 0; t < WD_TYPE_COUNT; t++) {
    if (wd_types[t].id == id) {
      return &wd_types[t];
    }
  }
  return NULL;
}

const struct wd_type_info *wd_type_by_name(const char *name) {
  for (int t = 0; t < WD_TYPE_COUNT; t++) {
    if (strcasecmp(wd_types[t].name, name) == 0) {
      return &wd_types[t];
    }
  }
  return NULL;
}

const char *wd_type_removed(uint32_t id) {
  switch (id) {
    case 4:
      return "Q4_2";
    case 5:
      return "Q4_3";
    case 31:
      return "Q4_0_4_4";
    case 32:
      return "Q4_0_4_8";
    case 33:
      return "Q4_0_8_8";
    case 36:
      return "IQ4_NL_4_4";
    case 37:
      return "IQ4_NL_4_8";
    case 38:
      return "IQ4_NL_8_8";
    default:
      return NULL;
  }
}

static void reverse(uint8_t *bytes, uint32_t width) {
  for (uint32_t a = 0, b = width - 1; a < b; a++, b--) {
    uint8_t t = bytes[a];
    bytes[a] = bytes[b];
    bytes[b] = t;
  }
}

void wd_swap_blocks(const struct wd_type_info *type, uint8_t *blocks, size_t n_blocks) {
  const size_t most = sizeof type->fields / sizeof type->fields[0];
  for (; n_blocks > 0; n_blocks--, blocks += type->block_bytes) {
    for (size_t f = 0; f < most && type->fields[f].count > 0; f++) {
      const struct wd_field *field = &type->fields[f];
      for (uint32_t k = 0; k < field->count; k++) {
        reverse(blocks + field->offset + k * field->width, field->width);
      }
    }
  }
}
