# SPDX-License-Identifier: Apache-2.0
"""The manifests of deploy/kubernetes: what kustomize makes of them is valid, and fits together and to the program."""
import copy
import re

import jsonschema
import kubernetes_validate
import pytest
import yaml

from harness import WEIGHTCTL, WEIGHTD
from manifests import KUBERNETES, assert_options, kustomize, offered, one, overlay, validate

OVERLAYS = sorted(f"overlays/{p.name}" for p in (KUBERNETES / "overlays").iterdir())
COMPONENTS = sorted(p.name for p in (KUBERNETES / "components").iterdir())
JOBS = sorted(f"jobs/{p.name}" for p in (KUBERNETES / "jobs").iterdir())


def pod(objects):
    return one(objects, "Deployment")["spec"]["template"]["spec"]


def container(objects):
    return pod(objects)["containers"][0]


def options(objects):
    """The environment that the containers get from the ConfigMap."""
    wanted = container(objects)["envFrom"][0]["configMapRef"]["name"]
    return one(objects, "ConfigMap", wanted)["data"]


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(s|m|h)", text).groups()
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]


def combinations():
    """Each overlay alone and with each component that it does not have yet."""
    for name in OVERLAYS:
        yield name, ()
        for component in COMPONENTS:
            if component != "models-pvc":
                yield name, (component,)
    yield from ((name, ()) for name in JOBS)


@pytest.mark.parametrize("name,components", list(combinations()), ids=lambda v: v if isinstance(v, str) else "+".join(v) or "alone")
def test_valid(name, components):
    objects = overlay(name, *components)
    assert objects
    for item in objects:
        validate(item)


def test_every_file_is_used():
    """Nothing lies about that no overlay, component or job refers to."""
    used = set()

    def visit(folder):
        folder = folder.resolve()
        file = folder / "kustomization.yaml"
        if file in used:
            return
        used.add(file)
        content = yaml.safe_load(file.read_text())
        for entry in content.get("resources", []) + content.get("components", []):
            if (folder / entry).is_dir():
                visit(folder / entry)
            else:
                used.add((folder / entry).resolve())
        used.update((folder / p["path"]).resolve() for p in content.get("patches", []) if "path" in p)

    for name in OVERLAYS + JOBS + [f"components/{c}" for c in COMPONENTS]:
        visit(KUBERNETES / name)
    assert set(KUBERNETES.rglob("*.yaml")) == used


def test_validation_can_fail():
    deployment = one(overlay("overlays/gpu"), "Deployment")
    for change in (lambda d: d["spec"]["template"]["spec"].update(terminationGracePeriod=1),
                   lambda d: d["spec"]["template"]["spec"]["containers"][0]["ports"][0].update(containerPort="grpc"),
                   lambda d: d["spec"].pop("selector")):
        broken = copy.deepcopy(deployment)
        change(broken)
        with pytest.raises(kubernetes_validate.ValidationError):
            validate(broken)
    monitor = copy.deepcopy(one(overlay("overlays/cpu", "monitoring"), "ServiceMonitor"))
    monitor["spec"]["endpoints"][0]["intervall"] = "15s"
    with pytest.raises(jsonschema.ValidationError):
        validate(monitor)


@pytest.mark.parametrize("name", OVERLAYS)
def test_restricted(name):
    """What the Pod Security Standard "restricted" asks, and a read-only root besides."""
    objects = overlay(name)
    spec, of_container = pod(objects), container(objects)["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert of_container == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                            "capabilities": {"drop": ["ALL"]}}
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec) and len(spec["containers"]) == 1
    assert all(set(v) - {"name"} <= {"secret", "emptyDir", "persistentVolumeClaim"} for v in spec["volumes"])
    assert spec["automountServiceAccountToken"] is False
    assert all(m.get("readOnly") for m in container(objects)["volumeMounts"] if m["name"] != "tmp")


