// SPDX-License-Identifier: Apache-2.0
#include "bench/peer.h"

#include <dlfcn.h>
#include <stdio.h>
#include <strings.h>

enum { ROW = 4096 };

// What ggml.h calls ggml_type_traits. It has not moved since 2024; peer_has believes a row of it only where name and
// sizes are those of our table.
struct traits {
  const char *type_name;
  int64_t block_elements, interleave;
  size_t block_bytes;
  bool is_quantized;
  void (*to_float)(const void *blocks, float *out, int64_t elements);
  void (*from_float)(const float *values, void *out, int64_t elements);
};

struct peer {
  const char *(*type_name)(int type);  // "NONE" for an id it does not know
  const struct traits *(*get_traits)(int type);
  void (*to_f16)(const float *values, uint16_t *out, int64_t elements);
};

static enum wd_status load(const char *folder, const char *name, void **library, struct wd_error *err) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  return *library ? WD_OK : wd_fail(err, WD_NOT_FOUND, "ggml could not be loaded: %s", dlerror());
}

enum wd_status peer_open(const char *folder, struct peer **peer, struct wd_error *err) {
  static struct peer loaded;
  void *base, *cpu;
  enum wd_status status = load(folder, "libggml-base.so", &base, err);  // first: the other needs it
  status = status ? status : load(folder, "libggml-cpu.so", &cpu, err);
  if (status) {
    return status;
  }
  *(void **)&loaded.type_name = dlsym(base, "ggml_type_name");
  *(void **)&loaded.get_traits = dlsym(base, "ggml_get_type_traits");
  *(void **)&loaded.to_f16 = dlsym(cpu, "ggml_cpu_fp32_to_fp16");
  void (*init)(void);
  *(void **)&init = dlsym(cpu, "ggml_cpu_init");
  if (!loaded.type_name || !loaded.get_traits || !loaded.to_f16 || !init) {
    return wd_fail(err, WD_NOT_FOUND,
                   "the ggml in %s is too old: it lacks ggml_type_name, ggml_get_type_traits, ggml_cpu_fp32_to_fp16 or "
                   "ggml_cpu_init",
                   folder);
  }
  init();
  *peer = &loaded;
  return WD_OK;
}

bool peer_has(const struct peer *peer, const struct wd_type_info *type) {
  const char *name = peer->type_name((int)type->id);
  if (type->type == WD_F16 || !name || strcasecmp(name, type->name) != 0) {
    return false;
  }
  const struct traits *traits = peer->get_traits((int)type->id);
  return traits->block_elements == type->block_elements && traits->block_bytes == type->block_bytes &&
         (traits->to_float || type->type == WD_F32);
}

void peer_decode(const struct peer *peer, const struct wd_type_info *type, const uint8_t *blocks, size_t n_blocks,
                 uint8_t *out) {
  const struct traits *traits = peer->get_traits((int)type->id);
  const size_t row_blocks = ROW / type->block_elements;
  float row[ROW];
  while (n_blocks > 0) {
    const size_t n = n_blocks < row_blocks ? n_blocks : row_blocks, elements = n * type->block_elements;
    const float *values = row;
    if (type->type == WD_F32) {
      values = (const float *)(const void *)blocks;
    } else {
      traits->to_float(blocks, row, (int64_t)elements);
    }
    peer->to_f16(values, (uint16_t *)(void *)out, (int64_t)elements);
    blocks += n * type->block_bytes;
    out += 2 * elements;
    n_blocks -= n;
  }
}
