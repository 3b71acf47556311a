# SPDX-License-Identifier: Apache-2.0
"""The fixtures of the integration tests; what they are made of is in harness.py."""
import contextlib
import itertools
import random
import time

import pytest

pytest.register_assert_rewrite("harness", "oracle")
from harness import FULL, GOLDEN, SAMPLE, WEIGHTD, Server  # noqa: E402


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """The model root of the shared server: tests write their models into folders of their own."""
    root = tmp_path_factory.mktemp("models")
    (root / "sample.gguf").write_bytes(SAMPLE.read_bytes())
    return root


@pytest.fixture(scope="session")
def server(models, tmp_path_factory):
    """One server for all tests that do nothing special to it."""
    s = Server(models, tmp=tmp_path_factory.mktemp("server"))
    yield s
    s.close()


@pytest.fixture
def stub(server):
    yield server.stub
    assert server.alive(), f"the server died:\n{server.log()[-4000:]}"


@pytest.fixture
def folder(models, request):
    """(path, name) of an empty folder beneath the shared model root."""
    name = f"t{next(folder_numbers)}"
    (models / name).mkdir()
    return models / name, name


folder_numbers = itertools.count()


@pytest.fixture
def serve(tmp_path):
    """Starts servers with flags of the test's own."""
    with contextlib.ExitStack() as stack:
        def start(root, *flags, expect=0, **options):
            s = Server(root, *flags, tmp=tmp_path / "server", **options)
            stack.callback(s.close, expect)
            return s
        yield start


@pytest.fixture
def rng(request):
    """Reproducible randomness: seeded by the test's name, or otherwise each time with WEIGHTD_FULL, and then told."""
    seed = request.node.nodeid if not FULL else f"{request.node.nodeid} {time.time_ns()}"
    print(f"seed: {seed!r}")
    return random.Random(seed)


def pytest_report_header():
    return [f"weightd: {WEIGHTD}", f"golden files: {GOLDEN or 'not given'}", f"full: {FULL}"]

