from __future__ import annotations

from bench.budgets import BUDGETS, Bound, verdicts
from bench.figures import Cell
from bench.peers.table import PEERS
from bench.rows.table import ROWS
from tests.support.bench import HTTP, IDLE, TCP, result

LINES = {line.id: row for row in ROWS.values() for line in row.lines}


def test_every_budget_is_of_a_line_and_refers_to_a_peer_that_takes_part() -> None:
    for name, budget in BUDGETS.items():
        for bound in budget.must + budget.aim:
            assert bound.line is None or bound.line in LINES
            assert bound.peer is None or bound.peer in PEERS
            assert bound.peer is None or bound.peer in LINES[bound.line or name].peers


def test_the_budgets_of_the_design() -> None:
    assert {name: [bound.text("unit") for bound in budget.must] for name, budget in BUDGETS.items()} == {
        "http": ["≤ 1 x envoy"],
        "tcp": ["≤ 0.75 x stunnel"],
        "bulk": ["≤ 1.3 x nginx"],
        "bulk-tcp": ["≤ 1.3 x nginx"],
        "handshake": ["≤ 1.4 x nginx"],
        "latency": ["≤ 1 x envoy"],
        "memory.idle": ["≤ 45 unit"],
        "memory.connection": ["≤ 60 unit"],
        "rules.10000": ["≤ 1.1 x rules.10"],
        "tokens.self-signed": ["≤ 1 x http of envoy"],
        "tokens.issuer": ["≤ 1 x http of envoy"],
        "connections.5000": ["≤ 1.1 x connections.10"],
        "soak.last": ["≤ 1.1 x soak.first"],
        "soak.memory-last": ["≤ 1.1 x soak.memory-first"],
    }


def test_a_multiple_of_a_peer_is_judged_by_medians() -> None:
    found = result(HTTP, http={"sidecar": [90, 80, 100], "envoy": [100, 90, 110]})
    (met,) = verdicts((Bound(1.0, "envoy"),), "http", found, "sidecar")
    assert (met.limit, met.ratio, met.met) == (100, 0.9, True)
    assert met.text("µs") == "≤ 1 x envoy: yes, 10% below"
    (missed,) = verdicts((Bound(0.8, "envoy"),), "http", found, "sidecar")
    assert (missed.met, missed.text("µs")) == (False, "≤ 0.8 x envoy: no, 12% above")


def test_exactly_the_limit_is_met() -> None:
    (verdict,) = verdicts(
        BUDGETS["memory.idle"].must, "memory.idle", result(IDLE, memory__idle={"sidecar": [45]}), "sidecar"
    )
    assert (verdict.met, verdict.text("MB")) == (True, "≤ 45 MB: yes, 0.0% below")


def test_another_line_can_be_the_measure() -> None:
    found = result(HTTP, TCP, http={"sidecar": [100]}, tcp={"sidecar": [120]})
    (verdict,) = verdicts((Bound(1.1, "sidecar", "http"),), "tcp", found, "sidecar")
    assert verdict.text("µs") == "≤ 1.1 x http: no, 9.1% above"


def test_another_line_of_a_peer_can_be_the_measure() -> None:
    found = result(HTTP, TCP, http={"envoy": [100]}, tcp={"sidecar": [80]})
    (verdict,) = verdicts((Bound(1.0, "envoy", "http"),), "tcp", found, "sidecar")
    assert verdict.text("µs") == "≤ 1 x http of envoy: yes, 20% below"


def test_nothing_is_said_of_what_was_not_measured() -> None:
    bound = (Bound(1.0, "envoy"),)
    without_peer = result(HTTP, http={"sidecar": [90], "envoy": Cell(missing="not installed")})
    without_us = result(HTTP, http={"sidecar": Cell([90], trouble="errors"), "envoy": [100]})
    for found in (without_peer, without_us):
        (verdict,) = verdicts(bound, "http", found, "sidecar")
        assert (verdict.met, verdict.text("µs")) == (None, "≤ 1 x envoy: not known")


def test_a_bound_for_a_peer_that_may_be_given_is_left_out_without_it() -> None:
    aims = BUDGETS["tcp"].aim
    without = result(TCP, tcp={"sidecar": [30], "haproxy": [30], "ghostunnel": Cell(missing="no path")})
    assert [verdict.bound.peer for verdict in verdicts(aims, "tcp", without, "sidecar")] == ["haproxy"]
    given = result(TCP, tcp={"sidecar": [30], "haproxy": [30], "ghostunnel": [40]})
    assert [verdict.bound.peer for verdict in verdicts(aims, "tcp", given, "sidecar")] == ["haproxy", "ghostunnel"]
