"""Every reason to refuse a peer is named at once, and there is none exactly where the proxy would go on."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("OpenSSL", reason="pyOpenSSL is missing")

from sidecar.identity.pattern import IdPattern
from sidecar.identity.pins import Pin
from sidecar.identity.refusal import Refusal
from sidecar.inspection.judge import Wanted, judge
from sidecar.inspection.look import Seen
from sidecar.tls.failure import TlsCode
from tests.support.ca import DAY, NOW, Ca

CA = Ca(now=NOW)
OTHER = Ca("other.org", now=NOW)
TOOLS = CA.leaf("/agent/tools/1")
PEER = IdPattern.parse("spiffe://example.org/agent/tools/*")


def codes(chain: list[bytes] = TOOLS.der, *, version: str = "TLSv1.3", now: float = NOW, **wanted: Any) -> list[str]:
    seen = Seen(version, "TLS_AES_128_GCM_SHA256", "x25519", None, tuple(chain))
    return [fault.code for fault in judge(seen, Wanted(**{"bundles": CA.bundles} | wanted), now)]


def test_a_good_peer() -> None:
    assert codes() == []
    assert codes(peer=PEER) == []
    assert codes(peer=PEER, pins=frozenset({TOOLS.pin})) == []


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({"version": "TLSv1.2"}, [TlsCode.PROTOCOL_VERSION]),
        ({"now": NOW + 400 * DAY}, [Refusal.EXPIRED]),
        ({"chain": OTHER.leaf("/agent/tools/1").der}, [Refusal.TRUST_DOMAIN_UNKNOWN]),
        ({"chain": Ca(key="another", now=NOW).leaf("/agent/tools/1").der}, [Refusal.SIGNATURE_INVALID]),
        ({"chain": []}, [Refusal.CHAIN_EMPTY]),
        ({"chain": [b"junk"]}, [Refusal.CERTIFICATE_MALFORMED]),
        ({"chain": TOOLS.der * 9}, [Refusal.CHAIN_TOO_LONG]),
        ({"peer": IdPattern.parse("spiffe://example.org/agent/other/1")}, [TlsCode.PEER_NAME]),
        ({"peer": PEER, "pins": frozenset({Pin(bytes(32))})}, [TlsCode.PEER_PIN]),
        (
            {"version": "TLSv1.2", "now": NOW + 400 * DAY, "pins": frozenset({Pin(bytes(32))})},
            [TlsCode.PROTOCOL_VERSION, Refusal.EXPIRED, TlsCode.PEER_PIN],
        ),
    ],
)
def test_what_is_refused(knobs: dict[str, Any], expected: list[str]) -> None:
    assert codes(**knobs) == expected


def test_an_entry_trusts_the_bundle_of_its_peers_domain_alone() -> None:
    both = CA.bundles | OTHER.bundles
    stranger = OTHER.leaf("/agent/tools/1").der
    assert codes(stranger, bundles=both) == []
    assert codes(stranger, bundles=both, peer=PEER) == [Refusal.TRUST_DOMAIN_UNKNOWN, TlsCode.PEER_NAME]


@pytest.mark.parametrize(
    ("version", "remote", "wanted", "expected"),
    [
        ("TLSv1.2", "93.184.215.14", {}, []),
        ("TLSv1.3", "93.184.215.14", {"pins": frozenset({TOOLS.pin})}, []),
        ("TLSv1.1", "93.184.215.14", {}, [TlsCode.PROTOCOL_VERSION]),
        ("TLSv1.3", "127.0.0.1", {"anywhere": True}, []),
        ("TLSv1.3", "93.184.215.14", {"pins": frozenset({Pin(bytes(32))})}, [TlsCode.PEER_PIN]),
    ],
)
def test_a_service_of_the_web_is_held_to_other_rules(
    version: str, remote: str, wanted: dict[str, Any], expected: list[str]
) -> None:
    seen = Seen(version, "c", "x25519", None, tuple(TOOLS.der))
    assert [fault.code for fault in judge(seen, Wanted(CA.bundles, site=True, **wanted), NOW, remote)] == expected


def test_a_service_of_the_web_is_at_a_public_address() -> None:
    seen = Seen("TLSv1.3", "c", "x25519", None, (b"junk",))
    (fault,) = judge(seen, Wanted({}, site=True, pins=frozenset({TOOLS.pin})), NOW, "10.0.0.1")
    assert "10.0.0.1" in fault.message
