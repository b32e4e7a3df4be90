"""Ensures that every limit is in force: met once, it has its answer, is counted once, and is logged once by its name.

A row is what one side is configured with, what its client does, and what that client and the operator see. Limits are put
into force by a reload of one pair of processes, so that all but the row's are out of reach.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.http.errors import HttpCode
from sidecar.limits import Limits
from sidecar.proxy.failure import ProxyCode
from sidecar.proxy.hits import limit_of
from tests.support import limit_meetings as meet
from tests.support.eventually import eventually
from tests.support.limit_stage import Meeting, Stage
from tests.support.processes import Site, ask
from tests.support.swtpm import SlowRelay, Swtpm
from tests.support.workers import connected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.backend import Backend

BOTH, INBOUND, OUTBOUND = ("inbound", "outbound"), ("inbound",), ("outbound",)


@dataclass(frozen=True)
class Row:
    """One limit, met once.

    ``saw`` is what the client saw: a status, an end (`limit_stage.end`), or both; in plaintext ``plain`` where that
    differs. ``code`` is the `error` of the log line, None where there is no line; ``event`` its `event`. ``counted`` is the
    name in `limit_hits_total`, where the limit is met through another one.
    """

    limit: str
    limits: dict[str, Any]
    does: Callable[[Meeting], str]
    saw: str
    code: str | None
    event: str = "request"
    sides: tuple[str, ...] = BOTH
    plain: str | None = None
    counted: str = ""
    device: bool = False
    #: Several clients come at once, and all but a few of them meet it.
    several: bool = False


ROWS = (
    # Connections.
    Row(
        "connections",
        {"connections": 2},
        meet.one_connection_more,
        "cut",
        "limit_connections",
        "refused",
        plain="closed",
    ),
    Row(
        "connections_per_caller",
        {"connections_per_caller": 1},
        meet.one_connection_more_of_a_caller,
        "closed",
        "limit_connections_per_caller",
        "refused",
        INBOUND,
    ),
    Row(
        "connections_per_caller",
        {"connections_per_caller": 1},
        meet.one_tunnel_more_of_a_caller,
        "cut",
        "limit_connections_per_caller",
        "refused",
        INBOUND,
    ),
    Row("handshakes", {"handshakes": 1}, meet.one_handshake_more, "closed", "limit_handshakes", "refused", INBOUND),
    Row(
        "handshake_timeout",
        {"handshake_timeout": "200ms"},
        meet.silence_instead_of_a_handshake,
        "closed",
        "limit_handshake_timeout",
        "refused",
        INBOUND,
    ),
    Row("tls_records", {}, meet.key_updates_without_end, "reset", "limit_tls_records", "closed", INBOUND),
    Row(
        "handshake_queue",
        {"handshake_queue": 1},
        meet.handshakes_for_a_slow_device,
        "cut",
        "limit_handshake_queue",
        "refused",
        INBOUND,
        device=True,
        several=True,
    ),
    Row(
        "sign_timeout",
        {"sign_timeout": "500ms"},
        meet.handshake_with_a_device_that_hangs,
        "cut",
        "signer_timeout",
        "refused",
        INBOUND,
        device=True,
    ),
    # Heads and bodies.
    Row(
        "head_bytes", {"head_bytes": "1KiB", "target_bytes": "512B"}, meet.a_long_head, "431, closed", "head_too_large"
    ),
    Row("target_bytes", {"target_bytes": "100B"}, meet.a_long_target, "414, closed", "target_too_long"),
    Row("fields", {"fields": 8}, meet.many_fields, "431, closed", "too_many_fields"),
    Row("fields", {"fields": 8}, meet.many_trailers, "431, closed", "too_many_trailers"),
    Row("trailer_bytes", {}, meet.long_trailers, "431, closed", "trailers_too_large"),
    Row("chunk_line_bytes", {}, meet.a_long_chunk_line, "400, closed", "chunk_line_too_long"),
    Row("body_bytes", {"body_bytes": "1KiB"}, meet.a_large_body, "413, closed", "limit_body_bytes"),
    Row("body_bytes", {"body_bytes": "1KiB"}, meet.a_large_body_in_chunks, "413, closed", "limit_body_bytes"),
    # How many and how often.
    Row(
        "requests_per_connection",
        {"requests_per_connection": 2},
        meet.requests_up_to_the_last,
        "200, closed",
        "limit_requests_per_connection",
    ),
    Row(
        "request_rate",
        {"request_rate": 1, "request_burst": 2},
        meet.requests_without_a_pause,
        "429",
        "limit_request_rate",
    ),
    # Met through the rate, which it puts off.
    Row(
        "request_burst",
        {"request_rate": 1, "request_burst": 20},
        meet.requests_without_a_pause_of_somebody_else,
        "429",
        "limit_request_rate",
        sides=INBOUND,
        counted="request_rate",
    ),
    # Times of the downstream side.
    Row("head_timeout", {"head_timeout": "200ms"}, meet.half_a_head, "408, closed", "limit_head_timeout"),
    Row("idle_timeout", {"idle_timeout": "500ms"}, meet.no_second_request, "closed", "limit_idle_timeout", "closed"),
    Row("stall_timeout", {"stall_timeout": "300ms"}, meet.half_a_body, "408, closed", "limit_stall_timeout"),
    Row(
        "stall_timeout",
        {"stall_timeout": "500ms"},
        meet.an_answer_that_nobody_reads,
        "half a 200, cut",
        "limit_stall_timeout",
        plain="half a 200, reset",
    ),
    # Met through its window.
    Row(
        "min_rate",
        {"stall_timeout": "500ms", "min_rate": "1MiB"},
        meet.a_dripping_body,
        "408, closed",
        "limit_stall_timeout",
        counted="stall_timeout",
    ),
    # Upstreams.
    Row(
        "stall_timeout",
        {"stall_timeout": "1500ms"},
        meet.a_body_that_the_server_does_not_read,
        "504, closed",
        "upstream_stalled",
        sides=INBOUND,
    ),
    Row(
        "connect_timeout",
        {"connect_timeout": "300ms"},
        meet.a_server_that_does_not_shake_hands,
        "504",
        "upstream_connect_timeout",
        sides=OUTBOUND,
    ),
    Row(
        "upstream_timeout", {"upstream_timeout": "300ms"}, meet.a_server_that_does_not_answer, "504", "upstream_timeout"
    ),
    # Towards the agent it is the other sidecar that meets it.
    Row("informational", {}, meet.interim_responses_without_end, "502", "too_many_informational", sides=INBOUND),
    # Counted and not logged: nothing ends but what nobody uses.
    Row("upstream_idle_timeout", {"upstream_idle_timeout": "200ms"}, meet.a_spare_connection, "200", None),
    Row(
        "stream_idle_timeout",
        {"stream_idle_timeout": "1s"},
        meet.a_silent_stream,
        "half a 200, cut",
        "limit_stream_idle_timeout",
        plain="half a 200, closed",
    ),
    Row(
        "upstream_connections",
        {"upstream_connections": 1, "connect_timeout": "1s"},
        meet.one_request_more_at_a_time,
        "503",
        "limit_upstream_connections",
    ),
    Row(
        "upstream_connections",
        {"upstream_connections": 1},
        meet.one_tunnel_more_at_the_server,
        "cut",
        "limit_upstream_connections",
        "tunnel",
        plain="reset",
    ),
    Row(
        "upstream_waiting",
        {"upstream_connections": 1, "upstream_waiting": 1, "connect_timeout": "20s"},
        meet.one_request_more_in_line,
        "503",
        "limit_upstream_waiting",
    ),
    Row("retries", {}, meet.a_server_that_hangs_up_on_every_second_request, "502", "limit_retries", sides=INBOUND),
    # The ends of what is long.
    Row("total_timeout", {"total_timeout": "1s"}, meet.a_request_that_lasts, "504", "limit_total_timeout"),
    Row(
        "total_timeout",
        {"total_timeout": "1s"},
        meet.a_silent_stream,
        "half a 200, cut",
        "limit_total_timeout",
        plain="half a 200, closed",
    ),
    Row(
        "connection_lifetime",
        {"connection_lifetime": "1s"},
        meet.no_second_request,
        "closed",
        "limit_connection_lifetime",
        "closed",
    ),
    Row(
        "connection_lifetime",
        {"connection_lifetime": "1s"},
        meet.a_silent_stream,
        "half a 200, cut",
        "limit_connection_lifetime",
        plain="half a 200, closed",
    ),
    Row(
        "tunnel_idle_timeout",
        {"tunnel_idle_timeout": "1s"},
        meet.a_tunnel_in_which_nothing_moves,
        "cut",
        "limit_tunnel_idle_timeout",
        "tunnel",
        plain="reset",
    ),
    Row(
        "tunnel_lifetime",
        {"tunnel_lifetime": "1s"},
        meet.a_tunnel_that_talks_on,
        "cut",
        "limit_tunnel_lifetime",
        "tunnel",
        plain="reset",
    ),
)

CASES = [
    pytest.param(
        row,
        side,
        id=f"{row.limit}-{row.does.__name__}-{side}",
        marks=[pytest.mark.needs("swtpm", "tpm2-pytss")] if row.device else [],
    )
    for row in ROWS
    for side in row.sides
]


@pytest.fixture(scope="module")
def pair() -> Iterator[Stage]:
    with Site() as site:
        yield Stage(site)


@pytest.fixture(scope="module")
def keyed() -> Iterator[Stage]:
    """The tools' key is in a TPM that can be slow, or hang."""
    with ExitStack() as stack:
        site, tpm = stack.enter_context(Site()), stack.enter_context(Swtpm())
        yield Stage(site, tpm=tpm, relay=stack.enter_context(SlowRelay(tpm)))


