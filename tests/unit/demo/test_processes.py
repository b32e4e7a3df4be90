from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.demo import processes
from sidecar.demo.outcome import UnexpectedError
from sidecar.demo.processes import Crew, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAMS = {
    "patient": "import time\nprint('here', flush=True)\ntime.sleep(60)\n",
    "stubborn": "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('here', flush=True)\ntime.sleep(60)\n",
    "failing": "import sys\nprint('first\\nlast', file=sys.stderr)\nsys.exit(3)\n",
    "answering": "import sys, os, json\nprint('noise')\nprint(json.dumps([sys.argv[1:], os.environ.get('X_TEST')]))\n",
    "silent": "",
}


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    for name, text in PROGRAMS.items():
        (tmp_path / f"demo_{name}.py").write_text(text)
    made = Crew(tmp_path)
    yield made
    made.stop()


def start(crew: Crew, name: str) -> processes.Process:
    return crew.start(name, f"demo_{name}", extra={"PYTHONPATH": str(crew.folder)})


def here(process: processes.Process) -> bool:
    return process.stdout.read_text() == "here\n"


def test_a_process_is_ended(crew: Crew) -> None:
    process = start(crew, "patient")
    process.until(lambda: here(process), "here")
    assert process.alive
    crew.stop()
    assert process.popen.returncode == -signal.SIGTERM
    assert not crew.processes


def test_a_stubborn_process_is_killed(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "FAREWELL", 0.1)
    process = start(crew, "stubborn")
    process.until(lambda: here(process), "here")
    crew.stop()
    assert process.popen.returncode == -signal.SIGKILL


def test_a_process_does_not_get_our_ctrl_c(crew: Crew) -> None:
    process = start(crew, "patient")
    assert os.getsid(process.popen.pid) != os.getsid(0)


def test_a_signal_while_a_process_starts_leaves_it_to_somebody(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    popen = subprocess.Popen

    def interrupted(*arguments: Any, **more: Any) -> subprocess.Popen[bytes]:
        made: subprocess.Popen[bytes] = popen(*arguments, **more)
        signal.raise_signal(signal.SIGINT)
        return made

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        crew.launch("sleeper", "sleep", "60")
    assert [process.name for process in crew.processes] == ["sleeper"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_early_end_is_told_with_what_it_said(crew: Crew) -> None:
    process = start(crew, "failing")
    with pytest.raises(UnexpectedError) as caught:
        process.until(lambda: False, "ready")
    assert str(caught.value) == "failing ended before ready"
    assert caught.value.detail == "first\nlast\n(exit code 3)"
    assert crew.last_words() == "failing:\nfirst\nlast\n(exit code 3)"


def test_waiting_ends(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 0.05)
    process = start(crew, "patient")
    with pytest.raises(UnexpectedError) as caught:
        process.until(lambda: False, "ready")
    assert "not ready within" in str(caught.value)
    assert crew.last_words() == ""


def test_asking_a_program(crew: Crew) -> None:
    extra = {"PYTHONPATH": str(crew.folder), "X_TEST": "yes"}
    assert crew.ask("answering", "demo_answering", "a", crew.folder, extra=extra) == [["a", str(crew.folder)], "yes"]
    assert not crew.processes


def test_a_program_that_fails_is_waited_for_and_forgotten(crew: Crew) -> None:
    process = crew.finish(start(crew, "failing"))
    assert process.popen.returncode == 3
    assert not crew.processes
    assert crew.last_words() == ""


def test_a_program_that_does_not_end_is_told_and_still_ended_with_the_others(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 0.05)
    process = start(crew, "patient")
    with pytest.raises(UnexpectedError, match="not ended within"):
        crew.finish(process)
    assert crew.processes == [process]


@pytest.mark.parametrize("name", ["failing", "silent"])
def test_a_program_without_an_answer(crew: Crew, name: str) -> None:
    with pytest.raises(UnexpectedError) as caught:
        crew.ask(name, f"demo_{name}", extra={"PYTHONPATH": str(crew.folder)})
    assert str(caught.value) == f"{name} failed"
    assert "exit code" in caught.value.detail


def test_proxies_of_the_user_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "https_proxy", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://elsewhere")
    made = environment({"HTTP_PROXY": "http://127.0.0.1:1"})
    assert {name: value for name, value in made.items() if "proxy" in name.lower()} == {
        "HTTP_PROXY": "http://127.0.0.1:1"
    }
    assert made["PATH"] == os.environ["PATH"]
