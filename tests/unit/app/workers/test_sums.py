from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.app.workers import sums
from sidecar.telemetry.metrics import Across, Metrics


def metrics(requests: int, expiry: float, connections: int) -> Metrics:
    made = Metrics()
    made.requests_total.labels("inbound", "tools", "allow", "2xx").inc(requests)
    made.request_duration_seconds.labels("inbound", "tools").observe(0.02)
    made.certificate_expiry_timestamp_seconds.set(expiry)
    made.connections.labels("inbound").set(connections)
    return made


def passed(made: Metrics) -> dict[str, Any]:
    """What arrives at the other process."""
    found: dict[str, Any] = json.loads(json.dumps(sums.dump(made)))
    return found


def test_counters_histograms_and_gauges() -> None:
    one, other = metrics(3, 100.0, 2), metrics(4, 90.0, 5)
    other.request_duration_seconds.labels("inbound", "tools").observe(99.0)
    total = sums.total([passed(one), passed(other)], passed(metrics(10, 999.0, 77)))
    assert total.requests_total.labels("inbound", "tools", "allow", "2xx").read() == 17
    spread = total.request_duration_seconds.labels("inbound", "tools")
    assert (sum(spread.counts), spread.counts[-1]) == (4, 1)
    assert spread.total == pytest.approx(3 * 0.02 + 99)
    assert total.certificate_expiry_timestamp_seconds.read() == 100, "the largest of those that live"
    assert total.connections.labels("inbound").read() == 7, "the sum of those that live"


def test_every_gauge_that_tells_a_time_or_is_always_1_is_not_added_up() -> None:
    single = {f.name.removeprefix("sidecar_") for f in Metrics().gauges if f.across is Across.MAX}
    named = {f.name.removeprefix("sidecar_") for f in Metrics().gauges if f.name.endswith(("_info", "_seconds"))}
    assert named <= single


def test_a_source_is_asked() -> None:
    made = Metrics()
    made.log_dropped_total.source = lambda: 5
    assert sums.total([passed(made)], passed(Metrics())).log_dropped_total.read() == 5


@pytest.mark.parametrize(
    "change",
    [
        lambda part: part.pop("counters"),
        lambda part: part.pop("gauges"),
        lambda part: part["counters"].update(sidecar_requests_total=[[["a"], 1, 2]]),
        lambda part: part["counters"].update(sidecar_requests_total=[[["inbound"], 1]]),
        lambda part: part["counters"].update(sidecar_requests_total=[["a", 1]]),
        lambda part: part["counters"].update(sidecar_reloads_total=[[["ok"], "1"]]),
        lambda part: part["counters"].update(sidecar_reloads_total=[[["ok"], float("nan")]]),
        lambda part: part["counters"].update(sidecar_reloads_total=[[["ok"], 10**400]]),
        lambda part: part["counters"].update(sidecar_reloads_total=[[[5], 1]]),
        lambda part: part["histograms"].update(sidecar_handshake_duration_seconds=[[[], [1], 1]]),
        lambda part: part.update(gauges=None),
    ],
)
def test_what_is_no_dump(change: Any) -> None:
    part = passed(metrics(1, 1.0, 1))
    change(part)
    with pytest.raises(ValueError, match="no metrics of another process"):
        sums.add(Metrics(), part)
