"""What is not said of socket files by the tests of the administration socket: `tests/unit/admin/test_address.py`."""

from __future__ import annotations

import os
import socket
import stat
import struct
from enum import StrEnum
from typing import TYPE_CHECKING

import pytest

from sidecar import sockets
from sidecar.errors import LocalError
from sidecar.sockets import Peer, SocketFault, SocketFile, SocketRules, peer, peer_uid

if TYPE_CHECKING:
    from pathlib import Path


class Code(StrEnum):
    ANY = "any"


def error(fault: SocketFault, message: str, hint: str) -> LocalError:
    return LocalError(Code.ANY, f"{fault.name}: {message}", hint=hint)


def test_modes_names_and_settings_are_the_owner_s(tmp_path: Path) -> None:
    rules = SocketRules("test socket", "--here", error, mode=0o666, folder_mode=0o711)
    path = tmp_path / "run" / "x.sock"
    file = SocketFile.make(path, rules)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o711
    with pytest.raises(LocalError, match=r"IN_USE: another process answers at .*x\.sock") as caught:
        SocketFile.make(path, rules)
    assert caught.value.hint.endswith("in --here")
    file.close()
    with pytest.raises(LocalError, match=r"UNUSABLE: the test socket /.* cannot be made"):
        SocketFile.make(tmp_path / "no" / "folder" / "x.sock", rules)


def test_a_umask_keeps_nobody_out_of_a_folder_that_is_for_others(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        SocketFile.make(tmp_path / "run" / "x", SocketRules("test socket", "--here", error, folder_mode=0o711)).close()
        SocketFile.make(tmp_path / "own" / "x", SocketRules("test socket", "--here", error)).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o711
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o700


@pytest.mark.threat(25)
def test_threat_25_the_kernel_says_who_connected() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert peer_uid(ours) == os.geteuid()
        assert peer(ours) == Peer(os.getpid(), os.geteuid())


class Mac:
    """A socket as macOS has it."""

    def __init__(self, credentials: bytes, pid: bytes = b"") -> None:
        self.answers = {(0, 1, 76): credentials, (0, 2, 4): pid}

    def getsockopt(self, level: int, option: int, length: int, /) -> bytes:
        return self.answers[level, option, length]


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
    monkeypatch.delattr(sockets.socket, "SO_PEERCRED", raising=False)
    assert peer_uid(Mac(raw)) == expected
    assert peer(Mac(raw, struct.pack("=i", 77))) == Peer(77, expected)
    assert peer(Mac(raw)) == Peer(None, expected)
