// SPDX-License-Identifier: Apache-2.0
#include "cuda/advice.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Compiled for the architectures that all kernels are compiled for.
__global__ static void probe() {}

cudaError_t wd_cuda_has_code(void) {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, probe);
}

// CUDA says the same of a driver that is too old and of none at all.
static void advise_driver(char *text, size_t size) {
  int have = 0;
  cudaDriverGetVersion(&have);
  if (have == 0) {
    snprintf(text, size,
             "no NVIDIA driver was found (libcuda.so.1): install the driver on the host; in a container, pass a GPU in "
             "(--gpus all, --device nvidia.com/gpu=all, or the limit nvidia.com/gpu: 1) with "
             "NVIDIA_DRIVER_CAPABILITIES=compute,utility");
    return;
  }
  snprintf(text, size,
           "the driver is for CUDA %d.%d and this build needs CUDA %d.%d: update the host's driver, or build weightd "
           "with the toolkit of CUDA %d or older",
           have / 1000, have % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10, have / 1000);
}

static void advise_none(char *text, size_t size) {
  const char *visible = getenv("CUDA_VISIBLE_DEVICES");
  if (visible) {
    snprintf(text, size,
             "CUDA_VISIBLE_DEVICES=%.64s hides all GPUs or names none that is here: compare it with nvidia-smi -L",
             visible);
    return;
  }
  snprintf(
      text, size,
      "the driver is here and sees no GPU: in a container, pass one in; with MIG enabled, create a compute instance "
      "and pass that in (nvidia-smi -L lists them)");
}

void wd_cuda_advice(cudaError_t error, char *text, size_t size) {
  const char *advice = "check that nvidia-smi works here and, in a container, that the GPU was passed through";
  switch (error) {
    case cudaErrorInsufficientDriver:
      advise_driver(text, size);
      return;
    case cudaErrorNoDevice:
      advise_none(text, size);
      return;
    case cudaErrorStubLibrary:
      advice =
          "libcuda.so.1 is the toolkit's stub, not the driver's: take the toolkit's folder \"stubs\" out of "
          "LD_LIBRARY_PATH";
      break;
    case cudaErrorSystemDriverMismatch:
      advice =
          "libcuda.so.1 and the kernel's NVIDIA module are of different versions: reboot after an update of the "
          "driver; in a "
          "container, remove a libcuda.so.1 of its own (cuda-compat), and make the CDI description anew (nvidia-ctk "
          "cdi generate)";
      break;
    case cudaErrorCompatNotSupportedOnDevice:
      advice =
          "a cuda-compat library is found before the driver's libcuda.so.1, and this GPU does not allow that: take it "
          "out of "
          "LD_LIBRARY_PATH and update the host's driver instead";
      break;
    case cudaErrorSystemNotReady:
      advice = "the GPUs are joined by NVSwitch, whose service does not run: start nvidia-fabricmanager on the host";
      break;
    case cudaErrorMpsConnectionFailed:
      advice =
          "the GPU is shared by MPS, whose daemon is not reachable: mount its folder (CUDA_MPS_PIPE_DIRECTORY) and run "
          "as the "
          "daemon's user";
      break;
    case cudaErrorDevicesUnavailable:
      advice =
          "another process has the GPU for itself: see nvidia-smi -q -d COMPUTE, and end it or set the mode to Default";
      break;
    case cudaErrorOperatingSystem:
    case cudaErrorUnknown:
    case cudaErrorInitializationError:
      advice =
          "the driver's devices cannot be opened: /dev/nvidiactl, /dev/nvidia-uvm and /dev/nvidia0 must be here and "
          "allowed (a "
          "systemctl daemon-reload on the host takes them from running containers: use CDI, and restart this one); see "
          "dmesg";
      break;
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidKernelImage:
      advice =
          "this build has no code for this GPU: it needs compute capability 8.0 (Ampere) or newer; build for others "
          "with "
          "_ARCHITECTURES in cuda/nvcc.bzl";
      break;
    case cudaErrorUnsupportedPtxVersion:
      advice =
          "the GPU is newer than this build, and the driver older than the compiler of it: update the host's driver";
      break;
    case cudaErrorJitCompilerNotFound:
      advice =
          "the GPU is newer than this build, and the driver's compiler is missing (libnvidia-ptxjitcompiler.so.1): "
          "pass it in "
          "with NVIDIA_DRIVER_CAPABILITIES=compute,utility, or update weightd";
      break;
    default:
      break;
  }
  snprintf(text, size, "%s", advice);
}