def test_every_limit_has_a_row() -> None:
    """Those of the configuration, and the fixed ones that some code of the log stands for."""
    fixed = {limit_of(code) for codes in (ProxyCode, HttpCode) for code in codes} - {None}
    assert {row.limit for row in ROWS} == {each.name for each in fields(Limits)} | fixed


@pytest.mark.parametrize(("row", "side"), CASES)
def test_it_is_answered_counted_and_logged(request: pytest.FixtureRequest, row: Row, side: str) -> None:
    stage: Stage = request.getfixturevalue("keyed" if row.device else "pair")
    stage.await_quiet()
    stage.limit(side, row.limits)
    code = row.code or f"limit_{row.limit}"
    with Meeting(stage, side) as at:
        counted = row.counted or row.limit
        before, told = at.hits(counted), len(at.sidecar.log(error=code))
        saw = row.does(at)
        assert saw == (row.plain if row.plain and side == "outbound" else row.saw)
        eventually(lambda: at.hits(counted) > before, f"{counted} to be counted")
        times = at.hits(counted) - before
        assert times == 1 or row.several
        if row.code is None:
            assert len(at.sidecar.log(error=code)) == told
            return
        lines = at.sidecar.await_log(told + int(times), error=code)[told:]
        assert {(line["event"], line["direction"]) for line in lines} == {(row.event, side)}
        status = saw.partition(",")[0].removeprefix("half a ")
        assert {line.get("http.status") for line in lines} == {int(status) if status.isdecimal() else None}
        assert at.hits(counted) == before + len(lines), "once for each line"


def test_workers_have_their_parts_and_the_sum_is_told(site: Site, backend: Backend) -> None:
    """Of two workers with four connections together each takes two, whichever the kernel gives one to."""
    tools = site.tools(backend, workers=2, limits={"connections": 4}).start()
    refused = 0
    while not refused or tools.metric("connections", direction="inbound") < 4:
        try:
            assert ask(site.caller(tools.port()), "GET", "/x").status == 200
        except OSError:
            refused += 1
        assert refused < 200, "one worker takes all connections"
    assert sorted(connected(tools).values()) == [2, 2]
    eventually(lambda: tools.metric("limit_hits_total", limit="connections") == refused, "the sum of both")
    assert len(tools.await_log(refused, event="refused", error="limit_connections")) == refused
