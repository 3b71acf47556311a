# SPDX-License-Identifier: Apache-2.0
"""weightctl fetch --share: what the tasks of a job fetch is together the model, whatever their number."""
import json
import subprocess

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import oracle
from ggufwrite import Gguf
from harness import PATIENCE, WEIGHTCTL
from test_weightctl import read_file, run

MIB = 1 << 20


@pytest.fixture
def ctl(server):
    return lambda *arguments, **options: run(*arguments, address=server.address, **options)


@pytest.fixture(scope="module")
def model(models):
    """60 tensors of many sizes, 50 MB as FP16; some are empty or tiny."""
    rng = np.random.default_rng(5)
    g = Gguf()
    for i in range(60):
        rows = int(rng.integers(1, 60)) if i % 7 else 0
        g.tensor(f"blk.{i}.weight", "Q8_0", (4096, 4 * rows), oracle.blocks("Q8_0", 128 * 4 * rows, i))
        g.tensor(f"blk.{i}.norm", "F32", (64,), rng.standard_normal(64, dtype=np.float32).tobytes())
    g.write(models / "shares.gguf")
    return "shares.gguf"


def name(i, n, stem="m"):
    return f"{stem}-{i + 1:05d}-of-{n:05d}.safetensors"


def load(path):
    return {k: (v.dtype, v.shape, v.tobytes()) for k, v in safetensors.numpy.load_file(path).items()}


def fetch_shares(ctl, model, folder, n, *options):
    folder.mkdir(exist_ok=True)
    out = []
    for i in range(n):
        out.append(folder / name(i, n))
        ctl("fetch", model, "--out", out[-1], "--share", f"{i}/{n}", *options)
        ctl("verify", out[-1], model)
    return out


@pytest.mark.parametrize("options", [(), ("--type", "f32"), ("--tensor", "*.weight", "--type", "f16"),
                                     ("--slice", "0:1/3")], ids=" ".join)
def test_the_shares_are_the_model_whatever_their_number(ctl, model, tmp_path, options):
    ctl("fetch", model, "--out", tmp_path / "whole", *options)
    whole = load(tmp_path / "whole")
    for n in (1, 2, 3, 7):
        together, sizes, order = {}, [], []
        for path in fetch_shares(ctl, model, tmp_path / str(n), n, *options):
            part = load(path)
            assert not set(part) & set(together), "no tensor is in two shares"
            together.update(part)
            sizes.append(sum(len(data) for _, _, data in part.values()))
            order.append({int(k.split(".")[1]) for k in part})
        assert together == whole
        largest = max(len(data) for _, _, data in whole.values())
        assert max(abs(s - sum(sizes) / n) for s in sizes) <= largest, sizes
        blocks = [b for o in order for b in sorted(o)]
        assert blocks == sorted(blocks), "a share is consecutive tensors"


def test_stored_shares(ctl, model, tmp_path):
    ctl("fetch", model, "--out", tmp_path / "whole", "--type", "stored")
    whole, together = read_file(tmp_path / "whole")[2], {}
    for path in fetch_shares(ctl, model, tmp_path / "x", 5, "--type", "stored"):
        together.update(read_file(path)[2])
    assert together == whole


def test_more_shares_than_tensors(ctl, tmp_path):
    paths = fetch_shares(ctl, "sample.gguf", tmp_path / "x", 40, "--tensor", "blk.0.q*", "--index")
    assert sum(not read_file(p)[0] for p in paths) > 10, "those for which nothing is left are empty, and files"
    ctl("fetch", "sample.gguf", "--out", tmp_path / "whole", "--tensor", "blk.0.q*")
    index = json.loads((tmp_path / "x" / "m.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(read_file(tmp_path / "whole")[0])


def test_the_index(ctl, model, tmp_path):
    """It appears with the last file, whichever that is, and leads to every tensor."""
    index = tmp_path / "m.safetensors.index.json"
    for i in (2, 0, 3):
        done = ctl("fetch", model, "--out", tmp_path / "m.safetensors", "--share", f"{i}/4", "--index", "--json")
        assert json.loads(done.stdout)["file"] == str(tmp_path / name(i, 4)), "--out stands for the share's file"
        assert json.loads(done.stdout)["index"] is None and not index.exists()
    done = ctl("fetch", model, "--out", tmp_path / name(1, 4), "--share", "1/4", "--index", "--json")
    assert json.loads(done.stdout)["index"] == str(index) and json.loads(done.stdout)["share"] == "1/4"
    content = json.loads(index.read_text())
    ctl("fetch", model, "--out", tmp_path / "whole")
    whole = load(tmp_path / "whole")
    assert content["metadata"]["total_size"] == sum(len(data) for _, _, data in whole.values())
    assert set(content["weight_map"]) == set(whole)
    for tensor, file in content["weight_map"].items():
        with safetensors.safe_open(tmp_path / file, framework="numpy") as f:
            array = f.get_tensor(tensor)
            assert (array.dtype, array.shape, array.tobytes()) == whole[tensor]
    # Gone, it comes back with any task that is run again, and nothing is fetched for it.
    index.unlink()
    again = ctl("fetch", model, "--out", tmp_path / name(0, 4), "--share", "0/4", "--index", "--resume", "--json")
    assert json.loads(again.stdout)["already_complete"] and json.loads(index.read_text()) == content
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name(i, 4) for i in range(4)] + [index.name, "whole"])


