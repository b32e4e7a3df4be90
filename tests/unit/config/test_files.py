from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest

from sidecar.config.faults import ConfigCode, Refused
from sidecar.config.files import MAX_BYTES, Look, Snapshot

if TYPE_CHECKING:
    from pathlib import Path


def refused(path: Path) -> tuple[object, str, str]:
    with pytest.raises(Refused) as caught:
        Look().read(path)
    return caught.value.code, str(caught.value), caught.value.hint


def volume(folder: Path, name: str, **files: str) -> Path:
    """A folder as Kubernetes mounts it: each file is a link through ``..data`` into a folder of one version."""
    version = folder / f"..{name}"
    version.mkdir(parents=True)
    for file, content in files.items():
        (version / file).write_text(content)
        link = folder / file
        if not link.is_symlink():
            link.symlink_to(f"..data/{file}")
    swap(folder, version)
    return folder


def swap(folder: Path, version: Path) -> None:
    fresh = folder / "..data_tmp"
    fresh.symlink_to(version.name)
    fresh.rename(folder / "..data")


def test_a_file_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    look = Look()
    first = look.read(path)
    path.write_bytes(b"two")
    assert look.read(path) is first
    assert first.data == b"one"
    assert first.status.st_size == 3
    assert b"one" not in repr(first).encode()


@pytest.mark.threat(1)
@pytest.mark.parametrize("name", ["missing", "file/below", "x" * 300, "a\0b"])
def test_threat_1_a_path_that_leads_nowhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    code, message, _ = refused(tmp_path / name)
    assert (code, message) in [
        (ConfigCode.FILE_MISSING, "does not exist"),
        (ConfigCode.FILE_UNREADABLE, "cannot be read: file name too long"),
        (ConfigCode.FILE_UNREADABLE, "cannot be the name of a file"),
    ]


@pytest.mark.threat(1)
def test_threat_1_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.touch(mode=0)
    with contextlib.ExitStack() as stack:
        if os.geteuid() == 0:  # root may read everything: be somebody else for a moment
            os.seteuid(65534)
            stack.callback(os.seteuid, 0)
        code, message, hint = refused(path)
        assert (code, message) == (ConfigCode.FILE_UNREADABLE, "cannot be read: permission denied")
        assert hint == f"let this process (uid {os.geteuid()}) read it"


def test_a_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    assert refused(tmp_path / "f")[:2] == (ConfigCode.FILE_NOT_REGULAR, "is not a regular file")


def test_a_socket_a_folder_and_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("s")
        assert refused(tmp_path / "s")[:2] == (ConfigCode.FILE_NOT_REGULAR, "is not a regular file")
    assert refused(tmp_path)[:2] == (ConfigCode.FILE_NOT_REGULAR, "is a folder")
    assert refused(tmp_path.__class__("/dev/zero"))[:2] == (ConfigCode.FILE_NOT_REGULAR, "is not a regular file")


def test_a_file_has_at_most_a_mebibyte(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * MAX_BYTES)
    assert len(Look().read(path).data) == MAX_BYTES
    path.write_bytes(b"x" * (MAX_BYTES + 1))
    assert refused(path)[:2] == (ConfigCode.FILE_TOO_LARGE, "is larger than 1 MiB")


def test_an_error_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")

    def broken(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "read", broken)
    assert refused(path)[:2] == (ConfigCode.FILE_UNREADABLE, "cannot be read: input/output error")


@pytest.mark.threat(24)
def test_threat_24_a_file_that_is_written_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"half")
    read = os.read

    def slow(descriptor: int, count: int) -> bytes:
        data = read(descriptor, count)
        if path.stat().st_size < 10:
            with path.open("ab") as file:
                file.write(b" and the rest")
        return data

    monkeypatch.setattr(os, "read", slow)
    assert refused(path)[:2] == (ConfigCode.FILE_CHANGING, "was written to while it was read")


