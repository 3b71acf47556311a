// SPDX-License-Identifier: Apache-2.0
// The layouts of the blocks: where each field lies. Read by the portable decoders (decode8.h), the SIMD decoders, the
// table of types and the CUDA kernels; plain C that CUDA C++ includes too.
//
// The maps give byte offsets above the fields. Fields are little-endian; f16 is an IEEE half. A line below a map says
// which element a bit belongs to; i counts the elements of a block from 0, and "lo" and "hi" are the halves of a byte.
#ifndef WD_FORMATS_BLOCKS_H
#define WD_FORMATS_BLOCKS_H

// ---- 32 elements with one scale ------------------------------------------------------------------------------------
//
//   Q4_0    0 ─ 2 ─────────────────────────── 18
//           │d f16│ q[16]                      │      q[i % 16]: lo is element i < 16, hi is element i >= 16
//
//   Q4_1    0 ─── 2 ─── 4 ─────────────────── 20
//           │d f16│m f16│ q[16]                │
//
//   Q5_0    0 ─── 2 ───── 6 ───────────────── 22
//           │d f16│ h u32 │ q[16]              │      bit i of h is bit 4 of element i
//
//   Q5_1    0 ─── 2 ─── 4 ───── 8 ─────────── 24
//           │d f16│m f16│ h u32 │ q[16]        │
//
//   Q8_0    0 ─── 2 ───────────────────────── 34
//           │d f16│ q i8[32]                   │
//
//   Q8_1    0 ─── 2 ─── 4 ─────────────────── 36
//           │d f16│s f16│ q i8[32]             │      s = d * sum of q, not needed to decode
//
//   IQ4_NL  as Q4_0; a nibble is an index into wd_iq4_values
//
//   MXFP4   0 ─ 1 ─────────────────────────── 17
//           │e E8M0│ q[16]                     │      nibbles as in Q4_0, FP4 values
enum {
  WD_Q4_0_D = 0,
  WD_Q4_0_Q = 2,
  WD_Q4_1_D = 0,
  WD_Q4_1_M = 2,
  WD_Q4_1_Q = 4,
  WD_Q5_0_D = 0,
  WD_Q5_0_H = 2,
  WD_Q5_0_Q = 6,
  WD_Q5_1_D = 0,
  WD_Q5_1_M = 2,
  WD_Q5_1_H = 4,
  WD_Q5_1_Q = 8,
  WD_Q8_0_D = 0,
  WD_Q8_0_Q = 2,
  WD_Q8_1_D = 0,
  WD_Q8_1_S = 2,
  WD_Q8_1_Q = 4,
  WD_IQ4_NL_D = 0,
  WD_IQ4_NL_Q = 2,
  WD_MXFP4_E = 0,
  WD_MXFP4_Q = 1,
};

// ---- 64 and 128 elements -------------------------------------------------------------------------------------------
//
//   NVFP4   0 ───────── 4 ─────────────────── 36
//           │e UE4M3[4] │ q[32]                │      64 elements: group i / 16 has e[i / 16] and eight bytes of q,
//                                                     lo its elements 0–7, hi its elements 8–15
//
//   Q1_0    0 ─── 2 ───────────────────────── 18
//           │d f16│ q[16]                      │      128 elements: bit i % 8 of q[i / 8]
//
//   Q2_0    0 ─── 2 ───────────────────────── 18
//           │d f16│ q[16]                      │      64 elements: bits 2 * (i % 4) and up of q[i / 4]
enum {
  WD_NVFP4_E = 0,
  WD_NVFP4_Q = 4,
  WD_Q1_0_D = 0,
  WD_Q1_0_Q = 2,
  WD_Q2_0_D = 0,
  WD_Q2_0_Q = 2,
};

