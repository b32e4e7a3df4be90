from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from sidecar.admin import address as module
from sidecar.admin.address import AddressCode, AddressError, AdminAddress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "sidecar.sock"


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def refused(path: Path) -> AddressCode:
    with pytest.raises(AddressError) as raised:
        AdminAddress.open(path)
    assert str(path.parent) in str(raised.value)
    assert raised.value.hint
    return raised.value.code


@pytest.mark.threat(25)
@pytest.mark.usefixtures("open_umask")
def test_threat_25_nobody_else_can_open_the_socket_whatever_the_umask(path: Path) -> None:
    address = AdminAddress.open(path)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    address.close()


@pytest.mark.threat(25)
@pytest.mark.usefixtures("open_umask")
def test_threat_25_nothing_listens_before_the_mode_is_set(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = []
    chmod = type(path).chmod

    def first_try(self: Path, mode: int) -> None:
        if self == path:  # and not its folder
            with socket.socket(socket.AF_UNIX) as early:
                answers.append(early.connect_ex(str(self)))
        chmod(self, mode)

    monkeypatch.setattr(type(path), "chmod", first_try)
    AdminAddress.open(path).close()
    assert answers == [errno.ECONNREFUSED]


def test_the_file_is_removed_at_the_end(path: Path) -> None:
    AdminAddress.open(path).close()
    assert not path.exists()
    assert path.parent.exists()


def test_a_file_that_is_not_ours_any_more_is_left_alone(path: Path) -> None:
    first = AdminAddress.open(path)
    path.rename(path.with_name("moved"))
    second = AdminAddress.open(path)
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


def test_a_file_that_somebody_removed_is_no_trouble(path: Path) -> None:
    address = AdminAddress.open(path)
    path.unlink()
    address.close()


def test_a_socket_that_nobody_answers_on_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    address = AdminAddress.open(path)
    with socket.socket(socket.AF_UNIX) as client:
        assert client.connect_ex(str(path)) == 0
    address.close()


def test_an_address_in_use_is_an_error_and_stays_in_use(path: Path) -> None:
    address = AdminAddress.open(path)
    assert refused(path) is AddressCode.ADMIN_ADDRESS_IN_USE
    with socket.socket(socket.AF_UNIX) as client:
        assert client.connect_ex(str(path)) == 0
    address.close()


def test_an_address_whose_queue_is_full_is_in_use(path: Path) -> None:
    address = AdminAddress.open(path)
    waiting = []
    while True:
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        waiting.append(client)
        if client.connect_ex(str(path)) != 0:
            break
    assert refused(path) is AddressCode.ADMIN_ADDRESS_IN_USE
    for client in waiting:
        client.close()
    address.close()


@pytest.mark.parametrize("make", ["file", "folder", "link"])
def test_what_is_no_socket_is_never_removed(path: Path, make: str) -> None:
    path.parent.mkdir()
    if make == "file":
        path.write_text("precious")
    elif make == "folder":
        path.mkdir()
    else:
        path.symlink_to("elsewhere")
    assert refused(path) is AddressCode.ADMIN_NOT_A_SOCKET
    assert path.is_symlink() or path.exists()


@pytest.mark.parametrize("name", ["missing/run/x.sock", "x" * 200])
def test_a_path_that_cannot_be_is_an_error(tmp_path: Path, name: str) -> None:
    assert refused(tmp_path / name) is AddressCode.ADMIN_UNUSABLE


def test_two_that_start_at_once_take_turns(path: Path) -> None:
    path.parent.mkdir()
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    opened: list[AdminAddress] = []
    other = threading.Thread(target=lambda: opened.append(AdminAddress.open(path)))
    other.start()
    assert opened == []
    os.close(folder)
    other.join(10)
    assert refused(path) is AddressCode.ADMIN_ADDRESS_IN_USE
    opened[0].close()


def test_a_folder_that_stays_locked_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.02)
    path.parent.mkdir()
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    assert refused(path) is AddressCode.ADMIN_ADDRESS_LOCKED
    os.close(folder)


def test_a_socket_that_cannot_be_protected_is_not_left_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Path, mode: int) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(type(path), "chmod", fails)
    assert refused(path) is AddressCode.ADMIN_UNUSABLE
    assert not path.exists()
