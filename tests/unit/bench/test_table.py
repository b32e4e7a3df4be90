from __future__ import annotations

from bench.figures import Cell
from bench.table import as_markdown, as_text, figures, judged, split
from tests.support.bench import HTTP, IDLE, LOG, TCP, result

FULL = result(
    HTTP,
    TCP,
    LOG,
    http={
        "sidecar": [90.0, 80.0, 100.0],
        "nginx": [40.0, 41.0, 39.0],
        "envoy": [100.0, 99.0, 101.0],
        "haproxy": Cell(missing="haproxy is not installed: apt-get install haproxy"),
    },
    tcp={"sidecar": Cell(trouble="not served yet: forwarding of raw TCP (before the first round)"), "stunnel": [70.0]},
    log__on={"sidecar": [90.0]},
)


def test_a_cell_has_median_spread_and_our_cost_as_a_multiple() -> None:
    head, row = figures(FULL, [HTTP])
    assert head == ["", "sidecar", "nginx", "envoy", "haproxy"]
    assert row == [
        "HTTP request, µs CPU",
        "90.0 (80.0-100)",
        "40.0 (39.0-41.0) x2.25",
        "100 (99.0-101) x0.90",
        "missing",
    ]


def test_a_peer_that_takes_no_part_in_a_line_has_a_dash() -> None:
    head, _, tunnel = figures(FULL, [HTTP, TCP])
    assert tunnel[head.index("nginx")] == "-"


def test_who_could_not_run_is_named_in_the_cell_and_whole_below() -> None:
    text = as_text(FULL)
    assert "could not run: not served yet:" in text
    assert "sidecar in tcp: could not run: not served yet: forwarding of raw TCP (before the first round)" in text


def test_who_is_missing_is_named_with_what_to_do() -> None:
    assert "haproxy in http: missing: haproxy is not installed: apt-get install haproxy" in as_text(FULL)


def test_verdicts_say_how_far_we_are() -> None:
    head, http, tunnel = judged(FULL, [HTTP, TCP, LOG])
    assert head == ["", "sidecar", "must", "aim"]
    assert http == [
        "HTTP request",
        "90.0 µs CPU",
        "≤ 1 x envoy: yes, 10% below",
        "≤ 0.8 x envoy: no, 12% above; ≤ 1.3 x nginx: no, 73% above",
    ]
    assert tunnel[1].startswith("could not run:")
    assert tunnel[2:] == ["≤ 0.75 x stunnel: not known", "≤ 1 x haproxy: not known"]


def test_lines_without_a_budget_stand_apart() -> None:
    assert split(FULL) == ([HTTP, TCP], [LOG])


def test_columns_are_aligned() -> None:
    lines = as_text(result(HTTP, IDLE, http={"sidecar": [1]}, memory__idle={"sidecar": [45]})).splitlines()
    column = next(line for line in lines if line.split() == ["sidecar"]).index("sidecar")
    assert next(line for line in lines if line.startswith("HTTP request,")).index("1.00") == column
    assert next(line for line in lines if line.startswith("one process, idle,")).index("45.0") == column


def test_markdown_keeps_its_columns_whatever_a_reason_holds() -> None:
    lines = as_markdown([["", "a"], ["b", "x | y"]]).splitlines()
    assert lines == ["|  | a |", "| --- | --- |", "| b | x \\| y |"]
