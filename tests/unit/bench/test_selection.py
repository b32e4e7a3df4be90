from __future__ import annotations

import pytest

from bench import selection
from bench.errors import UsageError
from bench.peers.table import PEERS
from bench.rows.table import ROWS


def test_everybody_by_default() -> None:
    assert selection.peers("") == ("sidecar", "nginx", "envoy", "haproxy", "stunnel", "ghostunnel")


def test_we_always_run_and_first() -> None:
    assert selection.peers("stunnel,nginx") == ("sidecar", "nginx", "stunnel")
    assert selection.peers(" nginx , sidecar,") == ("sidecar", "nginx")


def test_rows_by_hand_run_only_when_named() -> None:
    assert set(ROWS) - set(selection.rows("")) == {"connections", "soak"}
    assert selection.rows("soak") == ("soak",)
    assert selection.rows("all") == tuple(ROWS)


def test_rows_keep_the_order_of_the_table() -> None:
    assert selection.rows("latency,http") == ("http", "latency")


@pytest.mark.parametrize("choose", [selection.peers, selection.rows])
def test_an_unknown_name_is_refused_with_all_that_there_are(choose: object) -> None:
    known = PEERS if choose is selection.peers else ROWS
    with pytest.raises(UsageError) as refused:
        choose("http2,nginx,latency")  # type: ignore[operator]
    assert "http2" in str(refused.value)
    for name in known:
        assert name in str(refused.value)


def test_lines_belong_to_one_row_and_begin_with_its_name() -> None:
    lines = [(row.id, line.id) for row in ROWS.values() for line in row.lines]
    assert len({line for _, line in lines}) == len(lines)
    assert all(line == row or line.startswith(f"{row}.") for row, line in lines)


def test_rows_ask_only_peers_that_there_are() -> None:
    assert all(set(row.peers) <= set(PEERS) for row in ROWS.values())
    assert all("sidecar" in row.peers for row in ROWS.values())
