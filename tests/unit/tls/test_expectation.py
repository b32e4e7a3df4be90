"""Which peer an outbound entry wants."""

from __future__ import annotations

import pytest

from sidecar.identity.pattern import IdPattern
from sidecar.identity.peer import Peer
from sidecar.tls.expectation import expect_peer
from sidecar.tls.failure import TlsCode, TlsError
from tests.support.tls import INTERMEDIATE, NOW, PLANNER, TOOLS

PEER = Peer(TOOLS.id, TOOLS.pin, "01", b"leaf", not_after=NOW + 10, not_before=NOW - 10)
NAMED = IdPattern.parse("spiffe://example.org/agent/tools/*")


def refusal(pattern: str, *pins: object) -> tuple[str, str]:
    with pytest.raises(TlsError) as caught:
        expect_peer(IdPattern.parse(pattern), frozenset(pins))(PEER)  # type: ignore[arg-type]  # pins
    assert not caught.value.alert_sent
    assert caught.value.hint
    return str(caught.value.code), str(caught.value)


def test_the_named_peer_passes_with_any_of_its_pins_or_without() -> None:
    for pins in (frozenset(), {TOOLS.pin}, {TOOLS.pin, PLANNER.pin}):
        expect_peer(NAMED, frozenset(pins))(PEER)


@pytest.mark.threat(27)
def test_threat_27_another_name_is_refused_and_both_are_told() -> None:
    code, message = refusal("spiffe://example.org/agent/planner/*", TOOLS.pin)
    assert code == TlsCode.PEER_NAME
    assert str(TOOLS.id) in message
    assert "agent/planner/*" in message


@pytest.mark.threat(13)
def test_threat_13_another_key_is_refused_even_if_a_pin_is_that_of_the_authority() -> None:
    for pin in (PLANNER.pin, type(TOOLS.pin).of_certificate(INTERMEDIATE.certificate)):
        code, message = refusal(str(NAMED), pin)
        assert code == TlsCode.PEER_PIN
        assert str(TOOLS.pin) in message
