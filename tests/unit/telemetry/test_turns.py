from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
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
