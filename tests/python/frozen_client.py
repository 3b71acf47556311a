# SPDX-License-Identifier: Apache-2.0
"""A client process that a test stops or kills: ADDRESS MODEL. It takes one chunk, says so, and reads on slowly at first."""
import sys
import time

import grpc

from harness import pb, pb_grpc

stub = pb_grpc.WeightServiceStub(grpc.insecure_channel(sys.argv[1]))
call = stub.StreamTensors(pb.StreamTensorsRequest(model=sys.argv[2]))
next(call)
print("first chunk", flush=True)
time.sleep(1)  # in which the test stops this process
try:
    for chunk in call:
        pass
    print("OK", flush=True)
except grpc.RpcError as e:
    print(e.code().name, flush=True)
    print(e.details(), flush=True)
