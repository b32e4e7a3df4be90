from __future__ import annotations

import os
import socket
import struct

import pytest

from sidecar.admin import credentials
from sidecar.admin.credentials import allowed_uids, peer_uid


@pytest.mark.threat(25)
def test_threat_25_we_root_and_those_that_are_named_may_ask() -> None:
    assert allowed_uids() == {os.geteuid(), 0}
    assert allowed_uids([1234]) == {os.geteuid(), 0, 1234}


@pytest.mark.threat(25)
def test_threat_25_the_kernel_says_who_connected() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert peer_uid(ours) == os.geteuid()


class Mac:
    """A socket as macOS has it."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def getsockopt(self, level: int, option: int, length: int, /) -> bytes:
        assert (level, option, length) == (0, 1, 76)
        return self.raw


@pytest.mark.threat(25)
@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (struct.pack("=IIhxx16I", 0, 501, 1, *range(16)), 501),
        (struct.pack("=IIhxx16I", 1, 501, 1, *range(16)), None),
        (b"", None),
        (b"\0" * 8, None),
    ],
)
def test_threat_25_macos_says_it_in_its_own_way(
    monkeypatch: pytest.MonkeyPatch, raw: bytes, expected: int | None
) -> None:
    monkeypatch.delattr(credentials.socket, "SO_PEERCRED", raising=False)
    assert peer_uid(Mac(raw)) == expected
