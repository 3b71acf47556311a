# SPDX-License-Identifier: Apache-2.0
"""The README's Python client runs as it stands there, against a server at another port."""
import os
import re
import subprocess
import sys

from harness import ROOT, SAMPLE


def test_the_client_of_the_readme(serve):
    readme = (ROOT / "README.md").read_text()
    [code] = re.findall(r"<!-- a test runs this -->\n```python\n(.*?)```", readme, re.S)
    s = serve(SAMPLE.parent)
    assert '"127.0.0.1:50151", "sample.gguf"' in code
    code = code.replace("127.0.0.1:50151", s.address)
    env = dict(os.environ, PYTHONPATH=str(ROOT / "proto"))
    out = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True).stdout
    lines = out.splitlines()
    assert len(lines) > 30 and all(line.startswith("blk.0.") for line in lines)
    assert "blk.0.q4_k.weight (3, 512) [" in out


def test_its_table_of_types(serve):
    """Every type that the server reads is in the README, with its block."""
    readme = (ROOT / "README.md").read_text()
    for t in serve(SAMPLE.parent).info().tensor_types:
        if t.name in ("I8", "I16", "I32", "I64"):
            assert re.search(rf"\| [^|]*\b{t.name}\b[^|]* \| 1 \| 1–8 ", readme), t.name
        else:
            assert re.search(rf"\| {t.name}[^|]*\| {t.block_elements} \| {t.block_bytes} \|", readme), t.name