@pytest.mark.parametrize("target", ["real/a", "real/../real/a", "./real/./a", "link/a"])
def test_links_are_followed(tmp_path: Path, target: str) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "a").symlink_to(target)
    look = Look()
    assert look.read(tmp_path / "a").data == b"x"
    assert look.snapshot().files[0].real == str((tmp_path / "real" / "a").resolve())


def test_dots_go_up_from_where_a_link_leads(tmp_path: Path) -> None:
    """As the system reads it: ``link/..`` is the parent of the link's target, not of the link."""
    (tmp_path / "x" / "y").mkdir(parents=True)
    (tmp_path / "x" / "a").write_bytes(b"system")
    (tmp_path / "a").write_bytes(b"text")
    (tmp_path / "link").symlink_to("x/y")
    path = tmp_path / "link" / ".." / "a"
    assert Look().read(path).data == path.read_bytes() == b"system"


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    code, message, _ = refused(tmp_path / "a")
    assert code is ConfigCode.FILE_UNREADABLE
    assert message == f"cannot be read: {os.strerror(errno.ELOOP).lower()}"


@pytest.mark.threat(24)
def test_threat_24_a_volume_that_is_swapped_is_read_as_it_was(tmp_path: Path) -> None:
    """Certificate and key of one look come from one version, though the volume is swapped in between."""
    folder = volume(tmp_path / "v", "one", crt="crt one", key="key one")
    look = Look()
    assert look.read(folder / "crt").data == b"crt one"
    volume(folder, "two", crt="crt two", key="key two")
    assert look.read(folder / "key").data == b"key one"
    assert not look.settled()
    fresh = Look()
    assert [fresh.read(folder / name).data for name in ("crt", "key")] == [b"crt two", b"key two"]
    assert fresh.settled()


@pytest.mark.threat(24)
def test_threat_24_a_link_that_appears_between_resolving_and_opening(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    look = Look()
    look.glance(path)
    assert look.settled()
    path.rename(tmp_path / "b")
    path.symlink_to("b")
    assert not look.settled()
    other = Look()
    other._links[str(path)] = None  # as it was when the path was resolved
    with pytest.raises(Refused) as caught:
        other.read(path)
    assert caught.value.code is ConfigCode.FILE_UNREADABLE


def test_two_looks_at_the_same_files_agree(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    look = Look()
    look.read(tmp_path / "a")
    look.glance(tmp_path / "missing")
    snapshot = look.snapshot()
    assert snapshot.paths == (tmp_path / "a", tmp_path / "missing")
    assert snapshot.again() == snapshot
    assert hash(snapshot.again()) == hash(snapshot)


@pytest.mark.threat(24)
def test_threat_24_every_change_shows_in_the_next_look(tmp_path: Path) -> None:
    path, missing = tmp_path / "a", tmp_path / "missing"
    path.write_bytes(b"x")
    look = Look()
    look.glance(path)
    look.glance(missing)
    before = look.snapshot()

    path.write_bytes(b"y")  # the same size
    written = before.again()
    assert written != before
    assert not written.same_content(before)

    path.chmod(0o600)
    closed = written.again()
    assert closed != written
    assert closed.same_content(written)

    (tmp_path / "b").write_bytes(b"y")
    (tmp_path / "b").rename(path)
    replaced = closed.again()
    assert replaced != closed
    assert replaced.same_content(closed)

    missing.write_bytes(b"")
    assert replaced.again() != replaced

    path.unlink()
    gone = replaced.again()
    assert gone.files[0].digest == b""
    assert not gone.same_content(replaced)


@pytest.mark.threat(24)
def test_threat_24_a_swap_to_the_same_content_is_a_change_of_place_alone(tmp_path: Path) -> None:
    folder = volume(tmp_path / "v", "one", crt="c")
    look = Look()
    look.read(folder / "crt")
    before = look.snapshot()
    volume(folder, "two", crt="c")
    after = before.again()
    assert after != before
    assert after.same_content(before)


def test_an_empty_snapshot() -> None:
    assert Snapshot().again() == Snapshot()
