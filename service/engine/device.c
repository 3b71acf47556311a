// SPDX-License-Identifier: Apache-2.0
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "service/engine/backend.h"

bool wd_describe_cpu(struct wd_device *device) {
  *device = (struct wd_device){.id = "cpu", .name = "CPU"};
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  long pages = sysconf(_SC_PHYS_PAGES);
  device->cores = cores > 0 ? (uint32_t)cores : 1;
  device->memory_bytes = pages > 0 ? (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
  FILE *info = fopen("/proc/cpuinfo", "re");
  if (!info) {
    return true;
  }
  char line[512];
  while (fgets(line, sizeof line, info)) {
    const char *value = strncmp(line, "model name", 10) == 0 ? strchr(line, ':') : NULL;
    if (value) {
      value++;
      while (isspace((unsigned char)*value)) {
        value++;
      }
      snprintf(device->name, sizeof device->name, "%.*s", (int)strcspn(value, "\n"), value);
      break;
    }
  }
  fclose(info);
  return true;
}
