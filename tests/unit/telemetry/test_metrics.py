from __future__ import annotations

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sidecar.telemetry.metrics import MAX_CHILDREN, OVERFLOW, Histogram, Metrics, status_class

#: DESIGN section 3: dashboards depend on these.
NAMES = {
    "sidecar_requests_total": ("direction", "listener", "decision", "status_class"),
    "sidecar_request_duration_seconds": ("direction", "listener"),
    "sidecar_tunnels_total": ("direction", "listener", "decision"),
    "sidecar_tunnel_bytes_total": ("direction", "listener", "flow"),
    "sidecar_connections": ("direction",),
    "sidecar_handshakes_total": ("role", "result", "resumed"),
    "sidecar_handshake_duration_seconds": (),
    "sidecar_sign_duration_seconds": ("protection",),
    "sidecar_sign_failures_total": ("protection", "code"),
    "sidecar_key_info": ("protection",),
    "sidecar_handshake_queue": ("role",),
    "sidecar_denied_total": ("reason",),
    "sidecar_refused_total": ("code",),
    "sidecar_accept_errors_total": ("error",),
    "sidecar_certificate_expiry_timestamp_seconds": (),
    "sidecar_reloads_total": ("result",),
    "sidecar_tokens_refreshed_total": ("source", "result"),
    "sidecar_token_age_seconds": ("source", "entry"),
    "sidecar_token_expiry_timestamp_seconds": ("source", "entry"),
    "sidecar_tokens_refused_total": ("listener", "code"),
    "sidecar_jwks_refreshed_total": ("issuer", "result"),
    "sidecar_jwks_age_seconds": ("issuer",),
    "sidecar_incidents_total": ("kind",),
    "sidecar_retries_total": ("direction", "listener"),
    "sidecar_limit_hits_total": ("limit",),
    "sidecar_log_dropped_total": (),
    "sidecar_internal_errors_total": ("where",),
    "sidecar_policy_info": ("version",),
    "sidecar_workers": (),
    "sidecar_worker_restarts_total": (),
    "sidecar_build_info": ("version", "python", "openssl"),
}


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Reads a scrape as Prometheus' own parser does: (name, labels) -> value."""
    text = metrics.render().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_names_and_labels_are_the_documented_ones() -> None:
    metrics = Metrics()
    families = [*metrics.counters, *metrics.gauges, *metrics.histograms]
    assert {family.name: family.label_names for family in families} == NAMES
    assert all(family.help.endswith(".") for family in families)


def test_a_scrape_shows_what_was_counted() -> None:
    metrics = Metrics()
    child = metrics.requests_total.labels("inbound", "tools", "allow", "2xx")
    child.inc()
    child.inc(2)
    metrics.connections.labels("inbound").inc()
    metrics.connections.labels("inbound").inc(3)
    metrics.connections.labels("inbound").dec()
    metrics.certificate_expiry_timestamp_seconds.set(1.5e9)
    found = samples(metrics)
    labels = {"direction": "inbound", "listener": "tools", "decision": "allow", "status_class": "2xx"}
    assert found["sidecar_requests_total", frozenset(labels.items())] == 3
    assert found["sidecar_connections", frozenset({("direction", "inbound")})] == 3
    assert found["sidecar_certificate_expiry_timestamp_seconds", frozenset()] == 1.5e9


def test_a_child_is_the_same_every_time() -> None:
    metrics = Metrics()
    assert metrics.denied_total.labels("pin_mismatch") is metrics.denied_total.labels("pin_mismatch")
    assert metrics.denied_total.labels("pin_mismatch") is not metrics.denied_total.labels("web_page")


def test_a_histogram_counts_values_up_to_each_bound() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.0, 0.1, 0.5, 1.0, 7.0, math.inf):
        histogram.observe(value)
    assert list(histogram.buckets()) == [("0.1", 2), ("1.0", 4), ("+Inf", 6)]


def test_a_scrape_shows_histograms_as_prometheus_wants_them() -> None:
    metrics = Metrics()
    metrics.request_duration_seconds.labels("inbound", "tools").observe(0.003)
    found = samples(metrics)
    own = {("direction", "inbound"), ("listener", "tools")}
    name = "sidecar_request_duration_seconds"
    assert found[f"{name}_bucket", frozenset(own | {("le", "0.0025")})] == 0
    assert found[f"{name}_bucket", frozenset(own | {("le", "0.005")})] == 1
    assert found[f"{name}_bucket", frozenset(own | {("le", "+Inf")})] == 1
    assert found[f"{name}_count", frozenset(own)] == 1
    assert found[f"{name}_sum", frozenset(own)] == 0.003


def test_what_nobody_counted_is_not_shown() -> None:
    assert "tokens" not in Metrics().render().decode()


def test_a_value_may_be_kept_elsewhere() -> None:
    metrics = Metrics()
    metrics.log_dropped_total.source = lambda: 7
    metrics.connections.labels("outbound").source = lambda: 2
    found = samples(metrics)
    assert found["sidecar_log_dropped_total", frozenset()] == 7
    assert found["sidecar_connections", frozenset({("direction", "outbound")})] == 2


def test_only_the_policy_in_force_is_shown() -> None:
    metrics = Metrics()
    metrics.set_policy("v1")
    metrics.set_policy("v2")
    shown = {labels for name, labels in samples(metrics) if name == "sidecar_policy_info"}
    assert shown == {frozenset({("version", "v2")})}


def test_a_child_can_be_forgotten() -> None:
    metrics = Metrics()
    metrics.denied_total.labels("pin_mismatch").inc()
    metrics.denied_total.remove("pin_mismatch")
    metrics.denied_total.remove("pin_mismatch")
    assert "sidecar_denied_total" not in metrics.render().decode()


def test_a_family_is_bounded_and_goes_on_counting() -> None:
    metrics = Metrics()
    for i in range(MAX_CHILDREN + 10):
        metrics.handshakes_total.labels("server", str(i), "false").inc()
    assert len(metrics.handshakes_total.children) == MAX_CHILDREN + 1
    assert metrics.handshakes_total.labels(OVERFLOW, OVERFLOW, OVERFLOW).value == 10


@pytest.mark.parametrize("values", [(), ("inbound",), ("a", "b", "c", "d", "e")])
def test_labels_that_do_not_fit_are_a_mistake_of_ours(values: tuple[str, ...]) -> None:
    with pytest.raises(TypeError):
        Metrics().requests_total.labels(*values)


def test_label_values_are_escaped() -> None:
    metrics = Metrics()
    metrics.build_info.labels('a"b\\c\nd', "3.11", "x").set(1)
    labels = {("version", 'a"b\\c\nd'), ("python", "3.11"), ("openssl", "x")}
    assert samples(metrics)["sidecar_build_info", frozenset(labels)] == 1


def test_the_format_says_what_it_is() -> None:
    assert Metrics.content_type().startswith("text/plain; version=")


@pytest.mark.parametrize(
    ("status", "expected"), [(100, "1xx"), (200, "2xx"), (404, "4xx"), (599, "5xx"), (0, "none"), (600, "none")]
)
def test_statuses_are_counted_by_class(status: int, expected: str) -> None:
    assert status_class(status) == expected
