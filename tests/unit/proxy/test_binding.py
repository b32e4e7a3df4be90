"""A bound UNIX socket and its file: who may connect, and who removes it."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from sidecar.proxy import binding as module
from sidecar.proxy.binding import Binding
from sidecar.proxy.failure import BindCode, BindError

if TYPE_CHECKING:
    from pathlib import Path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_new_socket_is_our_own_users_and_its_folder_lets_others_through_at_most(tmp_path: Path) -> None:
    path = tmp_path / "new" / "s"
    binding = Binding.unix(str(path))
    assert (mode(path), mode(path.parent)) == (0o600, 0o711)
    binding.close()
    assert not path.exists()


def test_its_mode_follows_whom_it_is_for(tmp_path: Path) -> None:
    path, us = tmp_path / "s", os.geteuid()
    binding = Binding.unix(str(path))
    for uids, wanted in (((us,), 0o600), ((us, us + 1), 0o666), ((us + 1,), 0o666), ((), 0o600)):
        binding.allow(uids)
        assert mode(path) == wanted, uids
    binding.close()


def test_a_file_of_somebody_else_is_neither_changed_nor_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    binding = Binding.unix(str(path))
    path.unlink()
    path.touch(mode=0o640)
    binding.allow((os.geteuid() + 1,))
    binding.close()
    assert mode(path) == 0o640


def test_a_file_that_is_gone_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "s"
    binding = Binding.unix(str(path))
    path.unlink()
    binding.allow((os.geteuid() + 1,))
    binding.close()


def test_a_file_that_cannot_be_removed_stays_and_is_no_error(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    binding = Binding.unix(str(folder / "s"))
    folder.rename(tmp_path / "elsewhere")
    folder.touch()  # its way leads to nothing any more
    binding.close()
    assert binding.sock.fileno() == -1
    assert (tmp_path / "elsewhere" / "s").is_socket()


def test_without_a_file_there_is_a_socket_to_close_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "s"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    binding = Binding(sock)
    before = mode(path)
    binding.allow((os.geteuid() + 1,))
    binding.remove()
    assert mode(path) == before
    binding.close()
    assert sock.fileno() == -1
    assert path.exists()


def test_why_a_socket_cannot_be_made_has_a_code_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.02)
    (tmp_path / "file").touch()
    live = Binding.unix(str(tmp_path / "live"))
    locked = tmp_path / "locked"
    locked.mkdir()
    descriptor = os.open(locked, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    cases = {
        tmp_path / "file": BindCode.NOT_A_SOCKET,
        tmp_path / "live": BindCode.IN_USE,
        locked / "s": BindCode.LOCKED,
        tmp_path / "no" / "folder" / "s": BindCode.FAILED,
    }
    try:
        for path, code in cases.items():
            with pytest.raises(BindError) as caught:
                Binding.unix(str(path))
            assert caught.value.code is code
            assert "listen" in caught.value.hint or str(path.parent) in str(caught.value)
    finally:
        os.close(descriptor)
        live.close()
