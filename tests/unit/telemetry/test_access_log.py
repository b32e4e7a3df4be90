from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidecar.telemetry.access_log import AccessLog, LogLimits
from sidecar.telemetry.record import Event, Record
from sidecar.telemetry.sink import Sink
from tests.support.log import KeptMessages, fill, until

if TYPE_CHECKING:
    from collections.abc import Callable


class Loop:
    """``call_later`` whose time a test moves."""

    def __init__(self) -> None:
        self.due: list[tuple[float, Callable[[], object]]] = []

    def __call__(self, delay: float, callback: Callable[[], object], /) -> None:
        self.due.append((delay, callback))

    def fire(self) -> None:
        due, self.due = self.due, []
        for _, callback in due:
            callback()


def record(number: int = 0, path: str = "/mcp") -> Record:
    return Record(time=1_800_000_000.0, event=Event.REQUEST, http_path=path, bytes_sent=number)


class Setup:
    def __init__(self, sink: Sink, *, deny: bool = False, limits: LogLimits | None = None) -> None:
        self.loop = Loop()
        self.messages = KeptMessages()
        self.log = AccessLog(
            sink,
            later=self.loop,
            messages=self.messages,
            deny_when_full=deny,
            limits=limits or LogLimits(close_seconds=10.0),
        )

    def settle(self) -> None:
        until(lambda: self.log._writer.backlog == 0)


def numbers(data: bytes) -> list[int]:
    return [json.loads(line)["bytes_sent"] for line in data.splitlines()]


def test_lines_wait_for_each_other_and_leave_together(tmp_path: Path) -> None:
    path = tmp_path / "log"
    setup = Setup(Sink.file(path))
    for i in range(3):
        setup.log.write(record(i))
    assert [delay for delay, _ in setup.loop.due] == [0.1]
    assert path.read_bytes() == b""
    setup.loop.fire()
    setup.settle()
    assert numbers(path.read_bytes()) == [0, 1, 2]
    setup.log.write(record(3))
    assert len(setup.loop.due) == 1
    assert setup.log.close() == 0
    assert numbers(path.read_bytes()) == [0, 1, 2, 3]
    setup.loop.fire()


def test_an_urgent_line_leaves_at_once_behind_those_before_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    setup = Setup(Sink.file(path))
    setup.log.write(record(0))
    setup.log.write(record(1), urgent=True)
    setup.settle()
    assert numbers(path.read_bytes()) == [0, 1]
    setup.log.close()


def test_a_blocks_worth_leaves_without_waiting(tmp_path: Path) -> None:
    path = tmp_path / "log"
    setup = Setup(Sink.file(path), limits=LogLimits(flush_bytes=300))
    while setup.log._size or not path.read_bytes():
        setup.log.write(record())
        setup.settle()
    assert 300 <= len(path.read_bytes()) < 450
    setup.log.close()


@pytest.mark.threat(51)
def test_threat_51_a_sink_that_stalls_drops_lines_and_counts_them() -> None:
    reader, end = os.pipe()
    filled = fill(end)
    os.set_blocking(end, True)
    setup = Setup(Sink(end), limits=LogLimits(backlog_bytes=2000, close_seconds=10.0))
    for i in range(100):
        setup.log.write(record(i), urgent=True)
    taken = 100 - setup.log.dropped
    assert 2000 / 120 <= taken <= 2000 / 60
    assert setup.log.full is False  # log_full: drop
    got = b""
    while len(got) <= filled or got.count(b"\n") < taken:
        got += os.read(reader, 65536)
    assert numbers(got[filled:]) == list(range(taken))
    # Its reader is back: so is the log.
    setup.settle()
    setup.log.write(record(100))
    assert setup.log.close() == 0
    assert numbers(os.read(reader, 65536)) == [100]
    assert setup.log.dropped == 100 - taken
    os.close(end)
    os.close(reader)


@pytest.mark.threat(51)
def test_threat_51_with_deny_the_log_is_full_while_there_is_room_for_requests_in_flight() -> None:
    reader, end = os.pipe()
    filled = fill(end)
    os.set_blocking(end, True)
    setup = Setup(Sink(end), deny=True, limits=LogLimits(backlog_bytes=4000, close_seconds=10.0))
    count = 0
    while not setup.log.full:
        setup.log.write(record(count), urgent=True)
        count += 1
    assert setup.log.dropped == 0
    setup.log.write(record(count))
    assert setup.log.dropped == 0
    os.set_blocking(reader, True)
    got = b""
    while len(got) <= filled or got.count(b"\n") < count:
        got += os.read(reader, 65536)
    setup.settle()
    assert setup.log.full is False
    setup.log.close()
    os.close(end)
    os.close(reader)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.threat(51)
@pytest.mark.parametrize("deny", [True, False])
def test_threat_51_a_full_disk_is_survived(deny: bool) -> None:
    setup = Setup(Sink(os.open("/dev/full", os.O_WRONLY)), deny=deny, limits=LogLimits(close_seconds=0.02))
    setup.log.write(record(), urgent=True)
    until(lambda: setup.log._writer.broken)
    assert setup.log.full is deny
    setup.log.write(record())
    setup.log.close()
    until(lambda: setup.log.dropped == 2)
    os.close(setup.log._writer._sink.fd)
    assert setup.messages.lines == ["error the access log takes no lines error=ENOSPC"]


@pytest.mark.threat(51)
def test_threat_51_with_deny_a_broken_pipe_is_full_until_it_is_mended(tmp_path: Path) -> None:
    reader, end = os.pipe()
    os.close(reader)
    setup = Setup(Sink(end), deny=True)
    setup.log.write(record(0), urgent=True)
    until(lambda: setup.log.dropped == 1)
    assert setup.log.full is True
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(file, end)
    # The line about a request that was denied for it is what tries again.
    setup.log.write(record(1), urgent=True)
    until(lambda: setup.log.full is False)
    setup.log.close()
    os.close(file)
    os.close(end)
    assert numbers((tmp_path / "log").read_bytes()) == [1]


def test_rotation_parts_the_lines_where_it_was_asked_for(tmp_path: Path) -> None:
    path, old = tmp_path / "log", tmp_path / "log.1"
    setup = Setup(Sink.file(path))
    setup.log.write(record(0), urgent=True)
    setup.settle()
    path.rename(old)
    setup.log.reopen()
    setup.log.write(record(1))
    setup.log.close()
    assert numbers(old.read_bytes()) == [0]
    assert numbers(path.read_bytes()) == [1]


def test_what_comes_after_the_end_is_counted(tmp_path: Path) -> None:
    setup = Setup(Sink.file(tmp_path / "log"))
    assert setup.log.close() == 0
    assert setup.log.close() == 0
    setup.log.write(record())
    assert setup.log.dropped == 1
