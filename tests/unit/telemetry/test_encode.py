from __future__ import annotations

import dataclasses
import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.telemetry import encode as module
from sidecar.telemetry.encode import OUTCOMES, asked, encode, encode_request, outcome
from sidecar.telemetry.record import Context, Decision, Event, Record
from sidecar.telemetry.text import TEXT_LIMIT, quoted

#: attribute -> field, as DESIGN and docs/log.md name them.
FIELDS = {
    "dst_name": "dst.name",
    "http_method": "http.method",
    "http_path": "http.path",
    "http_status": "http.status",
    "bytes_sent": "bytes_sent",
    "bytes_received": "bytes_received",
    "duration_ms": "duration_ms",
    "decision": "decision",
    "decision_rule": "decision.rule",
    "decision_reason": "decision.reason",
    "decision_id": "decision.id",
    "policy_version": "policy.version",
    "session_id": "session.id",
    "trace_id": "trace.id",
    "incident": "incident",
    "error": "error",
}

NOON = 1_800_014_400.25


def parsed(record: Record) -> dict[str, Any]:
    line = encode(record)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert line[:-1].decode("ascii").isprintable()
    names: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names.extend(name for name, _ in pairs)
        return dict(pairs)

    found = json.loads(line, object_pairs_hook=once)
    assert len(names) == len(set(names))
    return dict(found)


def test_a_whole_line() -> None:
    context = Context.of(direction="inbound", listener="tools", src_identity="spiffe://example.org/agent/a/1")
    record = Record(
        time=NOON,
        event=Event.REQUEST,
        contexts=(context, Context.of(dst_addr="127.0.0.1:8080")),
        http_method=b"POST",
        http_path=b"/mcp",
        http_status=200,
        bytes_sent=7,
        bytes_received=0,
        duration_ms=1.23456,
        decision=Decision.ALLOW,
        decision_rule="inbound.tools.allow[0]",
        decision_id="d1",
        policy_version="v1",
        session_id="s1",
        trace_id="t1",
    )
    assert encode(record) == (
        b'{"time":"2027-01-15T12:00:00.250Z","event":"request","direction":"inbound","listener":"tools",'
        b'"src.identity":"spiffe://example.org/agent/a/1","dst.addr":"127.0.0.1:8080","http.method":"POST",'
        b'"http.path":"/mcp","http.status":200,"bytes_sent":7,"bytes_received":0,"duration_ms":1.235,'
        b'"decision":"allow","decision.rule":"inbound.tools.allow[0]","policy.version":"v1","decision.id":"d1",'
        b'"session.id":"s1","trace.id":"t1"}\n'
    )


def test_the_names_are_those_of_every_attribute() -> None:
    own = {field.name for field in dataclasses.fields(Record)} - {"time", "event", "contexts", "token"}
    assert own == set(FIELDS)


def test_what_a_caller_writes_into_a_token_is_not_kept() -> None:
    before = module._token_part.cache_info().currsize
    for number in range(50):
        scopes = frozenset(f"s{number}-{each}" for each in range(500))
        part = module.token_part("spiffe://example.org/a", "me", f"id-{number}", scopes)
        assert part.startswith(',"token.issuer":"spiffe://example.org/a","token.subject":"me","token.id":"id-')
    assert module._token_part.cache_info().currsize == before
    module.token_part("spiffe://example.org/a", "me", "id", frozenset({"b", "a"}))
    assert module._token_part.cache_info().currsize == before + 1


def test_what_is_none_is_left_out() -> None:
    assert parsed(Record(NOON, Event.START)) == {"time": "2027-01-15T12:00:00.250Z", "event": "start"}


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=TEXT_LIMIT // 4)
RECORDS = st.builds(
    Record,
    time=st.floats(0, module.LAST_SECOND),
    event=st.sampled_from(Event),
    contexts=st.just(()) | st.builds(Context.of, direction=TEXT, src_addr=st.none() | TEXT).map(lambda one: (one,)),
    http_status=st.none() | st.integers(100, 999),
    bytes_sent=st.none() | st.integers(0, 2**70),
    bytes_received=st.none() | st.integers(0),
    duration_ms=st.none() | st.floats(0, 1e12),
    decision=st.none() | st.sampled_from(Decision),
    **{name: st.none() | TEXT for name in ("decision_rule", "decision_reason", "decision_id", "policy_version")},
    **{name: st.none() | TEXT for name in ("dst_name", "http_method", "session_id", "trace_id", "error")},
    http_path=st.none() | TEXT.map(lambda text: text.replace("?", "")),
)


@given(RECORDS)
def test_every_record_is_one_line_that_gives_the_record_back(record: Record) -> None:
    """A line is one JSON object whose members are exactly the record's values that are not None."""
    found = parsed(record)
    for attribute, name in FIELDS.items():
        value = getattr(record, attribute)
        if attribute == "duration_ms" and value is not None:
            assert found[name] == pytest.approx(value, abs=0.0005)
        else:
            assert found.get(name) == value
    moment = dt.datetime.fromisoformat(found["time"]).timestamp()
    assert record.time - 0.001 <= moment <= record.time + 1e-3
    assert found["event"] == record.event


