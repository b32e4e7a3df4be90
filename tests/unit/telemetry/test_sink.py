from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from sidecar.telemetry.sink import STDOUT, Sink, SinkCode, SinkError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_is_appended_to_and_others_may_not_read_it(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    before = os.umask(0)
    try:
        for text in (b"1\n", b"2\n"):
            sink = Sink.file(path)
            os.write(sink.fd, text)
            sink.close()
    finally:
        os.umask(before)
    assert path.read_bytes() == b"1\n2\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_file_is_not_inherited_by_programs_that_are_started(tmp_path: Path) -> None:
    sink = Sink.file(tmp_path / "access.log")
    assert not os.get_inheritable(sink.fd)
    sink.close()


def test_reopening_finds_the_file_of_that_name(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    sink = Sink.file(path)
    assert sink.reopen() is False
    path.rename(tmp_path / "access.log.1")
    assert sink.reopen() is True
    os.write(sink.fd, b"new\n")
    sink.close()
    assert path.read_bytes() == b"new\n"
    assert (tmp_path / "access.log.1").read_bytes() == b""


def test_a_failed_reopening_keeps_the_old_file(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    sink = Sink.file(folder / "access.log")
    folder.rename(tmp_path / "moved")
    with pytest.raises(SinkError):
        sink.reopen()
    os.write(sink.fd, b"still\n")
    sink.close()
    assert (tmp_path / "moved" / "access.log").read_bytes() == b"still\n"


def test_standard_output_is_neither_reopened_nor_closed() -> None:
    sink = Sink.stdout()
    assert sink.fd == STDOUT
    assert sink.reopen() is False
    sink.close()
    os.fstat(STDOUT)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "access.log"
    with pytest.raises(SinkError) as raised:
        Sink.file(path)
    assert raised.value.code is SinkCode.SINK_UNUSABLE
    assert str(path) in str(raised.value)


def test_a_named_pipe_that_nobody_reads_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(SinkError):
        Sink.file(path)