def test_no_index_over_files_of_something_else(ctl, model, tmp_path):
    ctl("fetch", model, "--out", tmp_path / name(0, 2), "--share", "0/2", "--index", "--type", "bf16")
    done = ctl("fetch", model, "--out", tmp_path / name(1, 2), "--share", "1/2", "--index", status=1)
    assert name(0, 2) in done.stderr and (tmp_path / name(1, 2)).exists()
    assert not (tmp_path / "m.safetensors.index.json").exists()
    ctl("fetch", model, "--out", tmp_path / name(0, 2), "--share", "0/2", "--index", "--force")
    assert (tmp_path / "m.safetensors.index.json").exists()


def test_all_tasks_at_once(server, ctl, model, tmp_path):
    """As in a job: nobody waits for anybody, and exactly the last one, or several that tie, write the index."""
    for _ in range(3):
        tasks = [subprocess.Popen([WEIGHTCTL, "--server", server.address, "fetch", model, "--out",
                                   tmp_path / name(i, 6), "--share", f"{i}/6", "--index", "--resume"],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) for i in range(6)]
        said = [t.communicate(timeout=PATIENCE)[0] for t in tasks]
        assert all(t.returncode == 0 for t in tasks) and any("all 6 files are there" in s for s in said)
        assert len(json.loads((tmp_path / "m.safetensors.index.json").read_text())["weight_map"]) == 120
        assert len(list(tmp_path.iterdir())) == 7
        for p in tmp_path.iterdir():
            p.unlink()


def test_a_share_is_resumed_as_that_share(ctl, model, tmp_path):
    out = tmp_path / "x.safetensors"
    ctl("fetch", model, "--out", out, "--share", "1/3")
    ctl("fetch", model, "--out", out, "--share", "1/3", "--resume")
    for other in (["--share", "0/3"], ["--share", "1/4"], []):
        assert "not what would be fetched" in ctl("fetch", model, "--out", out, "--resume", *other, status=1).stderr


def test_verify_misses_a_tensor_of_the_share(ctl, model, tmp_path):
    out = tmp_path / "x.safetensors"
    ctl("fetch", model, "--out", out, "--share", "1/3")
    with safetensors.safe_open(out, framework="numpy") as f:
        tensors, metadata = {k: f.get_tensor(k) for k in f.keys()}, f.metadata()
    gone = sorted(tensors)[0]
    del tensors[gone]
    safetensors.numpy.save_file(tensors, out, metadata=metadata)
    differences = json.loads(ctl("verify", out, model, "--json", status=1).stdout)["differences"]
    assert [(d["kind"], d["tensor"]) for d in differences] == [("only_in_model", gone)]


@pytest.mark.parametrize("arguments", [
    ["--share", "3/3"], ["--share", "1"], ["--share", "-1/3"], ["--share", "0/0"], ["--share", "0/100000"],
    ["--index"], ["--share", "0/3", "--index"], ["--share", "0/3", "--index", "--out", "/dev/null"],
    ["--share", "0/3", "--index", "--out", ".safetensors"],
    ["--share", "0/3", "--index", "--out", "m-00002-of-00003.safetensors"]], ids=" ".join)
def test_usage(arguments):
    assert run("fetch", "x.gguf", *([] if "--out" in arguments else ["--out", "x"]), *arguments, status=2).stderr
