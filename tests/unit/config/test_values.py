from __future__ import annotations

import pytest

from sidecar.config.values import Forward, TcpAddress, UnixAddress


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (TcpAddress("127.0.0.1", 80), "127.0.0.1:80"),
        (TcpAddress("::1", 80), "[::1]:80"),
        (TcpAddress("tools.internal", 80), "tools.internal:80"),
        (UnixAddress("/run/x"), "unix:/run/x"),
        (Forward(TcpAddress("::1", 80)), "http://[::1]:80"),
    ],
)
def test_addresses_read_as_they_are_written(address: object, text: str) -> None:
    assert str(address) == text


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.255.0.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.5", False),
        ("localhost.example.org", False),
        ("tools.internal", False),
    ],
)
def test_what_stays_on_this_machine(host: str, loopback: bool) -> None:
    assert TcpAddress(host, 1).loopback is loopback
