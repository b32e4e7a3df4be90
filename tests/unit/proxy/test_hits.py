"""Every limit of the configuration is the one that some code stands for."""

from __future__ import annotations

from dataclasses import fields

from sidecar.http.errors import HttpCode
from sidecar.limits import Limits
from sidecar.proxy.failure import ProxyCode
from sidecar.proxy.hits import count, limit_of
from sidecar.telemetry.metrics import Metrics

#: Said by another: the rate by its window, the burst by the rate, and a spare connection by nothing (`Upstream.expired`).
ELSEWHERE = {"min_rate", "request_burst", "upstream_idle_timeout"}
#: Bounds that are no key.
FIXED = {"tls_records", "retries", "trailer_bytes", "chunk_line_bytes", "informational"}


def test_codes_and_limits_are_of_one_piece() -> None:
    found = {limit_of(code) for codes in (ProxyCode, HttpCode) for code in codes} - {None}
    assert found == {each.name for each in fields(Limits)} - ELSEWHERE | FIXED


def test_a_code_that_stands_for_no_limit_is_not_counted() -> None:
    metrics = Metrics()
    for code in (None, "", "upstream_refused", "limits", ProxyCode.DRAINING):
        count(metrics, code)
    assert not metrics.limit_hits_total.children
    count(metrics, ProxyCode.BODY_BYTES)
    count(metrics, "head_too_large")
    assert {key: child.value for key, child in metrics.limit_hits_total.children.items()} == {
        ("body_bytes",): 1,
        ("head_bytes",): 1,
    }
