# SPDX-License-Identifier: Apache-2.0
"""The metrics of the image as deployed, scraped over HTTP and read by Prometheus' own parser."""
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from harness import stream


def scrape():
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open("http://127.0.0.1:50153/metrics") as response:
        assert response.status == 200
        families = list(text_string_to_metric_families(response.read().decode()))
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples}


def test_scraped(run):
    c = run(environment={"WEIGHTD_METRICS_LISTEN": "0.0.0.0:50153"})
    before = scrape()
    got = stream(c.stub(), "sample.gguf")
    after = scrape()

    def grown(name, **labels):
        key = name, tuple(sorted(labels.items()))
        return after[key] - before.get(key, 0)
    assert grown("weightd_requests_total", method="StreamTensors", status="OK") == 1
    assert grown("weightd_sent_bytes_total") == sum(len(d.data) for d in got)
    assert grown("weightd_request_duration_seconds_count", method="StreamTensors") == 1


def test_off_unless_asked(run):
    run()
    try:
        scrape()
    except OSError:
        return
    raise AssertionError("metrics are there although --metrics-listen was not given")
