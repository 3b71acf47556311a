# SPDX-License-Identifier: Apache-2.0
"""The dashboard and the alert rules: they are what Grafana and Prometheus read, and ask for what the server exports."""
import json
import re
import shutil
import subprocess

import grafana_foundation_sdk.cog.plugins as plugins
import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from harness import PATIENCE, ROOT, Server
from scraping import build_nvml, scrape

MONITORING = ROOT / "deploy/monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
RULES = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
# What Prometheus itself puts on every series.
TARGET_LABELS = {"job", "instance"}


def expand(expression):
    """With Grafana's variables replaced, as Grafana does."""
    for name, value in ("$__rate_interval", "5m"), ("$job", ".+"), ("$instance", ".+"):
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


EXPRESSIONS = [pytest.param(t["expr"], id=f"{p['title']} {t['refId']}") for p in PANELS for t in p["targets"]]
EXPRESSIONS += [pytest.param(a["expr"], id=a["name"]) for a in DASHBOARD["annotations"]["list"]]
EXPRESSIONS += [pytest.param(rule["expr"], id=rule["alert"]) for rule in ALERTS]


@pytest.fixture(scope="module")
def exported(models, tmp_path_factory):
    """All that a server with GPUs exports."""
    tmp = tmp_path_factory.mktemp("monitoring")
    server = Server(models, "--metrics-listen", "127.0.0.1:0", env=build_nvml(tmp / "driver"), tmp=tmp)
    yield scrape(server)
    server.close()


def selectors(expression, counting=False):
    """(selector, whether it is counted: in rate(), increase() or changes()) of all selectors in a parsed expression."""
    kind = type(expression).__name__
    if kind == "VectorSelector":
        yield expression, counting
    elif kind == "MatrixSelector":
        yield expression.vector_selector, counting
    elif kind == "Call":
        for argument in expression.args:
            yield from selectors(argument, counting or expression.func.name in ("rate", "increase", "irate"))
    elif kind == "BinaryExpr":
        yield from selectors(expression.lhs, counting)
        yield from selectors(expression.rhs, counting)
    elif kind in ("AggregateExpr", "ParenExpr", "UnaryExpr", "SubqueryExpr"):
        yield from selectors(expression.expr, counting)
    else:
        assert kind in ("NumberLiteral", "StringLiteral"), kind


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions(expression, exported):
    expression = expand(expression)
    parsed = promql_parser.parse(expression)
    found = list(selectors(parsed))
    assert found
    labels = set(TARGET_LABELS)
    for selector, counted in found:
        series = [dict(pairs) for (name, pairs) in exported if name == selector.name]
        assert series or selector.name == "up", f"the server exports no {selector.name}"
        labels |= {label for s in series for label in s}
        for matcher in selector.matchers.matchers:
            if matcher.name in TARGET_LABELS:
                continue
            values = {s.get(matcher.name) for s in series}
            regex = matcher.op in (promql_parser.MatchOp.Re, promql_parser.MatchOp.NotRe)
            alternatives = matcher.value.split("|") if regex else [matcher.value]
            assert set(alternatives) <= values | {"UNKNOWN"}, f"{matcher.name} is never {matcher.value!r}: {values}"
        cumulative = re.search(r"_(total|bucket|sum|count)$", selector.name) is not None
        assert cumulative == counted, f"{selector.name}: rates are of counters, and counters are read as rates"
    # What is grouped by, and what the texts name, is there.
    for by in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
        assert {label.strip() for label in by.split(",")} <= labels, by


# ------------------------------------------------------------------------------------------------ the dashboard

def missing(given, kept, path=""):
    """What of a JSON value is not in another one."""
    if isinstance(given, dict):
        for key, value in given.items():
            if not isinstance(kept, dict) or key not in kept:
                if value is not None:
                    yield f"{path}/{key}"
            else:
                yield from missing(value, kept[key], f"{path}/{key}")
    elif isinstance(given, list):
        if not isinstance(kept, list) or len(given) != len(kept):
            yield path
        else:
            for i, pair in enumerate(zip(given, kept)):
                yield from missing(*pair, f"{path}[{i}]")
    elif given != kept:
        yield path


def read_by_grafana(dashboard):
    """What Grafana's own types make of it."""
    plugins.register_default_plugins()
    return json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))


def test_the_dashboard_is_grafanas():
    """Every field is one that Grafana's schema knows: what it does not know would be dropped."""
    assert not list(missing(DASHBOARD, read_by_grafana(DASHBOARD)))
    wrong = json.loads(json.dumps(DASHBOARD))
    wrong["panels"][1]["targets"][0]["expression"] = wrong["panels"][1]["targets"][0].pop("expr")
    assert list(missing(wrong, read_by_grafana(wrong))) == ["/panels[1]/targets[0]/expression"]


def test_the_dashboards_layout():
    assert DASHBOARD["uid"] == "weightd" and DASHBOARD["schemaVersion"] >= 38 and "id" not in DASHBOARD
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken = set()
    for panel in DASHBOARD["panels"]:
        g = panel["gridPos"]
        cells = {(x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])}
        assert not taken & cells and g["x"] + g["w"] <= 24, panel["title"]
        taken |= cells
    for panel in PANELS:
        assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert {t["refId"] for t in panel["targets"]} == set("ABCDEFGH"[:len(panel["targets"])])
        for target in panel["targets"]:
            # Whoever has other data sources, or other servers beside weightd, sees weightd's alone.
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"
            names = len(re.findall(r"\b(?:weightd|process|up)(?:_\w+)?\{", target["expr"]))
            assert target["expr"].count('job=~"$job",instance=~"$instance"') == names >= 1


# ------------------------------------------------------------------------------------------------ the alerts