@pytest.mark.parametrize("name", OVERLAYS)
def test_drain_fits(name):
    """The kubelet waits longer than preStop and --grace together, and Compose and the probes know the ports."""
    objects = overlay(name)
    grace = seconds(options(objects)["WEIGHTD_GRACE"])
    sleep = container(objects)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod(objects)["terminationGracePeriodSeconds"] >= sleep + grace + 10
    ports = {p["name"]: p["containerPort"] for p in container(objects)["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container(objects)[probe]["grpc"] == {"port": ports["health"]}
    for option, port in (("LISTEN", "grpc"), ("HEALTH_LISTEN", "health"), ("METRICS_LISTEN", "metrics")):
        assert options(objects)[f"WEIGHTD_{option}"] == f"0.0.0.0:{ports[port]}"


@pytest.mark.parametrize("name", OVERLAYS)
def test_parts_find_each_other(name):
    objects = overlay(name, "monitoring")
    labels = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    service, policy = one(objects, "Service"), one(objects, "NetworkPolicy")
    assert service["spec"]["clusterIP"] == "None"
    selectors = [service["spec"]["selector"]] + [
        o["spec"][key]["matchLabels"] for o, key in (
            (one(objects, "Deployment"), "selector"), (one(objects, "PodDisruptionBudget"), "selector"),
            (policy, "podSelector"))]
    for selector in selectors:
        assert selector and selector.items() <= labels.items()
    monitor = one(objects, "ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    named = {p["name"] for p in container(objects)["ports"]}
    assert {p["targetPort"] for p in service["spec"]["ports"]} <= named
    assert {e["port"] for e in monitor["endpoints"]} <= {p["name"] for p in service["spec"]["ports"]}
    assert {p["port"] for rule in policy["spec"]["ingress"] for p in rule["ports"]} == {"grpc", "metrics"}
    # Every path that an option names is beneath a mount, and every mount is of a volume.
    mounts = {m["mountPath"]: m["name"] for m in container(objects)["volumeMounts"]}
    assert set(mounts.values()) == {v["name"] for v in pod(objects)["volumes"]}
    for value in options(objects).values():
        assert not value.startswith("/") or any((value + "/").startswith(m + "/") for m in mounts), value


def test_gpus():
    limits = {name: container(overlay(name))["resources"]["limits"] for name in OVERLAYS}

    def gpus(name):
        return {k: v for k, v in limits[name].items() if k.startswith("nvidia.com/")}
    assert gpus("overlays/cpu") == {}
    assert gpus("overlays/gpu") == {"nvidia.com/gpu": 1}
    assert gpus("overlays/gpu-mig") == {"nvidia.com/mig-1g.10gb": 1}
    assert options(overlay("overlays/cpu"))["WEIGHTD_DEVICE"] == "cpu"
    for name in ("overlays/gpu", "overlays/gpu-mig"):
        objects = overlay(name)
        assert options(objects)["WEIGHTD_DEVICE"] == "cuda"
        assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod(objects)["tolerations"]
        assert container(objects)["image"].endswith("-cuda")
        assert "runtimeClassName" not in pod(objects)
        assert pod(overlay(name, "runtimeclass"))["runtimeClassName"] == "nvidia"


def test_models():
    def volume(*components):
        return next(v for v in pod(overlay("overlays/cpu", *components))["volumes"] if v["name"] == "models")
    assert volume()["persistentVolumeClaim"] == {"claimName": "weightd-models", "readOnly": True}
    assert set(volume("models-hostpath")) == {"name", "hostPath"}
    assert set(volume("models-image")) == {"name", "image"}
    claim = one(overlay("overlays/cpu"), "PersistentVolumeClaim")
    assert claim["metadata"]["name"] == "weightd-models"


def test_base_alone_renders():
    for item in kustomize(KUBERNETES / "base"):
        validate(item)


@pytest.mark.parametrize("name", OVERLAYS)
def test_options_are_the_programs(name):
    """Every WEIGHTD_ variable of the manifests is the twin of an option that weightd has."""
    assert_options(WEIGHTD, ["serve"], options(overlay(name, "mutual-tls")))


@pytest.mark.parametrize("name", JOBS)
def test_options_of_jobs(name):
    spec = one(overlay(name), "Job")["spec"]["template"]["spec"]["containers"][0]
    assert_options(WEIGHTCTL, ["fetch"], {e["name"]: "" for e in spec["env"]})
    for argument in spec["args"]:
        if argument.startswith("--"):
            assert argument.split("=")[0] in offered(WEIGHTCTL, ("fetch",)), argument
