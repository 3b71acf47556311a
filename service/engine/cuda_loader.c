// SPDX-License-Identifier: Apache-2.0
// Chooses the backend. The CUDA one is a library of its own, loaded when it is asked for, so that one program serves
// machines with and without a GPU. It is looked for beside the program, where Bazel leaves it, and at
// WEIGHTD_CUDA_LIBRARY.
#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cuda/backend.h"
#include "service/base/text.h"
#include "service/crc/crc32c.h"
#include "service/engine/backend.h"
#include "service/engine/scan.h"

static const char library_name[] = "libweightd_cuda.so";

static bool exists(const char *path) {
  return access(path, R_OK) == 0;
}

// Where the library is, or false.
static bool find_library(char *path, size_t size) {
  const char *named = getenv("WEIGHTD_CUDA_LIBRARY");
  if (named && *named) {
    return (size_t)snprintf(path, size, "%s", named) < size;
  }
  char program[PATH_MAX];
  ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
  if (n <= 0) {
    return false;
  }
  program[n] = 0;
  const char *folder = dirname(program);
  static const char *const places[] = {"", "../lib/", "../cuda/"};
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    if ((size_t)snprintf(path, size, "%s/%s%s", folder, places[i], library_name) < size && exists(path)) {
      return true;
    }
  }
  return false;
}

static enum wd_status open_cuda(int device, uint32_t workers, const struct wd_cuda_host *host,
                                struct wd_backend **backend, struct wd_error *err) {
  char path[PATH_MAX];
  if (!find_library(path, sizeof path)) {
    return wd_fail(err, WD_UNAVAILABLE,
                   "this build has no CUDA backend (%s is not beside the program): build where nvcc is found, or name "
                   "the library in WEIGHTD_CUDA_LIBRARY",
                   library_name);
  }
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    return wd_fail(err, WD_UNAVAILABLE, "the CUDA backend could not be loaded: %s", dlerror());
  }
  wd_cuda_backend_open_fn *open_backend = NULL;
  *(void **)&open_backend = dlsym(library, "wd_cuda_backend_open");
  if (!open_backend) {
    wd_fail(err, WD_UNAVAILABLE, "%s is not weightd's CUDA backend: it has no wd_cuda_backend_open", path);
    dlclose(library);
    return WD_UNAVAILABLE;
  }
  enum wd_status status = open_backend(WD_CUDA_ABI, device, workers, host, backend, err);
  if (status) {
    dlclose(library);
  }
  return status;  // a library in use stays loaded for the life of the process
}

static void warn(const char *message) {
  fprintf(stderr, "weightd: %s\n", message);
}

enum wd_status wd_backend_open(const char *device, uint32_t workers, uint32_t readers, const char *simd,
                               struct wd_backend **backend, char *note, size_t note_size, struct wd_error *err) {
  uint64_t number = 0;
  int asked = -1;
  bool cuda = strcmp(device, "cuda") == 0;
  if (strncmp(device, "cuda:", 5) == 0 && wd_parse_u64(device + 5, 0, 255, &number)) {
    cuda = true;
    asked = (int)number;
  }
  bool automatic = strcmp(device, "auto") == 0;
  if (!cuda && !automatic && strcmp(device, "cpu") != 0) {
    return wd_fail(err, WD_INVALID_ARGUMENT, "--device %s: give auto, cpu, cuda, or cuda:N", device);
  }
  snprintf(note, note_size, "--device %s", device);
  struct wd_backend *cpu;
  enum wd_status status = wd_cpu_backend_create(workers + readers, simd, &cpu, err);
  if (status) {
    return status;
  }
  *backend = cpu;
  if (!cuda && !automatic) {
    return WD_OK;
  }
  struct wd_cuda_host host = {
      .cpu = cpu,
      .automatic = automatic,
      .crc32c = wd_crc32c,
      .crc32c_combine = wd_crc32c_combine,
      .any_special = wd_any_special,
      .swap_blocks = wd_swap_blocks,
      .warn = warn,
  };
  struct wd_error why;
  status = open_cuda(asked, workers, &host, backend, &why);
  if (status && cuda) {
    cpu->ops->destroy(cpu);
    *backend = NULL;
    return wd_fail(err, status, "--device %s: %s", device, why.message);
  }
  if (automatic) {
    snprintf(note, note_size, "--device auto: %s%s",
             status ? "on the CPU, because " : "on the GPU, small work on the CPU", status ? why.message : "");
  }
  return WD_OK;
}
