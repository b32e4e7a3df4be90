"""Signals are waited for one by one, both ways that a system may have; what the terminal sent is told from the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from sidecar.supervisor import signals as module
from sidecar.supervisor.signals import Received, Signals

WAYS = ["_Blocked", "_Handled"]
#: Waits for signals in a process of its own, where nothing else wants them.
CODE = """
import os, signal, sys
from sidecar.supervisor import signals
way = getattr(signals, sys.argv[1])
signals._Blocked = signals._Handled = way
with signals.Signals() as waiting:
    assert waiting.wait(0.01) is None
    for number in (signal.SIGTERM, signal.SIGUSR1):
        os.kill(os.getpid(), number)
        print(waiting.wait(10))
    print("waiting", flush=True)
    print(waiting.wait(10))
    if os.fork() == 0:
        os._exit(0)
    print(waiting.wait(10))
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize("way", WAYS)
def test_each_is_waited_for_and_afterwards_all_is_as_before(way: str) -> None:
    with subprocess.Popen([sys.executable, "-c", CODE, way], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert lines == [f"{Received(15)}\n", f"{Received(10)}\n", "waiting\n"]
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == f"{Received(2)}\n{Received(17)}\n"
    assert process.returncode == -signal.SIGTERM, "the default, again"


ON_A_TERMINAL = """
import fcntl, sys, termios
from sidecar.supervisor import signals
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signals._Blocked = signals._Handled = getattr(signals, sys.argv[1])
with signals.Signals() as waiting:
    print("ready", flush=True)
    print(waiting.wait(10))
"""


@pytest.mark.parametrize("way", WAYS)
def test_what_the_terminal_sent_went_to_everybody(way: str) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", ON_A_TERMINAL, way]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, start_new_session=True, text=True) as process:
        os.close(theirs)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.write(ours, b"\x03")
        assert process.stdout.read() == f"{Received(signal.SIGINT.value, everybody=True)}\n"
    os.close(ours)


def test_linux_has_the_exact_way() -> None:
    if sys.platform == "linux":
        assert isinstance(Signals()._patient, module._Blocked)
