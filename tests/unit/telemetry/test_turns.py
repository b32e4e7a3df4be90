from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import termios
import threading
from array import array
from typing import TYPE_CHECKING

import pytest

from sidecar.telemetry.sink import Sink
from sidecar.telemetry.turns import Turns
from sidecar.telemetry.writer import LineWriter
from tests.support.log import KeptMessages, until

if TYPE_CHECKING:
    from pathlib import Path

PROCESSES = 4
LINES = 400

#: Writes lines from 10 bytes to three times what a pipe takes whole, gathered as the access log gathers them.
WRITE = """
import json, sys
from sidecar.telemetry.messages import Messages
from sidecar.telemetry.sink import Sink
from sidecar.telemetry.turns import Turns
from sidecar.telemetry.writer import LineWriter
from pathlib import Path
descriptor, name, where, lines = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
sink = Sink.stdout() if where == "stdout" else Sink.file(Path(where))
writer = LineWriter(sink, Messages(lambda: 0.0), turns=Turns(descriptor))
for n in range(lines):
    text = json.dumps({"of": name, "n": n, "text": "x" * (n * 37 % 12_000)}) + "\\n"
    writer.offer(text.encode(), 1)
sys.exit(writer.close(60))
"""

#: Writes a line that no pipe takes whole.
TEAR = """
import sys
from sidecar.telemetry.messages import Messages
from sidecar.telemetry.sink import Sink
from sidecar.telemetry.turns import Turns
from sidecar.telemetry.writer import LineWriter
writer = LineWriter(Sink.stdout(), Messages(lambda: 0.0), turns=Turns(int(sys.argv[1])))
writer.offer(b'{"of": "victim", "text": "' + b"x" * 200_000 + b'"}\\n', 1)
writer.close(60)
"""

HOLD = """
import sys, time
from sidecar.telemetry.turns import Turns
Turns(int(sys.argv[1])).take(bool)
print(flush=True)
time.sleep(99)
"""


def start(turns: Turns, name: str, where: str, stdout: int | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WRITE, str(turns.descriptor), name, where, str(LINES)]
    return subprocess.Popen(command, pass_fds=(turns.descriptor,), stdout=stdout)


def check(lines: list[bytes]) -> None:
    found = [json.loads(line) for line in lines]
    for process in range(PROCESSES):
        assert [line["n"] for line in found if line["of"] == str(process)] == list(range(LINES))


def test_lines_of_several_processes_stay_whole_in_a_file(tmp_path: Path) -> None:
    turns = Turns.make()
    started = [start(turns, str(n), str(tmp_path / "log")) for n in range(PROCESSES)]
    assert [process.wait(60) for process in started] == [0] * PROCESSES
    turns.close()
    check((tmp_path / "log").read_bytes().splitlines())


@pytest.mark.parametrize("blocking", [True, False])
def test_lines_of_several_processes_stay_whole_in_a_pipe(blocking: bool) -> None:
    """Longer ones than PIPE_BUF too, and a reader that is slow enough to have them cut."""
    reading, writing = os.pipe()
    os.set_blocking(writing, blocking)
    turns = Turns.make()
    started = [start(turns, str(n), "stdout", writing) for n in range(PROCESSES)]
    os.close(writing)
    data = b""
    while more := os.read(reading, 5000):
        data += more
    os.close(reading)
    assert [process.wait(60) for process in started] == [0] * PROCESSES
    turns.close()
    check(data.splitlines())


def test_a_process_that_dies_in_its_turn_stops_nobody() -> None:
    turns = Turns.make()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(turns.descriptor)], pass_fds=(turns.descriptor,), stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    assert not turns.take(lambda: True), "it is the other's turn"
    threading.Timer(0.1, holder.kill).start()
    assert turns.take(bool)
    turns.end()
    holder.wait(10)
    holder.stdout.close()
    turns.close()


@pytest.mark.skipif(sys.platform != "linux", reason="how much a pipe holds is asked of Linux")
def test_the_line_at_which_a_process_died_is_ended_by_the_next_one() -> None:
    """It was killed with more to write than the pipe took: what follows is a line of its own all the same."""
    reading, writing = os.pipe()
    size = fcntl.fcntl(reading, fcntl.F_GETPIPE_SZ)
    turns = Turns.make()
    victim = subprocess.Popen(
        [sys.executable, "-c", TEAR, str(turns.descriptor)], pass_fds=(turns.descriptor,), stdout=writing
    )
    until(lambda: waiting_in(reading) == size)
    victim.kill()
    victim.wait(10)
    keep = os.dup(1)
    os.dup2(writing, 1)
    try:
        writer = LineWriter(Sink.stdout(), KeptMessages(), turns=turns)
        for text in (b'{"of": "us"}\n', b'{"of": "us", "n": 2}\n'):
            writer.offer(text, 1)
        data = os.read(reading, size)
        assert writer.close(10) == 0
    finally:
        os.dup2(keep, 1)
        os.close(keep)
        os.close(writing)
    while more := os.read(reading, size):
        data += more
    os.close(reading)
    turns.close()
    *_, torn, first, second = data.splitlines()
    assert torn.startswith(b'{"of": "victim"')
    assert (first, second) == (b'{"of": "us"}', b'{"of": "us", "n": 2}')


def waiting_in(pipe: int) -> int:
    """How many bytes a pipe holds."""
    found = array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, found)
    return found[0]


def test_a_line_that_is_given_up_is_ended_by_another_process_and_a_whole_one_is_not() -> None:
    turns = Turns.make()
    for torn in (True, False, True):
        assert turns.take(bool)
        turns.end(torn=torn)
        assert turns.take(bool)
        assert turns.torn is torn
        turns.end()
    turns.close()


def test_each_sink_has_turns_of_its_own_and_the_same_ones_every_time(tmp_path: Path) -> None:
    turns = Turns.make()
    ours, again, other = turns.of(tmp_path / "log"), Turns(turns.descriptor).of(tmp_path / "log"), turns.of(None)
    assert turns.of(tmp_path / "log") is ours
    assert other is turns
    assert ours.take(bool)
    assert not turns.of(tmp_path / "log").take(lambda: True)
    assert other.take(lambda: True)
    assert not other.torn
    ours.end(torn=True)
    other.end()
    assert again.take(bool)
    assert again.torn, "as another process finds it"
    again.end()
    turns.close()


def test_two_threads_of_one_process_take_turns_as_well(tmp_path: Path) -> None:
    turns = Turns.make()
    assert turns.take(bool)
    assert not turns.take(lambda: True)
    messages = KeptMessages()
    writer = LineWriter(Sink.file(tmp_path / "log"), messages, turns=turns, retry=1.0)
    writer.offer(b"a\n", 1)
    assert (tmp_path / "log").read_bytes() == b""
    turns.end()
    until(lambda: (tmp_path / "log").read_bytes() == b"a\n")
    assert turns.take(bool)
    writer.offer(b"b\n", 1)
    writer.close(0.05)
    assert (writer.lost, writer.backlog) == (1, 0), "given up at the end"
    turns.end()
    turns.close()