@pytest.mark.threat(44)
@given(
    st.binary(max_size=3000) | st.text(max_size=3000),
    st.binary(max_size=50) | st.text(max_size=50),
    st.floats(),
    st.floats(),
)
def test_threat_44_whatever_a_peer_sends_is_one_line_of_json(
    path: str | bytes, name: str | bytes, time: float, duration: float
) -> None:
    """Any bytes, text and numbers give one parseable line of bounded length."""
    record = Record(
        time, Event.REFUSED, http_method=name, http_path=path, dst_name=name, session_id=name, duration_ms=duration
    )
    found = parsed(record)
    assert {"time", "event", "http.method", "http.path", "dst.name", "session.id"} <= set(found)
    assert len(encode(record)) <= 4 * (6 * TEXT_LIMIT + 64) + 512


@pytest.mark.threat(44)
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b'/a\r\n{"event":"request"}', '/a\r\n{"event":"request"}'),
        (b"/\x1b[2J\x1b]0;x\x07", "/\x1b[2J\x1b]0;x\x07"),
        (b"/\xff\xfe", "/\\xff\\xfe"),
        (b"/\xed\xb3\xbf", "/\\xed\\xb3\\xbf"),
        ("/\u2028\u2029\x85", "/\u2028\u2029\x85"),
        ("/\ud800", "/\\ud800"),
        (b'/"},"decision":"allow","x":{"', '/"},"decision":"allow","x":{"'),
        (b"/\x00\x7f", "/\x00\x7f"),
    ],
)
def test_threat_44_hostile_paths_stay_within_their_field(path: str | bytes, expected: str) -> None:
    record = Record(NOON, Event.REQUEST, http_path=path, decision=Decision.DENY)
    found = parsed(record)
    assert found["http.path"] == expected
    assert found["decision"] == "deny"


@pytest.mark.threat(44)
def test_threat_44_a_path_of_a_megabyte_is_cut_and_says_so() -> None:
    found = parsed(Record(NOON, Event.REQUEST, http_path=b"/" + b"\xff" * 1024 * 1024))
    assert found["http.path"].endswith(f"…(+{1024 * 1024 + 1 - TEXT_LIMIT} bytes)")
    assert len(found["http.path"]) < 5 * TEXT_LIMIT


@pytest.mark.parametrize("path", [b"/a?token=x", "/a?token=x", b"/a?", "/a?b?c"])
def test_a_query_never_reaches_the_log(path: str | bytes) -> None:
    assert parsed(Record(NOON, Event.REQUEST, http_path=path))["http.path"] == "/a"


@pytest.mark.threat(51)
@pytest.mark.parametrize("moment", [-1.0, float("nan"), float("inf"), float("-inf"), 1e300, module.LAST_SECOND + 1.0])
def test_threat_51_a_mad_clock_still_gives_a_line(moment: float) -> None:
    assert parsed(Record(moment, Event.REQUEST))["time"] == "1970-01-01T00:00:00.000Z"


def test_time_goes_on_within_and_across_seconds_and_back() -> None:
    moments = [NOON, NOON + 0.5, NOON + 1, NOON - 1]
    assert [parsed(Record(moment, Event.REQUEST))["time"][17:] for moment in moments] == [
        "00.250Z",
        "00.750Z",
        "01.250Z",
        "59.250Z",
    ]


def test_a_number_that_is_none_is_left_out() -> None:
    assert "duration_ms" not in parsed(Record(NOON, Event.REQUEST, duration_ms=float("nan")))


def test_every_usual_method_is_quoted_in_advance_as_it_would_be() -> None:
    for method, text in module._METHODS.items():
        assert text == f',"http.method":{quoted(method)}'
    assert parsed(Record(NOON, Event.REQUEST, http_method=b'X"'))["http.method"] == 'X"'


def test_remembered_outcomes_are_bounded() -> None:
    for i in range(OUTCOMES + 10):
        assert parsed(Record(NOON, Event.REQUEST, decision_rule=f"r{i}"))["decision.rule"] == f"r{i}"
    assert len(module._outcomes) <= OUTCOMES


@given(
    st.floats(0, 4e9),
    st.sampled_from([b"GET", b"POST", b"X", b"PURGE"]),
    st.binary(max_size=20).filter(lambda path: b"?" not in path),
    st.integers(100, 599),
    st.integers(0, 2**63),
    st.floats(0, 1e9),
    st.none() | st.text(max_size=5),
)
def test_the_quick_way_writes_what_the_general_one_writes(
    moment: float, method: bytes, path: bytes, status: int, size: int, ms: float, session: str | None
) -> None:
    """Invariant: an ordinary request's line is the same, whichever of the two wrote it."""
    context = Context.of(direction="outbound", dst_name='a"b')
    record = Record(moment, Event.REQUEST, (context,), http_method=method, http_path=path, http_status=status)
    record.bytes_sent, record.bytes_received, record.duration_ms = size, size + 1, ms
    record.decision, record.decision_rule, record.policy_version = Decision.ALLOW, "r", "v"
    record.decision_id, record.session_id, record.trace_id = "0d", session, "7f"
    decided = outcome(Decision.ALLOW, "r", None, "v")
    line = encode_request(
        moment, context.json + asked(method, path), status, size, size + 1, ms, decided, "0d", session, "7f"
    )  # fmt: skip
    assert line == encode(record)
