from __future__ import annotations

import socket

import pytest

from sidecar.demo import ports
from sidecar.demo.outcome import UnexpectedError


def test_ports_are_free_and_different() -> None:
    found = ports.free_ports(5)
    assert len(set(found)) == 5
    for port in found:
        assert ports.FIRST <= port < ports.FIRST + ports.COUNT
        assert not ports.accepts(port)


def test_a_port_in_use_is_passed_over() -> None:
    (port,) = ports.free_ports(1)
    with socket.create_server((ports.HOST, port)):
        assert ports.accepts(port)
        assert port not in ports.free_ports(3)


def test_no_port_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "COUNT", 3)
    with pytest.raises(UnexpectedError):
        ports.free_ports(4)
