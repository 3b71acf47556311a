# SPDX-License-Identifier: Apache-2.0
"""deploy/compose.yaml: read by a strict parser of the Compose specification, and fitting to the image."""
import json
import re

import compose_spec
import pytest
import yaml

from harness import WEIGHTD
from manifests import DEPLOY, assert_options, interpolate

TEXT = (DEPLOY / "compose.yaml").read_text()


def parse(text, **variables):
    # The merge keys (<<) are YAML's own matter, the rest is judged by the parser.
    content = yaml.safe_load(interpolate(text, **variables))
    compose = compose_spec.PyCompose.from_json(json.dumps(content))
    compose.validate()
    compose.to_spec()
    return content


def test_valid():
    services = parse(TEXT, MODELS="/srv/models")["services"]
    assert {n: s["profiles"] for n, s in services.items()} == {
        "weightd": ["cpu"], "weightd-gpu": ["gpu"], "weightd-cdi": ["cdi"]}
    for service in services.values():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"] and service["user"] == "10001:10001"
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert [(v["target"], v["read_only"]) for v in service["volumes"]] == [("/models", True)]
        environment = service["environment"]
        assert_options(WEIGHTD, ["serve"], environment)
        for option, secret in (("TLS_CERT", "tls.crt"), ("TLS_KEY", "tls.key"), ("TOKEN_FILE", "tokens")):
            assert secret in service["secrets"] and environment[f"WEIGHTD_{option}"] == f"/run/secrets/{secret}"
        minutes, rest = re.fullmatch(r"(\d+)m(\d+)s", service["stop_grace_period"]).groups()
        assert int(minutes) * 60 + int(rest) > int(environment["WEIGHTD_GRACE"].removesuffix("m")) * 60


def test_gpus():
    services = parse(TEXT, MODELS="/srv/models", GPUS="2", GPU="nvidia.com/gpu=1")["services"]

    def devices(name):
        return services[name]["deploy"]["resources"]["reservations"]["devices"]
    assert devices("weightd-gpu") == [{"driver": "nvidia", "count": 2, "capabilities": ["gpu"]}]
    assert devices("weightd-cdi") == [{"driver": "cdi", "device_ids": ["nvidia.com/gpu=1"], "capabilities": ["gpu"]}]
    assert "deploy" not in services["weightd"] and services["weightd"]["environment"]["WEIGHTD_DEVICE"] == "cpu"


def test_models_must_be_named():
    with pytest.raises(AssertionError, match="MODELS is not set: name the folder of the models"):
        parse(TEXT)


@pytest.mark.parametrize("before,after", [("read_only: true\n  cap", "read_onlyy: true\n  cap"),
                                          ("secrets: [tls.crt", "secrets: [another"),
                                          ("stop_grace_period: 2m30s", "stop_grace_period: long"),
                                          ("driver: cdi\n", "drivers: cdi\n"), ("target: /models", "target: models")])
def test_parser_can_fail(before, after):
    assert before in TEXT
    with pytest.raises((ValueError, TypeError)):
        compose = parse(TEXT.replace(before, after), MODELS="/srv/models")
        # What Compose allows to be there and we do not use.
        assert "drivers" not in json.dumps(compose), "an unknown field was taken"
