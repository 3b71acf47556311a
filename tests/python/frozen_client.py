# SPDX-License-Identifier: Apache-2.0
"""A client process that a test freezes or kills: ADDRESS MODEL ["stop"]. It takes one chunk, says so, freezes if it is
told to, and reads on."""
import os
import signal
import sys

import grpc

from harness import pb, pb_grpc

stub = pb_grpc.WeightServiceStub(grpc.insecure_channel(sys.argv[1]))
call = stub.StreamTensors(pb.StreamTensorsRequest(model=sys.argv[2]))
next(call)
print("first chunk", flush=True)
if "stop" in sys.argv[3:]:
    os.kill(os.getpid(), signal.SIGSTOP)
try:
    for chunk in call:
        pass
    print("OK", flush=True)
except grpc.RpcError as e:
    print(e.code().name, flush=True)
    print(e.details(), flush=True)