// ---- K types: 256 elements in groups of 16 or 32 with scales of their own ------------------------------------------
//
//   Q2_K    0 ────── 16 ──────────────────── 80 ──── 82 ────── 84
//           │ sc[16] │ q[64]                 │ d f16 │dmin f16 │
//           sc[i / 16]: lo is the scale, hi the minimum.
//           q, "two bits": bits 2 * (i % 128 / 32) and up of q[i / 128 * 32 + i % 32].
//
//   Q3_K    0 ───────── 32 ───────────────── 96 ───── 108 ─── 110
//           │ hmask[32] │ q[64]              │ sc[12] │ d f16 │
//           q as in Q2_K; bit i / 32 of hmask[i % 32] is clear where 4 is to be subtracted.
//           sc holds 16 scales of 6 bits, s = i / 16: the low four bits are nibble s / 8 of sc[s % 8], the high two are
//           bits 2 * (s / 4) and up of sc[8 + s % 4].
//
//   Q4_K    0 ──── 2 ────── 4 ───── 16 ────────────────────── 144
//           │d f16 │dmin f16│sc[12] │ q[128]                    │
//   Q5_K    0 ──── 2 ────── 4 ───── 16 ──── 48 ────────────── 176
//           │d f16 │dmin f16│sc[12] │ h[32] │ q[128]            │
//           q[i / 64 * 32 + i % 32]: lo where i % 64 < 32, else hi. Bit i / 32 of h[i % 32] is bit 4 of element i.
//           sc holds a 6-bit scale and a 6-bit minimum for each of 8 groups, s = i / 32:
//             bits of     7 6 │ 5 4 │ 3 2 1 0
//             sc[s]       scale s+4 (its bits 5, 4) │ scale s, six bits       s < 4
//             sc[4 + s]   min s+4 (its bits 5, 4)   │ min s, six bits
//             sc[8 + s]   min s+4 (its bits 3–0)    │ scale s+4 (its bits 3–0)
//
//   Q6_K    0 ──────── 128 ────── 192 ─────────── 208 ─── 210
//           │ ql[128]   │ qh[64]   │ sc i8[16]     │ d f16 │
//           ql[i / 128 * 64 + i % 64]: lo where i % 128 < 64, else hi: bits 3–0. Bits 5–4 are two bits of qh as in
//           Q2_K.
//
//   Q8_K    0 ──── 4 ──────────── 260 ─────────── 292
//           │d f32 │ q i8[256]     │ sums i16[16]   │      sums of 16 q each, not needed to decode
enum {
  WD_Q2_K_SC = 0,
  WD_Q2_K_Q = 16,
  WD_Q2_K_D = 80,
  WD_Q2_K_DMIN = 82,
  WD_Q3_K_HMASK = 0,
  WD_Q3_K_Q = 32,
  WD_Q3_K_SC = 96,
  WD_Q3_K_D = 108,
  WD_Q4_K_D = 0,
  WD_Q4_K_DMIN = 2,
  WD_Q4_K_SC = 4,
  WD_Q4_K_Q = 16,
  WD_Q5_K_D = 0,
  WD_Q5_K_DMIN = 2,
  WD_Q5_K_SC = 4,
  WD_Q5_K_H = 16,
  WD_Q5_K_Q = 48,
  WD_Q6_K_QL = 0,
  WD_Q6_K_QH = 128,
  WD_Q6_K_SC = 192,
  WD_Q6_K_D = 208,
  WD_Q8_K_D = 0,
  WD_Q8_K_Q = 4,
  WD_Q8_K_SUMS = 260,
};

