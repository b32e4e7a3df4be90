"""Records as lines: one JSON object, one line, always, whatever the peer sent.

Written out by hand because it runs for every request: what a connection's lines share is encoded once (`Context`), the
date once a second, and the rest is put together in one pass (about a third of the time that ``json.dumps`` takes).
"""

from __future__ import annotations

import time
from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING

from sidecar.telemetry.record import Event
from sidecar.telemetry.text import quoted

if TYPE_CHECKING:
    from sidecar.telemetry.record import Decision, Record, Text

#: The last second that RFC 3339 has a year for.
LAST_SECOND = 253402300799

_EVENTS = {event: f'Z","event":"{event.value}"' for event in Event}
# RFC 9110 9.1 and RFC 5789: what nearly every request uses. Any other method is quoted like any other text.
_METHODS: dict[str | bytes, str] = {
    name: f',"http.method":"{name.decode()}"'
    for name in (b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"HEAD", b"OPTIONS")
}
_THREE = tuple(f"{number:03d}" for number in range(1000))
#: Outcomes remembered; a policy has as many as it has rules and reasons.
OUTCOMES = 1024
#: Texts of tokens are remembered up to this size of what is in them.
REMEMBERED_CHARACTERS = 1024


class _Stamp:
    """The text of the current millisecond, and of its second: lines come by the thousand."""

    __slots__ = ("millisecond", "second", "stamp", "text")

    def __init__(self) -> None:
        self.second = self.millisecond = -1
        self.text = self.stamp = ""

    def of(self, moment: float) -> str:
        """``2026-01-31T12:00:00.000`` in UTC (RFC 3339 5.6, without its ``Z``)."""
        # A clock that has gone mad still gives a line that can be read.
        if not 0 <= moment <= LAST_SECOND:
            moment = 0.0
        millisecond = int(moment * 1000)
        if millisecond != self.millisecond:
            second, rest = divmod(millisecond, 1000)
            if second != self.second:
                self.text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
                self.second = second
            self.stamp = f"{self.text}.{_THREE[rest]}"
            self.millisecond = millisecond
        return self.stamp


class _Outcomes(dict[tuple["Decision | None", "str | None", "str | None", "str | None"], str]):
    """The part of a line that repeats itself with every request a rule allows: bounded, and made again when asked."""

    def __missing__(self, key: tuple[Decision | None, str | None, str | None, str | None]) -> str:
        if len(self) >= OUTCOMES:
            self.clear()
        names = ("decision", "decision.rule", "decision.reason", "policy.version")
        members = zip(names, key, strict=True)
        self[key] = text = "".join(f',"{name}":{quoted(value)}' for name, value in members if value is not None)
        return text


def _milliseconds(value: float) -> str:
    """With three decimals, as ``:.3f`` writes it but for its ties; in half the time."""
    thousandths = int(value * 1000 + 0.5)
    return f"{thousandths // 1000}.{_THREE[thousandths % 1000]}"


_stamp = _Stamp()
_outcomes = _Outcomes()


def encode(record: Record) -> bytes:
    """Returns the record as one line of JSON, with its line feed."""
    line = '{"time":"' + _stamp.of(record.time) + _EVENTS[record.event]
    for context in record.contexts:
        line += context.json
    if record.dst_name is not None:
        line += f',"dst.name":{quoted(record.dst_name)}'
    line += _http(record)
    line += _outcomes[record.decision, record.decision_rule, record.decision_reason, record.policy_version]
    if record.decision_id is not None:
        line += f',"decision.id":{quoted(record.decision_id)}'
    if record.session_id is not None:
        line += _session(record.session_id)
    if record.trace_id is not None:
        line += f',"trace.id":{quoted(record.trace_id)}'
    line += record.token
    if record.incident is not None:
        line += f',"incident":{quoted(record.incident)}'
    if record.error is not None:
        line += f',"error":{quoted(record.error)}'
    return (line + "}\n").encode("ascii")


def outcome(decision: Decision | None, rule: str | None, reason: str | None, version: str | None) -> str:
    """Returns the part of a line that says what was decided; remembered, since requests share it by the thousand."""
    return _outcomes[decision, rule, reason, version]


def asked(method: bytes, path: bytes) -> str:
    """Returns the part of a line that says what a request asks for; ``path`` is without its query."""
    return f'{_METHODS.get(method) or _method(method)},"http.path":{quoted(path)}'


def encode_request(
    moment: float,
    told: str,
    status: int,
    sent: int,
    received: int,
    milliseconds: float,
    decided: str,
    decision_id: str,
    session: str | None,
    trace_id: str,
    token: str = "",
) -> bytes:
    """Returns what `encode` returns for a request that came to an ordinary end, in a third of the time.

    ``told`` is everything that the connection knows (`Context.json`, and ``dst.name`` where it stands there) and what
    was `asked`, ``decided`` is of `outcome`, ``token`` of `token_part`. ``decision_id`` and ``trace_id`` are hexadecimal
    digits.
    """
    return (
        f'{{"time":"{_stamp.of(moment)}Z","event":"request"{told},'
        f'"http.status":{status},"bytes_sent":{sent},"bytes_received":{received},'
        f'"duration_ms":{_milliseconds(milliseconds)}{decided},"decision.id":"{decision_id}"'
        f'{"" if session is None else _session(session)},"trace.id":"{trace_id}"{token}}}\n'
    ).encode("ascii")


def token_part(issuer: str, subject: str | None, token_id: str | None, scopes: frozenset[str]) -> str:
    """Returns the part of a line that says which token came along, never the token; remembered, as it comes again."""
    # What a caller writes into a token of its own making is not kept beyond it.
    size = len(issuer) + len(subject or "") + len(token_id or "") + sum(map(len, scopes))
    make = _token_part if size <= REMEMBERED_CHARACTERS else _token_part.__wrapped__
    return make(issuer, subject, token_id, scopes)


def detail_part(detail: str) -> str:
    """Returns the part of a line that says in words why a token did not help."""
    return f',"token.detail":{quoted(detail)}'


@lru_cache(maxsize=OUTCOMES)
def _token_part(issuer: str, subject: str | None, token_id: str | None, scopes: frozenset[str]) -> str:
    line = f',"token.issuer":{quoted(issuer)}'
    if subject is not None:
        line += f',"token.subject":{quoted(subject)}'
    if token_id is not None:
        line += f',"token.id":{quoted(token_id)}'
    if scopes:
        line += f',"token.scopes":{quoted(" ".join(sorted(scopes)))}'
    return line


def _method(name: Text) -> str:
    return f',"http.method":{quoted(name)}'


def _session(session: Text) -> str:
    return f',"session.id":{quoted(session)}'


def _http(record: Record) -> str:
    part = ""
    method = record.http_method
    if method is not None:
        part = _METHODS.get(method) or _method(method)
    if record.http_path is not None:
        part += f',"http.path":{quoted(_without_query(record.http_path))}'
    if record.http_status is not None:
        part += f',"http.status":{record.http_status:d}'
    if record.bytes_sent is not None:
        part += f',"bytes_sent":{record.bytes_sent:d}'
    if record.bytes_received is not None:
        part += f',"bytes_received":{record.bytes_received:d}'
    if record.duration_ms is not None and isfinite(record.duration_ms):
        part += f',"duration_ms":{_milliseconds(record.duration_ms)}'
    return part


def _without_query(path: Text) -> Text:
    # A query can hold a secret. Whoever fills a record has cut it off; that is too little to rely on.
    if isinstance(path, bytes):
        return path.partition(b"?")[0]
    return path.partition("?")[0]