def test_the_alerts_say_what_to_do():
    names = [rule["alert"] for rule in ALERTS]
    assert len(set(names)) == len(names) and all(name.startswith("Weightd") for name in names)
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert len(rule["annotations"]["description"]) > 40 and rule["annotations"]["summary"], rule["alert"]


def test_the_operators_rules_are_the_same():
    rule = yaml.safe_load((ROOT / "deploy/kubernetes/components/monitoring/rules.yaml").read_text())
    assert rule["kind"] == "PrometheusRule" and rule["spec"] == RULES


def promtool(*arguments):
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_reads_the_alerts():
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", str(MONITORING / "alerts.yaml"))


REQUESTS = "weightd_requests_total{method='StreamTensors',status='%s'}"
STAGE, TASK = "weightd_stage_duration_seconds_bucket{stage='read',le='%s'}", "weightd_queue_wait_seconds_bucket{queue='task',le='%s'}"
# By the minute (promtool's notation), what a server does in good health, and what of it makes each alert fire. A server that
# lends no GPU memory has a budget of 0.
HEALTHY = {
    "up": "1x60", "process_start_time_seconds": "1700000000x60", "process_open_fds": "20x60", "process_max_fds": "1024x60",
    "weightd_build_info": "1x60", "weightd_draining": "0x60", "weightd_streams_active": "3x60",
    "weightd_streams_limit": "256x60", "weightd_streams_stalled_total": "0x30 1x30", "weightd_pool_reserved_bytes": "30x60",
    "weightd_pool_budget_bytes": "256x60", "weightd_gpu_leased_bytes": "0x60", "weightd_gpu_lease_budget_bytes": "0x60",
    "weightd_refusals_total{limit='max_streams'}": "0x20 3x40",
    REQUESTS % "OK": "0+100x60", REQUESTS % "NOT_FOUND": "0+50x60", REQUESTS % "UNAVAILABLE": "0x10 0+1x20 20x30",
    REQUESTS % "DATA_LOSS": "0x60", REQUESTS % "INTERNAL": "0x60", REQUESTS % "UNAUTHENTICATED": "0+1x60",
    STAGE % "0.001": "0+99x60", STAGE % "10.0": "0+100x60", STAGE % "+Inf": "0+100x60",
    TASK % "0.001": "0+99x60", TASK % "10.0": "0+100x60", TASK % "+Inf": "0+100x60",
}
FIRING = {
    "WeightdDown": {"up": "1x10 0x50"},
    "WeightdAbsent": {"up": "1x10 _x50"},
    "WeightdRestarts": {"process_start_time_seconds": "1x30 2x5 3x5 4x20"},
    "WeightdDataLoss": {REQUESTS % "DATA_LOSS": "0x50 1x10"},
    "WeightdInternalErrors": {REQUESTS % "INTERNAL": "0x50 1x10"},
    "WeightdCallsFail": {REQUESTS % "UNAVAILABLE": "0+10x60"},
    "WeightdRefuses": {"weightd_refusals_total{limit='max_streams'}": "0+2x60"},
    "WeightdStreamsNearLimit": {"weightd_streams_active": "250x60"},
    "WeightdMemoryBudgetNearlySpent": {"weightd_pool_reserved_bytes": "250x60"},
    "WeightdReadersStall": {"weightd_streams_stalled_total": "0x50 5x10"},
    "WeightdReadsSlowly": {STAGE % "0.001": "0+90x60"},
    "WeightdOpensSlowly": {TASK % "0.001": "0+90x60"},
    "WeightdTurnsAway": {REQUESTS % "UNAUTHENTICATED": "0+120x60"},
    "WeightdDescriptorsNearlySpent": {"process_open_fds": "1000x60"},
    "WeightdDrainsForLong": {"weightd_draining": "0x30 1x30"},
    "WeightdGpuMemoryNearlyLent": {"weightd_gpu_leased_bytes": "99x60", "weightd_gpu_lease_budget_bytes": "100x60"},
}
TARGET = {"job": "weightd", "instance": "gpu-1:50153"}


def series(values):
    for name, numbers in values.items():
        base, _, labels = name.partition("{")
        pairs = [f"{k}='{v}'" for k, v in TARGET.items()] + ([labels.rstrip("}")] if labels else [])
        yield {"series": f"{base}{{{','.join(pairs)}}}", "values": numbers}


def test_promtool_runs_the_alerts(tmp_path):
    """Each alert fires when it must, and none does for a server in good health."""
    assert FIRING.keys() == {rule["alert"] for rule in ALERTS}
    # promtool wants to be told of annotations word by word; the rules without them are judged here.
    bare = {"groups": [{"name": "weightd", "rules": [{k: v for k, v in r.items() if k != "annotations"} for r in ALERTS]}]}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(bare))
    tests = [{"interval": "1m", "input_series": list(series(HEALTHY)),
              "alert_rule_test": [{"eval_time": f"{m}m", "alertname": name, "exp_alerts": []}
                                  for name in FIRING for m in (15, 30, 59)]}]
    for rule in ALERTS:
        labels = {**rule["labels"], **TARGET}
        if rule["alert"] == "WeightdAbsent":
            del labels["instance"]
        elif rule["alert"] == "WeightdRefuses":
            labels["limit"] = "max_streams"
        tests.append({"interval": "1m", "input_series": list(series({**HEALTHY, **FIRING[rule["alert"]]})),
                      "alert_rule_test": [{"eval_time": "59m", "alertname": rule["alert"],
                                           "exp_alerts": [{"exp_labels": labels}]}]})
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": tests}))
    assert "SUCCESS" in promtool("test", "rules", str(tmp_path / "tests.yaml"))