// ---- IQ types: 256 elements as indices into a lattice (codebooks.h) ------------------------------------------------
//
// Elements go in eights: group g = i / 8. "Signs + parity" are seven sign bits; the eighth makes the number of set bits
// even. A set sign bit j negates element j of its eight.
//
//   IQ2_XXS 0 ─── 2 ────────────────────────────── 66
//           │d f16│ q: 8 × { index u8[4], word u32 }  │      words for 32 elements each: bits 7 * (g % 4) and up are
//           the
//                                                            signs + parity of group g, bits 31–28 the scale
//   IQ2_XS  0 ─── 2 ──────────── 66 ────── 74
//           │d f16│ q u16[32]     │ sc[8]   │                q[g]: bits 8–0 index, bits 15–9 signs + parity
//   IQ2_S   0 ─── 2 ───── 34 ──────── 66 ──── 74 ──── 82
//           │d f16│ q[32] │ signs[32] │ h[8]  │ sc[8] │      index q[g] and bits 9–8 from bits 2 * (g % 4) of h[g / 4]
//           Both: sc[i / 32], lo for its first 16 elements, hi for the rest.
//
//   IQ3_XXS 0 ─── 2 ───── 66 ───────────── 98
//           │d f16│ q[64] │ word u8[4] × 8  │                q[i / 4]; words (little-endian) as in IQ2_XXS
//   IQ3_S   0 ─── 2 ───── 66 ─── 74 ──────── 106 ──── 110
//           │d f16│ q[64] │ h[8] │ signs[32] │ sc[4]  │      index q[i / 4] and bit 8 from bit i % 32 / 4 of h[i / 32];
//                                                            sc[i / 64]: lo for its first 32 elements, hi for the rest
//   IQ1_S   0 ─── 2 ───── 34 ──────── 50
//           │d f16│ q[32] │ h u16[8]  │     h[i / 32]: bits 11–0 are bits 10–8 of four indices, bits 14–12 the scale,
//                                           bit 15 the sign of the shift (±1/8)
//   IQ1_M   0 ───── 32 ───── 48 ─────── 56
//           │ q[32] │ h[16]  │ sc[4] u16 │  nibble g % 2 of h[g / 2]: bits 2–0 are bits 10–8 of the index, bit 3 the
//                                           sign of the shift. sc[i / 64]: bits 3 * (i % 64 / 16) and up the scale of
//                                           16 elements; bits 15–12 a nibble of d f16, the lowest nibble in sc[0]
//   IQ4_XS  0 ─── 2 ───── 4 ────── 8 ──────────── 136
//           │d f16│sch u16│ scl[4] │ q[128]         │        16 bytes of q and a 6-bit scale for each 32 elements, as
//           in
//                                                            IQ4_NL; s = i / 32: nibble s % 2 of scl[s / 2], then bits
//                                                            2 * s and up of sch
enum {
  WD_IQ2_XXS_D = 0,
  WD_IQ2_XXS_Q = 2,
  WD_IQ2_XS_D = 0,
  WD_IQ2_XS_Q = 2,
  WD_IQ2_XS_SC = 66,
  WD_IQ2_S_D = 0,
  WD_IQ2_S_Q = 2,
  WD_IQ2_S_SIGNS = 34,
  WD_IQ2_S_H = 66,
  WD_IQ2_S_SC = 74,
  WD_IQ3_XXS_D = 0,
  WD_IQ3_XXS_Q = 2,
  WD_IQ3_XXS_WORDS = 66,
  WD_IQ3_S_D = 0,
  WD_IQ3_S_Q = 2,
  WD_IQ3_S_H = 66,
  WD_IQ3_S_SIGNS = 74,
  WD_IQ3_S_SC = 106,
  WD_IQ1_S_D = 0,
  WD_IQ1_S_Q = 2,
  WD_IQ1_S_H = 34,
  WD_IQ1_M_Q = 0,
  WD_IQ1_M_H = 32,
  WD_IQ1_M_SC = 48,
  WD_IQ4_XS_D = 0,
  WD_IQ4_XS_SCH = 2,
  WD_IQ4_XS_SCL = 4,
  WD_IQ4_XS_Q = 8,
};

// ---- Ternary types: 256 elements ------------------------------------------------------------------------------------
//
//   TQ1_0   0 ───── 48 ──── 52 ─── 54
//           │ q[48] │ h[4]  │d f16 │        five (q) or four (h) trits a byte, as a fraction of 3^5 in 1/256: trit n is
//           the
//                                           whole part of 3 * frac(byte / 256 * 3^n)
//           elements 0–159: trit i / 32 of q[i % 32]; 160–239: trit (i - 160) / 16 of q[32 + i % 16];
//           240–255: trit (i - 240) / 4 of h[i % 4]
//   TQ2_0   0 ───────────── 64 ─── 66
//           │ q[64]         │d f16 │        two bits as in Q2_K
enum {
  WD_TQ1_0_Q = 0,
  WD_TQ1_0_H = 48,
  WD_TQ1_0_D = 52,
  WD_TQ2_0_Q = 0,
  WD_TQ2_0_D = 64,
};

#endif
