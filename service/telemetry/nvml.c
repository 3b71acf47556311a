// SPDX-License-Identifier: Apache-2.0
// The library comes with the driver, so it is loaded at run time, like CUDA's. What it needs of nvml.h stands here: the
// functions below are in every driver since 2014, and their structs do not change.
#include "service/telemetry/nvml.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/base/clock.h"
#include "service/telemetry/log.h"

#define LIBRARY "libnvidia-ml.so.1"
#define LOOK_AGAIN_NS ((uint64_t)60 * 1000000000u)
#define ASK_AGAIN_NS ((uint64_t)1000000000u)
#define GPUS_MOST 64

typedef struct nvml_device *nvml_handle;

struct nvml_utilization {
  unsigned gpu;  // percent of the last moments in which a kernel ran
  unsigned memory;
};

struct nvml_memory {
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};

// Every function returns 0 where it succeeded.
struct functions {
  int (*init)(void);
  int (*shutdown)(void);
  int (*count)(unsigned *count);
  int (*handle)(unsigned index, nvml_handle *handle);
  int (*uuid)(nvml_handle handle, char *uuid, unsigned size);
  int (*name)(nvml_handle handle, char *name, unsigned size);
  int (*utilization)(nvml_handle handle, struct nvml_utilization *utilization);
  int (*memory)(nvml_handle handle, struct nvml_memory *memory);
};

static const struct {
  const char *name;
  size_t at;  // in struct functions
} symbols[] = {
    {"nvmlInit_v2", offsetof(struct functions, init)},
    {"nvmlShutdown", offsetof(struct functions, shutdown)},
    {"nvmlDeviceGetCount_v2", offsetof(struct functions, count)},
    {"nvmlDeviceGetHandleByIndex_v2", offsetof(struct functions, handle)},
    {"nvmlDeviceGetUUID", offsetof(struct functions, uuid)},
    {"nvmlDeviceGetName", offsetof(struct functions, name)},
    {"nvmlDeviceGetUtilizationRates", offsetof(struct functions, utilization)},
    {"nvmlDeviceGetMemoryInfo", offsetof(struct functions, memory)},
};

struct gpu {
  nvml_handle handle;
  char index[12];
  char uuid[96];
  char name[96];
  bool has_utilization;
  bool has_memory;
  struct nvml_utilization utilization;
  struct nvml_memory memory;
};

struct wd_nvml {
  void *library;  // while it is in use
  struct functions call;
  uint64_t looked_ns;  // when it was last looked for; 0: never
  uint64_t asked_ns;
  unsigned n_gpus;
  struct gpu gpus[GPUS_MOST];
};

struct wd_nvml *wd_nvml_create(void) {
  return calloc(1, sizeof(struct wd_nvml));
}

void wd_nvml_destroy(struct wd_nvml *nvml) {
  if (nvml && nvml->library) {
    nvml->call.shutdown();
    dlclose(nvml->library);
  }
  free(nvml);
}

static bool find_functions(void *library, struct functions *functions) {
  for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
    void *symbol = dlsym(library, symbols[i].name);
    if (!symbol) {
      wd_log(WD_LOG_DEBUG, "no GPU metrics: " LIBRARY " has no %s", symbols[i].name);
      return false;
    }
    memcpy((char *)functions + symbols[i].at, &symbol, sizeof symbol);
  }
  return true;
}

static void open_library(struct wd_nvml *nvml) {
  void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    wd_log(WD_LOG_DEBUG, "no GPU metrics: %s", dlerror());
    return;
  }
  int error = 0;
  if (!find_functions(library, &nvml->call) || (error = nvml->call.init())) {
    if (error) {
      wd_log(WD_LOG_DEBUG, "no GPU metrics: nvmlInit failed (%d)", error);
    }
    dlclose(library);
    return;
  }
  nvml->library = library;
  unsigned n = 0;
  nvml->call.count(&n);
  for (unsigned i = 0; i < n && nvml->n_gpus < GPUS_MOST; i++) {
    struct gpu *gpu = &nvml->gpus[nvml->n_gpus];
    memset(gpu, 0, sizeof *gpu);
    // Those that this process may not use fail here.
    if (nvml->call.handle(i, &gpu->handle) == 0 && nvml->call.uuid(gpu->handle, gpu->uuid, sizeof gpu->uuid - 1) == 0) {
      snprintf(gpu->index, sizeof gpu->index, "%u", i);
      if (nvml->call.name(gpu->handle, gpu->name, sizeof gpu->name - 1)) {
        gpu->name[0] = '\0';
      }
      nvml->n_gpus++;
    }
  }
  wd_log(WD_LOG_INFO, "metrics of %u GPUs from " LIBRARY, nvml->n_gpus);
}

static void ask(struct wd_nvml *nvml) {
  for (unsigned i = 0; i < nvml->n_gpus; i++) {
    struct gpu *gpu = &nvml->gpus[i];
    gpu->has_utilization = nvml->call.utilization(gpu->handle, &gpu->utilization) == 0;
    gpu->has_memory = nvml->call.memory(gpu->handle, &gpu->memory) == 0;
  }
}

void wd_nvml_expose(struct wd_nvml *nvml, struct wd_exposition *e) {
  uint64_t now = wd_now_ns();
  if (!nvml->library && (!nvml->looked_ns || now - nvml->looked_ns > LOOK_AGAIN_NS)) {
    nvml->looked_ns = now;
    open_library(nvml);
  }
  if (!nvml->library) {
    return;
  }
  if (!nvml->asked_ns || now - nvml->asked_ns > ASK_AGAIN_NS) {
    nvml->asked_ns = now;
    ask(nvml);
  }
  wd_expose(e, WD_GAUGE, "weightd_gpu_info", "GPUs of this machine, numbered as the driver does (nvidia-smi).");
  for (unsigned i = 0; i < nvml->n_gpus; i++) {
    wd_expose_count(e, 1, "gpu", nvml->gpus[i].index, "uuid", nvml->gpus[i].uuid, "name", nvml->gpus[i].name, NULL);
  }
  wd_expose(e, WD_GAUGE, "weightd_gpu_utilization_ratio", "Part of the time in which the GPU ran kernels, anybody's.");
  for (unsigned i = 0; i < nvml->n_gpus; i++) {
    if (nvml->gpus[i].has_utilization) {
      wd_expose_number(e, nvml->gpus[i].utilization.gpu / 100.0, "gpu", nvml->gpus[i].index, NULL);
    }
  }
  wd_expose(e, WD_GAUGE, "weightd_gpu_memory_utilization_ratio",
            "Part of the time in which the GPU's memory was read or written.");
  for (unsigned i = 0; i < nvml->n_gpus; i++) {
    if (nvml->gpus[i].has_utilization) {
      wd_expose_number(e, nvml->gpus[i].utilization.memory / 100.0, "gpu", nvml->gpus[i].index, NULL);
    }
  }
  wd_expose(e, WD_GAUGE, "weightd_gpu_memory_used_bytes", "Memory of the GPU that is in use, by anybody.");
  for (unsigned i = 0; i < nvml->n_gpus; i++) {
    if (nvml->gpus[i].has_memory) {
      wd_expose_count(e, nvml->gpus[i].memory.used, "gpu", nvml->gpus[i].index, NULL);
    }
  }
  wd_expose(e, WD_GAUGE, "weightd_gpu_memory_bytes", "Memory of the GPU.");
  for (unsigned i = 0; i < nvml->n_gpus; i++) {
    if (nvml->gpus[i].has_memory) {
      wd_expose_count(e, nvml->gpus[i].memory.total, "gpu", nvml->gpus[i].index, NULL);
    }
  }
}
