// SPDX-License-Identifier: Apache-2.0
// Metrics of NVIDIA GPUs, from the driver's own library where this machine has one.
#ifndef WD_TELEMETRY_NVML_H
#define WD_TELEMETRY_NVML_H

#include "service/telemetry/metrics.h"

struct wd_nvml;

// Looks for nothing yet: a driver that hangs is not to hold up the start. NULL where there is no memory.
struct wd_nvml *wd_nvml_create(void);
void wd_nvml_destroy(struct wd_nvml *nvml);  // NULL is allowed

// Utilisation and memory of every GPU that this process may see; what the driver does not tell (utilisation of a MIG
// slice, say) is left out, and so is everything where there is no driver. It is looked for once a minute, and asked
// once a second at most: what is exposed may be so old. May take as long as the driver takes. One thread at a time.
void wd_nvml_expose(struct wd_nvml *nvml, struct wd_exposition *exposition);

#endif
