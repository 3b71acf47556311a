#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Dequantizes a Q4_K buffer with libweightd_cuda.so from Python, by ctypes alone, and checks what can be worked out by
hand.

    dequantize.py [PATH/libweightd_cuda.so]

Device memory comes from the CUDA driver (libcuda.so.1) here; a pointer of PyTorch (`tensor.data_ptr()`) or CuPy
(`array.data.ptr`) does as well, since all of them share the device's primary context.
"""
import ctypes
import pathlib
import struct
import sys

F16, BF16, F32 = 0, 1, 2
Q4_K = 12


class NoDevice(Exception):
    """There is no CUDA driver or no device."""


class Gpu:
    """The first device, and the launch API on it."""

    def __init__(self, library):
        try:
            self.driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise NoDevice(str(error)) from error
        count, device, context = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
        if self.driver.cuInit(0) != 0 or self.driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
            raise NoDevice("no CUDA device")
        self._check("cuDeviceGet", self.driver.cuDeviceGet(ctypes.byref(device), 0))
        self._check("cuDevicePrimaryCtxRetain", self.driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
        self._check("cuCtxSetCurrent", self.driver.cuCtxSetCurrent(context))
        self.api = ctypes.CDLL(str(library))
        # cudaError_t wd_dequant_launch(int type, int output, void *out, const void *in, int64_t n, float factor, stream)
        self.api.wd_dequant_launch.argtypes = [
            ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_float,
            ctypes.c_void_p
        ]
        for name in ("wd_dequant_block_elements", "wd_dequant_block_bytes"):
            getattr(self.api, name).restype = ctypes.c_int64

    @staticmethod
    def _check(what, error):
        if error != 0:
            raise RuntimeError(f"{what}: CUDA error {error}")

    def allocate(self, size):
        pointer = ctypes.c_uint64()
        self._check("cuMemAlloc", self.driver.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(max(size, 1))))
        return pointer

    def free(self, pointer):
        self._check("cuMemFree", self.driver.cuMemFree_v2(pointer))

    def dequantize(self, kind, data, elements, output=F16, factor=1.0):
        """`elements` elements of whole blocks of the type with this GGUF id, as bytes of the output."""
        size = elements * (4 if output == F32 else 2)
        blocks, out = self.allocate(len(data)), self.allocate(size)
        result = ctypes.create_string_buffer(size)
        try:
            self._check("cuMemcpyHtoD", self.driver.cuMemcpyHtoD_v2(blocks, data, ctypes.c_size_t(len(data))))
            self._check("wd_dequant_launch",
                        self.api.wd_dequant_launch(kind, output, out.value, blocks.value, elements, factor, None))
            self._check("cuMemcpyDtoH", self.driver.cuMemcpyDtoH_v2(result, out, ctypes.c_size_t(size)))
        finally:
            self.free(blocks)
            self.free(out)
        return result.raw


def main():
    library = sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "libweightd_cuda.so"
    try:
        gpu = Gpu(library)
    except NoDevice as reason:
        print(f"skipped: {reason}")
        return 0
    # A block: the halves d and dmin, twelve bytes of scales and minimums of 32 elements each, and 128 bytes of nibbles.
    # An element is d * scale * nibble - dmin * minimum.
    block = bytearray(144)
    struct.pack_into("<ee", block, 0, 0.5, 0.25)
    block[4], block[8] = 3, 2  # elements 0 to 31: scale 3, minimum 2
    block[5], block[9] = 10, 4  # elements 32 to 63: scale 10, minimum 4
    block[16] = 0x57  # element 0 is nibble 7, element 32 nibble 5
    expected = {0: 0.5 * 3 * 7 - 0.25 * 2, 1: -0.25 * 2, 32: 0.5 * 10 * 5 - 0.25 * 4, 33: -0.25 * 4, 128: 0.0}
    values = struct.unpack("<256000e", gpu.dequantize(Q4_K, bytes(block) * 1000, 256000))
    wrong = [i for i, value in enumerate(values) if i % 256 in expected and value != expected[i % 256]]
    print(f"FAILED: element {wrong[0]} is {values[wrong[0]]}" if wrong else "ok: 1000 blocks of Q4_K")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
