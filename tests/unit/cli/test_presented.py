from __future__ import annotations

import json
from dataclasses import replace

import pytest

pytest.importorskip("OpenSSL", reason="pyOpenSSL is missing")

from sidecar.cli.presented import Report, lines_of, plain
from sidecar.inspection.described import Described, describe
from sidecar.inspection.judge import Fault
from sidecar.inspection.look import Seen
from tests.support.ca import DAY, NOW, Ca

TOOLS = Ca(now=NOW).leaf("/agent/tools/1", lifetime=2 * DAY)
SEEN = Seen("TLSv1.3", "TLS_AES_256_GCM_SHA384", "x25519", "http/1.1", tuple(TOOLS.der))
REPORT = Report("127.0.0.1:8443", None, ("http/1.1",), SEEN, tuple(map(describe, TOOLS.der)))


def text(report: Report, now: float = NOW) -> str:
    return "\n".join(lines_of(report, now))


def test_without_a_configuration_nothing_is_verified_and_it_says_so() -> None:
    shown = text(REPORT)
    assert REPORT.accepted is None
    assert "0  spiffe://example.org/agent/tools/1" in shown
    assert f"pin {TOOLS.pin}" in shown
    assert "asks for no client certificate" in shown
    assert shown.endswith("not verified: no configuration was given (--config FILE, and --entry NAME)")


@pytest.mark.parametrize(
    ("after", "expected"), [(-30 * DAY, "(not valid yet)"), (DAY, "(1 day left)"), (30 * DAY, "(expired)")]
)
def test_how_long_a_certificate_lives(after: float, expected: str) -> None:
    assert expected in text(REPORT, NOW + after)


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ("", "and goes on without one, as far as can be seen"),
        ("closed", "and closes without one"),
        ("certificate_required", "and refuses to go on without one, by the TLS alert certificate_required"),
    ],
)
def test_what_a_peer_asks_for(verdict: str, expected: str) -> None:
    asking = replace(SEEN, asks=True, authorities=("CN=a", "CN=b"), verdict=verdict)
    shown = text(replace(REPORT, seen=asking))
    assert "asks for a client certificate of CN=a; CN=b\n" in shown
    assert expected in shown


def test_faults_and_our_own_handshake() -> None:
    fault = Fault("peer_pin_mismatch", "another\x1b key", "add it")
    refused = REPORT.judged([fault], as_us="spiffe://example.org/agent/planner/1", failed=fault)
    assert refused.accepted is False
    assert "we would refuse it:\n  peer_pin_mismatch: another\\x1b key\n    add it\nas spiffe://" in text(refused)
    assert REPORT.judged([]).accepted is True
    assert REPORT.judged([], failed=fault).accepted is False


def test_a_peer_cannot_steer_the_terminal_nor_fill_it() -> None:
    odd = Described(1, "00", subject="CN=\x1b[2J" + "x" * 1000, issuer="CN=\n", uris=("u\x07",) * 50, dns=())
    many = replace(REPORT, chain=(odd,) * 100, seen=replace(SEEN, alpn="\x1b", authorities=("\x1b",) * 99, asks=True))
    shown = text(many)
    assert not set(shown) & {"\x1b", "\x07"}
    assert "and 90 certificates more" in shown
    assert "and 89 more" in shown
    assert max(map(len, shown.splitlines())) < 700


def test_json_has_all_of_it() -> None:
    found = json.loads(json.dumps(plain(REPORT.judged([Fault("c", "m")]))))
    assert found["chain"][0]["pin"] == str(TOOLS.pin)
    assert found["accepted"] is False
    assert found["refused"] == [{"code": "c", "message": "m", "hint": ""}]
    assert plain(REPORT)["refused"] is None
