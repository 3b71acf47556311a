# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes Job that fetches a model: what its containers run, run here against a server with TLS and tokens."""
import json
import os
import subprocess

import certs
from harness import PATIENCE, SAMPLE, WEIGHTCTL, Server
from manifests import one, overlay


def test_the_tasks_make_the_model(tmp_path):
    job = one(overlay("jobs/fetch"), "Job")["spec"]
    container = job["template"]["spec"]["containers"][0]
    assert job["completionMode"] == "Indexed" and job["completions"] == job["parallelism"] == 4
    authority = certs.Authority()
    cert, key = authority.issue("weightd", hosts=["weightd", "localhost"]).write(tmp_path, "tls")
    models, tls, tokens, weights = (tmp_path / n for n in ("models", "client-tls", "tokens", "weights"))
    for folder in (models, tls, tokens, weights):
        folder.mkdir()
    (models / "llama.gguf").write_bytes(SAMPLE.read_bytes())
    (tls / "ca.crt").write_bytes(authority.cert)
    (tokens / "token").write_text("token-of-the-job-tests\n")
    (tokens / "token").chmod(0o600)
    mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
    places = {path: {"weights": weights, "tls": tls, "tokens": tokens}[name] for path, name in mounts.items()}

    def here(text):
        for path, place in places.items():
            text = text.replace(path + "/", f"{place}/")
        return text
    assert container["command"] == ["/usr/bin/weightctl"]
    server = Server(models, "--tls-cert", cert, "--tls-key", key, "--token-file", tokens / "token",
                    tmp=tmp_path / "server")
    try:
        for index in range(job["completions"]):
            environment = {e["name"]: here(e["value"]) for e in container["env"] if "value" in e}
            # Of the environment only the address is another one here.
            environment["WEIGHTD_SERVER"] = server.address.replace("127.0.0.1", "localhost")
            arguments = [here(a).replace("$(INDEX)", str(index)) for a in container["args"]]
            done = subprocess.run([WEIGHTCTL, *arguments], capture_output=True, text=True, timeout=PATIENCE,
                                  env={"PATH": os.environ["PATH"], **environment})
            assert done.returncode == 0, done.stderr
    finally:
        server.close()
    names = {f"llama-{i + 1:05d}-of-00004.safetensors" for i in range(4)}
    assert {p.name for p in weights.iterdir()} == names | {"llama.safetensors.index.json"}
    index = json.loads((weights / "llama.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == names
