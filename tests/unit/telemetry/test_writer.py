from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from sidecar.telemetry import writer as module
from sidecar.telemetry.sink import Sink
from sidecar.telemetry.writer import LineWriter
from tests.support.log import KeptMessages, fill, read_all, until

if TYPE_CHECKING:
    from pathlib import Path

RETRY = 0.01


class Disk:
    """Stands between the writer and the system: what it takes at each write is told in advance."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plan: list[int | OSError] = []
        self.always: OSError | None = None
        self.tries = 0
        self._write = os.write
        monkeypatch.setattr(module.os, "write", self.write)

    def write(self, fd: int, data: bytes) -> int:
        self.tries += 1
        step = self.plan.pop(0) if self.plan else self.always
        if isinstance(step, OSError):
            raise step
        return self._write(fd, data if step is None else data[:step])


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def messages() -> KeptMessages:
    return KeptMessages()


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def test_lines_are_written_in_order(tmp_path: Path, messages: KeptMessages) -> None:
    path = tmp_path / "log"
    writer = LineWriter(Sink.file(path), messages)
    for i in range(100):
        writer.offer(b"%d\n" % i, 1)
    assert writer.close(10) == 0
    assert path.read_bytes() == b"".join(b"%d\n" % i for i in range(100))
    assert (writer.lost, writer.broken, messages.lines) == (0, False, [])


def test_a_write_that_was_cut_short_is_continued(tmp_path: Path, messages: KeptMessages, disk: Disk) -> None:
    path = tmp_path / "log"
    disk.plan = [3, 1, 0, 2]
    writer = LineWriter(Sink.file(path), messages)
    writer.offer(b"first\nsecond\n", 2)
    writer.offer(b"third\n", 1)
    assert writer.close(10) == 0
    assert path.read_bytes() == b"first\nsecond\nthird\n"


@pytest.mark.threat(51)
def test_threat_51_a_full_disk_delays_lines_and_cuts_none(tmp_path: Path, messages: KeptMessages, disk: Disk) -> None:
    path = tmp_path / "log"
    disk.plan = [3, full()]
    disk.always = full()
    writer = LineWriter(Sink.file(path), messages, retry=RETRY)
    writer.offer(b"first\nsecond\n", 2)
    until(lambda: disk.tries > 5)
    assert writer.broken
    assert writer.backlog == 13
    disk.always = None
    assert writer.close(10) == 0
    assert path.read_bytes() == b"first\nsecond\n"
    assert (writer.lost, writer.broken) == (0, False)
    assert messages.lines == [
        "error the access log takes no lines error=ENOSPC",
        "info the access log takes lines again lost=0",
    ]


@pytest.mark.threat(51)
def test_threat_51_the_end_does_not_wait_for_a_full_disk(tmp_path: Path, messages: KeptMessages, disk: Disk) -> None:
    disk.always = full()
    writer = LineWriter(Sink.file(tmp_path / "log"), messages, retry=RETRY)
    writer.offer(b"first\n", 1)
    writer.offer(b"second\nthird\n", 2)
    writer.close(0.05)
    until(lambda: writer.backlog == 0)
    assert writer.lost == 3


@pytest.mark.threat(51)
def test_threat_51_a_line_that_a_dead_disk_tore_is_ended_before_the_next(
    tmp_path: Path, messages: KeptMessages, disk: Disk
) -> None:
    path = tmp_path / "log"
    disk.plan = [9, OSError(errno.EIO, "Input/output error"), OSError(errno.EIO, "Input/output error")]
    writer = LineWriter(Sink.file(path), messages, retry=RETRY)
    writer.offer(b"first\nsecond\nthird\n", 3)
    writer.offer(b"fourth\n", 1)
    writer.offer(b"fifth\n", 1)
    assert writer.close(10) == 0
    assert path.read_bytes() == b"first\nsec\nfifth\n"
    assert writer.lost == 3


@pytest.mark.threat(51)
def test_threat_51_a_pipe_that_nobody_reads_loses_lines_and_nothing_else(messages: KeptMessages) -> None:
    reader, end = os.pipe()
    os.close(reader)
    writer = LineWriter(Sink(end), messages, retry=RETRY)
    writer.offer(b"first\nsecond\n", 2)
    writer.offer(b"third\n", 1)
    assert writer.close(10) == 0
    os.close(end)
    assert (writer.lost, writer.broken) == (3, True)
    assert messages.lines == ["error the access log takes no lines error=EPIPE"]


def test_a_descriptor_that_does_not_block_is_waited_for(messages: KeptMessages) -> None:
    reader, end = os.pipe()
    filled = fill(end)
    writer = LineWriter(Sink(end), messages, retry=RETRY)
    lines = b"".join(b"%0100d\n" % i for i in range(1000))
    writer.offer(lines, 1000)
    got = b""
    while len(got) < filled + len(lines):
        got += os.read(reader, 1000)
    assert writer.close(10) == 0
    os.close(end)
    os.close(reader)
    assert got[filled:] == lines
    assert (writer.lost, messages.lines) == (0, [])


def test_a_reader_that_stalls_holds_up_only_the_writers_thread(messages: KeptMessages) -> None:
    reader, end = os.pipe()
    filled = fill(end)
    os.set_blocking(end, True)
    writer = LineWriter(Sink(end), messages, retry=RETRY)
    writer.offer(b"first\n", 1)
    writer.offer(b"second\n", 1)
    assert writer.close(0.02) == 13
    assert writer.backlog == 13
    # Whoever reads at last still gets the line that was under way, whole.
    got = b""
    while len(got) < filled + 6:
        got += os.read(reader, 65536)
    until(lambda: writer.backlog == 0)
    assert got[filled:] == b"first\n"
    assert writer.lost == 1
    os.close(end)
    os.close(reader)


def test_after_rotation_lines_go_to_the_new_file(tmp_path: Path, messages: KeptMessages) -> None:
    path, old = tmp_path / "log", tmp_path / "log.1"
    writer = LineWriter(Sink.file(path), messages)
    writer.offer(b"first\n", 1)
    until(lambda: writer.backlog == 0)
    path.rename(old)
    writer.reopen()
    writer.offer(b"second\n", 1)
    assert writer.close(10) == 0
    assert (old.read_bytes(), path.read_bytes()) == (b"first\n", b"second\n")


def test_rotation_on_a_full_disk_moves_the_whole_line_over(tmp_path: Path, messages: KeptMessages, disk: Disk) -> None:
    path, old = tmp_path / "log", tmp_path / "log.1"
    disk.plan = [9]
    disk.always = full()
    writer = LineWriter(Sink.file(path), messages, retry=60)
    writer.offer(b"first\nsecond\n", 2)
    until(lambda: disk.tries == 2)
    path.rename(old)
    disk.always = None
    writer.reopen()
    assert writer.close(10) == 0
    assert (old.read_bytes(), path.read_bytes()) == (b"first\nsec", b"second\n")
    assert writer.lost == 0


def test_reopening_the_same_file_goes_on_within_the_line(tmp_path: Path, messages: KeptMessages, disk: Disk) -> None:
    path = tmp_path / "log"
    disk.plan = [9]
    disk.always = full()
    writer = LineWriter(Sink.file(path), messages, retry=60)
    writer.offer(b"first\nsecond\n", 2)
    until(lambda: disk.tries == 2)
    disk.always = None
    writer.reopen()
    assert writer.close(10) == 0
    assert path.read_bytes() == b"first\nsecond\n"


def test_a_failed_reopening_is_told_and_writing_goes_on(tmp_path: Path, messages: KeptMessages) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    writer = LineWriter(Sink.file(folder / "log"), messages)
    folder.rename(tmp_path / "moved")
    writer.reopen()
    writer.offer(b"first\n", 1)
    assert writer.close(10) == 0
    assert (tmp_path / "moved" / "log").read_bytes() == b"first\n"
    assert len(messages.lines) == 1
    assert messages.lines[0].endswith(" code=access_log_unusable")


@pytest.mark.parametrize("splits", [[1] * 20, [5, full(), 1, full(), 8], [6, full()]])
def test_however_writes_are_cut_lines_stay_whole(
    tmp_path: Path, messages: KeptMessages, disk: Disk, splits: list[int | OSError]
) -> None:
    reader, end = os.pipe()
    disk.plan = list(splits)
    writer = LineWriter(Sink(end), messages, retry=RETRY)
    for chunk in (b"first\n", b"second\nthird\n"):
        writer.offer(chunk, chunk.count(b"\n"))
    assert writer.close(10) == 0
    os.close(end)
    assert read_all(reader) == b"first\nsecond\nthird\n"
    os.close(reader)
