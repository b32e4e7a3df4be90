from __future__ import annotations

import pytest

from sidecar.inspection.errors import InspectCode, InspectError
from sidecar.inspection.wire import MOST_BYTES, Wire
from tests.support.presenting import saying, silent
from tests.support.raw import LOOPBACK


def test_what_a_peer_may_send_is_bounded() -> None:
    with saying(b"\x16" * (MOST_BYTES + 1)) as server, Wire(LOOPBACK, server.port, 10) as wire:
        wire.send(b"x")
        with pytest.raises(InspectError) as caught:
            b"".join(iter(wire.receive, b""))
    assert caught.value.code is InspectCode.TOO_MUCH


def test_a_wait_of_its_own_ends_before_the_rest_does() -> None:
    with silent() as server, Wire(LOOPBACK, server.port, 10) as wire:
        assert wire.receive_within(0.05) is None
    with saying(b"\x16hello") as server, Wire(LOOPBACK, server.port, 10) as wire:
        wire.send(b"x")
        assert wire.receive_within(5) == b"\x16hello"


def test_a_name_that_nobody_has_is_named() -> None:
    with pytest.raises(InspectError) as caught, Wire("nobody.invalid", 443, 5):
        pass
    assert caught.value.code is InspectCode.UNREACHABLE
    assert str(caught.value).startswith("nobody.invalid:443 cannot be reached: ")
