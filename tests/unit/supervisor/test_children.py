"""Children start with nothing of ours, and all that end are reaped."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from sidecar.supervisor.children import Children
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from pathlib import Path


def run(children: Children, code: str, **more: object) -> int:
    child = children.start([sys.executable, "-c", code], os.environ, **more)  # type: ignore[arg-type]  # as given

    def over() -> bool:
        children.reap()
        return children.ended(child) is not None

    eventually(over, "the child to end")
    ended = children.ended(child)
    assert ended is not None
    return ended


def test_how_it_ended() -> None:
    children = Children()
    assert run(children, "raise SystemExit(7)") == 7
    assert run(children, "import os; os.kill(os.getpid(), 9)") == -9


def test_the_program_may_be_another_one_than_it_is_called() -> None:
    children = Children()
    child = children.start(["/nowhere/python", "-c", "raise SystemExit(7)"], os.environ, program=sys.executable)
    eventually(lambda: (children.reap(), children.ended(child))[1] is not None, "the child to end")
    assert children.ended(child) == 7


@pytest.mark.parametrize(
    ("program", "error"), [("/nonexistent/x", FileNotFoundError), ("/etc/passwd", PermissionError)]
)
def test_what_cannot_be_started(program: str, error: type[OSError]) -> None:
    with pytest.raises(error):
        Children().start([program], os.environ)


def test_signals_are_as_by_default_whatever_ours_are(tmp_path: Path) -> None:
    shown = tmp_path / "status"
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        assert run(Children(), f"open({str(shown)!r}, 'w').write(open('/proc/self/status').read())") == 0
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    found = dict(line.split(":\t", 1) for line in shown.read_text().splitlines() if ":\t" in line)
    assert int(found["SigBlk"], 16) == 0
    # Python itself ignores SIGPIPE and SIGXFSZ; glibc two signals of its own.
    assert int(found["SigIgn"], 16) & 0x7FFFFFFF & ~(1 << 12 | 1 << 24) == 0


def test_of_our_descriptors_it_has_those_that_are_lent(tmp_path: Path) -> None:
    shown = tmp_path / "fds"
    code = f"import os; open({str(shown)!r}, 'w').write(' '.join(sorted(os.listdir('/proc/self/fd'), key=int)))"
    reading, writing = os.pipe()
    try:
        assert run(Children(), code) == 0
        without = set(map(int, shown.read_text().split()))
        assert run(Children(), code, inherited=[reading]) == 0
        lent = set(map(int, shown.read_text().split()))
        assert not os.get_inheritable(reading)
    finally:
        os.close(reading)
        os.close(writing)
    assert reading not in without
    assert writing not in lent
    assert reading in lent


def test_one_that_is_apart_has_a_session_and_no_input(tmp_path: Path) -> None:
    shown = tmp_path / "out"
    with shown.open("wb") as file:
        code = "import os, sys; print(os.getsid(0) == os.getpid(), repr(sys.stdin.read()))"
        assert run(Children(), code, output=file.fileno(), apart=True) == 0
    assert shown.read_text() == "True ''\n"


def test_a_signal_is_for_a_child_that_lives() -> None:
    children = Children()
    child = children.start([sys.executable, "-c", "import time; time.sleep(60)"], os.environ)
    children.send(child, signal.SIGKILL)

    def over() -> bool:
        children.reap()
        return children.ended(child) is not None

    eventually(over, "the child to end")
    children.send(child, signal.SIGKILL)  # nobody's number any more
    children.send(1, signal.SIGKILL)  # never ours
    assert children.ended(child) == -9
