from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from bench.errors import CouldNotRunError
from bench.processes import ROOT, Crew, environment
from bench.usage import cpu_seconds, family, resident_bytes
from tests.support.eventually import eventually

pytestmark = pytest.mark.needs("setpriv")

FOREVER = (sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()")


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    with suppress(OSError):  # it may vanish while it is looked at
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_process_runs_on_its_core_and_ends_with_the_block(tmp_path: Path) -> None:
    core = max(os.sched_getaffinity(0))
    with Crew(tmp_path, core, core) as crew:
        process = crew.start("sleeper", core, *FOREVER)
        process.until(lambda: "up" in process.log.read_text(), "said so")
        assert os.sched_getaffinity(process.pid) == {core}
    assert process.popen.returncode == -signal.SIGTERM


def test_one_that_does_not_listen_to_sigterm_ends_too(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.processes.FAREWELL", 0.1)
    deaf = "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    process = crew.start("deaf", crew.load_core, sys.executable, "-c", deaf)
    process.until(lambda: "up" in process.log.read_text(), "said so")
    crew.end([process])
    assert process.popen.returncode == -signal.SIGKILL
    assert crew.processes == []


def test_children_that_are_left_behind_end_too(crew: Crew) -> None:
    parent = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'input()']).pid, flush=True)"
    process = crew.start("parent", crew.load_core, sys.executable, "-c", f"{parent}; input()")
    process.until(lambda: process.log.read_text().endswith("\n"), "started its child")
    child = int(process.log.read_text())
    assert family(process) == [process.pid, child]
    crew.end([process])
    eventually(lambda: not alive(child), "the child to end")


def test_what_dies_at_once_is_told_in_its_own_words(crew: Crew) -> None:
    code = "print('notice'); print('[emerg] no such port in %s/x' % __import__('os').getcwd()); print('bye')"
    process = crew.start("broken", crew.load_core, sys.executable, "-c", f"{code}; raise SystemExit(1)")
    with pytest.raises(CouldNotRunError, match=r"broken ended before it answered: \[emerg\] no such port"):
        process.until(lambda: False, "answered")


def test_what_never_answers_is_told(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.processes.PATIENCE", 0.05)
    process = crew.start("mute", crew.load_core, *FOREVER)
    with pytest.raises(CouldNotRunError, match="mute has not answered within"):
        process.until(lambda: False, "answered")


def test_a_program_answers_in_json_on_its_last_line(crew: Crew, tmp_path: Path) -> None:
    assert crew.ask("adder", "json.tool", "--compact", _file(tmp_path, '{"a": 1}'), seconds=1) == {"a": 1}


def test_a_program_that_fails_is_told(crew: Crew, tmp_path: Path) -> None:
    with pytest.raises(CouldNotRunError, match="adder failed: Expecting value"):
        crew.ask("adder", "json.tool", _file(tmp_path, "nonsense"), seconds=1)


def _file(folder: Path, text: str) -> Path:
    path = folder / "in.json"
    path.write_text(text)
    return path


def test_ports_and_paths_are_given_once(crew: Crew) -> None:
    ports = {crew.port() for _ in range(20)}
    paths = {crew.path("x") for _ in range(20)}
    assert len(ports) == len(paths) == 20


def test_a_port_that_is_taken_is_passed_over(crew: Crew) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", crew.port()))
        taken.listen()
        follower = Crew(crew.folder, 0, 0)
        assert taken.getsockname()[1] not in {follower.port() for _ in range(5)}


def test_nothing_of_another_network_reaches_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://elsewhere:1")
    monkeypatch.setenv("http_proxy", "http://elsewhere:1")
    kept = environment()
    assert not [name for name in kept if name.lower().endswith("_proxy")]
    assert kept["PYTHONPATH"] == str(ROOT)


def test_everything_ends_when_we_die_without_a_word(tmp_path: Path) -> None:
    """A run that is killed leaves no proxy behind."""
    core = min(os.sched_getaffinity(0))
    code = (
        "import sys, signal; from pathlib import Path; from bench.processes import Crew\n"
        f"crew = Crew(Path({str(tmp_path)!r}), {core}, {core})\n"
        f"process = crew.start('child', {core}, *{FOREVER!r})\n"
        "process.until(lambda: 'up' in process.log.read_text(), 'said so')\n"
        "print(process.pid, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    eventually(lambda: not alive(child), "the child to end")


# -- what the system says -----------------------------------------------------------------------------------------------


def test_cpu_time_counts_children_and_threads_that_have_ended(crew: Crew) -> None:
    busy = "import time\nwhile time.thread_time() < 0.1: pass\n"
    code = (
        "import subprocess, sys, threading, signal\n"
        f"thread = threading.Thread(target=exec, args=({busy!r}, {{}})); thread.start(); thread.join()\n"
        f"child = subprocess.Popen([sys.executable, '-c', {busy!r} + 'print(1, flush=True); input()'])\n"
        "signal.pause()"
    )
    process = crew.start("busy", crew.load_core, sys.executable, "-c", code)
    process.until(lambda: "1" in process.log.read_text(), "was busy")
    assert cpu_seconds([process]) >= 0.2
    assert cpu_seconds([process]) < time.monotonic()


def test_memory_is_told_for_each_process(crew: Crew) -> None:
    code = "import subprocess, sys; held = bytearray(b'x') * 50_000_000; subprocess.run([sys.executable, '-c', \"print('up', flush=True); input()\"])"
    process = crew.start("big", crew.load_core, sys.executable, "-c", code)
    process.until(lambda: "up" in process.log.read_text(), "said so")
    parent, child = resident_bytes([process])
    assert parent > 50_000_000 > child > 1_000_000


def test_a_process_that_has_ended_has_no_figures(crew: Crew) -> None:
    process = crew.start("short", crew.load_core, sys.executable, "-c", "print('it was nice')")
    process.popen.wait()
    for look in (cpu_seconds, resident_bytes):
        with pytest.raises(CouldNotRunError, match="short has ended: it was nice"):
            look([process])
