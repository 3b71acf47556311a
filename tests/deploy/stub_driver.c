// SPDX-License-Identifier: Apache-2.0
// A libcuda.so.1 for machines without a GPU: it fails in the ways that real drivers do, so that what weightd says then
// can be seen. STUB_CUDA_INIT is what cuInit returns, STUB_CUDA_VERSION the version that the driver claims to be of. It
// never has a device.
#include <stdlib.h>
#include <string.h>

int cuInit(unsigned flags);
int cuDriverGetVersion(int *version);
int cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long long flags, int *found);

enum { SUCCESS = 0, NO_DEVICE = 100, NOT_SUPPORTED = 801 };

static int number(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text ? (int)strtol(text, NULL, 10) : otherwise;
}

int cuInit(unsigned flags) {
  (void)flags;
  return number("STUB_CUDA_INIT", NO_DEVICE);
}

int cuDriverGetVersion(int *version) {
  *version = number("STUB_CUDA_VERSION", 99000);
  return SUCCESS;
}

static int unsupported(void) {
  return NOT_SUPPORTED;
}

int cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long long flags, int *found) {
  (void)version;
  (void)flags;
  *function = strcmp(name, "cuInit") == 0               ? (void *)cuInit
              : strcmp(name, "cuDriverGetVersion") == 0 ? (void *)cuDriverGetVersion
              : strcmp(name, "cuGetProcAddress") == 0   ? (void *)cuGetProcAddress_v2
                                                        : (void *)unsupported;
  if (found) {
    *found = 0;  // yes
  }
  return SUCCESS;
}
