from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from sidecar.devcerts import files
from sidecar.devcerts.errors import DevCertsCode, DevCertsError, FolderError

if TYPE_CHECKING:
    from pathlib import Path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_has_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    for wanted in (files.PRIVATE, files.PUBLIC):
        files.write(files.NewFile(tmp_path / "new" / "x", b"data", wanted))
        assert mode(tmp_path / "new" / "x") == wanted
    assert mode(tmp_path / "new") == files.FOLDER


@pytest.mark.threat(60)
def test_threat_60_a_key_is_never_open_even_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    write = os.fsync

    def look(descriptor: int) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            seen.append(stat.S_IMODE(status.st_mode))
        write(descriptor)

    opened: list[int] = []
    open_file = os.open

    def spy(path: object, flags: int, create_mode: int = 0o777, **rest: object) -> int:
        if flags & os.O_CREAT:
            assert flags & os.O_EXCL
            opened.append(create_mode)
        return open_file(path, flags, create_mode, **rest)  # type: ignore[arg-type] # passes on what it was given

    monkeypatch.setattr(os, "fsync", look)
    monkeypatch.setattr(os, "open", spy)
    files.write(files.NewFile(tmp_path / "k", b"secret", files.PRIVATE))
    assert opened == seen == [files.PRIVATE]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("untouched")
    (tmp_path / "k").symlink_to(elsewhere)
    files.write(files.NewFile(tmp_path / "k", b"secret", files.PRIVATE))
    assert elsewhere.read_text() == "untouched"
    assert not (tmp_path / "k").is_symlink()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "k"
    target.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FolderError) as caught:
        files.write(files.NewFile(target, b"new", files.PRIVATE))
    assert caught.value.code is DevCertsCode.IO
    assert "No space left" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["k"]
    assert target.read_text() == "old"


def test_reading(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert files.read(path) is None
    path.write_bytes(b"data")
    for bits, exposed in ((0o600, False), (0o400, False), (0o640, True), (0o604, True), (0o620, True)):
        path.chmod(bits)
        assert files.read(path) == files.Found(b"data", exposed)


def test_what_is_no_file_of_ours_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").write_bytes(b"x" * (files.MAX_BYTES + 1))
    (tmp_path / "plain").write_bytes(b"")
    for name, code in {
        "pipe": DevCertsCode.NOT_A_FILE,
        "folder": DevCertsCode.NOT_A_FILE,
        "large": DevCertsCode.FILE_TOO_LARGE,
        "plain/below": DevCertsCode.NOT_A_FOLDER,
    }.items():
        with pytest.raises(DevCertsError) as caught:
            files.read(tmp_path / name)
        assert caught.value.code is code


def test_what_the_system_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(FolderError) as caught:
        files.read(tmp_path / "loop")
    assert caught.value.code is DevCertsCode.IO
    with pytest.raises(FolderError):
        files.make_folder(tmp_path / ("x" * 300))
    with pytest.raises(FolderError), files.sole(tmp_path / "absent"):
        pass


def test_a_folder_is_not_made_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    for path in (tmp_path / "x", tmp_path / "x" / "y"):
        with pytest.raises(DevCertsError) as caught:
            files.make_folder(path)
        assert caught.value.code is DevCertsCode.NOT_A_FOLDER


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with files.sole(tmp_path), pytest.raises(FolderError) as caught, files.sole(tmp_path):
        pass
    assert caught.value.code is DevCertsCode.BUSY
    with files.sole(tmp_path):
        assert files.read(tmp_path / "x") is None


def test_an_input_error_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_text("")

    def broken(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdopen", broken)
    with pytest.raises(FolderError) as caught:
        files.read(tmp_path / "x")
    assert caught.value.code is DevCertsCode.IO


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", unsupported)
    with pytest.raises(FolderError) as caught, files.sole(tmp_path):
        pass
    assert caught.value.code is DevCertsCode.IO
