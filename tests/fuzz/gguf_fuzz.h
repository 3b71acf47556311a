// SPDX-License-Identifier: Apache-2.0
#ifndef WD_TESTS_FUZZ_GGUF_FUZZ_H
#define WD_TESTS_FUZZ_GGUF_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// How many inputs were models, and how many were refused.
extern unsigned long long gguf_fuzz_opened, gguf_fuzz_refused;

#endif
