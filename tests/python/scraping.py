# SPDX-License-Identifier: Apache-2.0
"""Reads the metrics of a server, and makes a GPU driver for it."""
import contextlib
import http.client
import re
import subprocess

from prometheus_client.parser import text_string_to_metric_families as parse_text

from harness import PATIENCE

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def address_of(server):
    found = re.search(r"metrics at http://127\.0\.0\.1:(\d+)/metrics", server.log())
    assert found, server.log()
    return "127.0.0.1", int(found[1])


def get(server, path="/metrics", method="GET", **headers):
    connection = http.client.HTTPConnection(*address_of(server), timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        response = connection.getresponse()
        return response, response.read()


class Scrape(dict):
    """Samples by name and labels."""

    def __init__(self, families):
        super().__init__()
        self.families = {f.name: f for f in families}
        for family in self.families.values():
            assert family.documentation and family.type != "unknown", family.name
            for sample in family.samples:
                key = sample.name, tuple(sorted(sample.labels.items()))
                assert key not in self, f"{key} is there twice"
                self[key] = sample.value

    def of(self, name, **labels):
        return self[name, tuple(sorted(labels.items()))]


def scrape(server):
    response, body = get(server)
    assert response.status == 200
    return Scrape(parse_text(body.decode()))


# A driver with three GPUs: one whole, one whose utilisation is not to be had (a MIG slice), one that is not ours.
NVML = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static int started, asked;
int nvmlInit_v2(void) { return getenv("STUB_FAILS") ? 9 : (started = 1, 0); }
int nvmlShutdown(void) { fprintf(stderr, "nvml: shut down after %d\n", asked); return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 3; return !started; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) { *h = (char *)0 + i + 1; return i == 2 ? 4 : 0; }
int nvmlDeviceGetUUID(void *h, char *out, unsigned size) {
  snprintf(out, size, "GPU-%p", h);
  return 0;
}
int nvmlDeviceGetName(void *h, char *out, unsigned size) {
  snprintf(out, size, "An \"H200\" \\ \xff");
  return 0;
}
int nvmlDeviceGetUtilizationRates(void *h, unsigned *rates) {
  rates[0] = 37, rates[1] = 8;
  asked++;
  return h == (char *)0 + 2 ? 3 : 0;
}
int nvmlDeviceGetMemoryInfo(void *h, unsigned long long *memory) {
  memory[0] = 150754820096, memory[1] = 150754820096 - 12345, memory[2] = 12345;
  return 0;
}
"""


def build_nvml(folder, source=NVML):
    folder.mkdir()
    (folder / "nvml.c").write_text(source)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", folder / "nvml.c"], check=True)
    return {"LD_LIBRARY_PATH": str(folder)}
