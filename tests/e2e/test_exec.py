"""``sidecar exec``: the agent runs behind a proxy that is ready, is told where it is, and its end is the end of both."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import execution as module
from tests.support.eventually import eventually
from tests.support.execution import Execution
from tests.support.processes import COMMAND, listens
from tests.support.workers import children

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Sidecar, Site


def gone(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


@pytest.fixture
def tools(site: Site, backend: Backend) -> Sidecar:
    return site.tools(backend)


SLEEP = "import signal, sys; {}; print('up', flush=True); sys.stdin.read()"


def test_the_agent_starts_when_the_proxy_is_ready_and_its_code_is_ours(site: Site, tools: Sidecar) -> None:
    code = f"import socket; socket.create_connection(('127.0.0.1', {tools.port()})).close(); raise SystemExit(7)"
    execution = Execution(site, tools, code)
    assert execution.end() == 7
    assert "draining" in execution.stderr
    assert not listens(tools.port())


def test_a_signal_that_ends_the_agent_is_its_code(site: Site, tools: Sidecar) -> None:
    assert Execution(site, tools, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)").end() == 128 + 9


def test_its_end_is_heard_of_where_whoever_started_us_ignores_the_end_of_children(site: Site, tools: Sidecar) -> None:
    code = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    shows = "import signal; raise SystemExit(7 if signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL else 8)"
    assert Execution(site, tools, shows, wrapper=(sys.executable, "-c", code)).end() == 7


def test_the_proxy_finds_its_modules_where_we_did(site: Site, tools: Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMAND", [sys.executable, "-I", "-m", "sidecar"])
    running = Execution(site, tools, SLEEP.format("pass"))
    assert running.line() == "up"
    assert Path(f"/proc/{running.proxy}/cmdline").read_bytes().split(b"\0")[1] == b"-I"
    running.process.stdin.close()  # type: ignore[union-attr]  # it is a pipe
    assert running.end() == 0


def test_streams_are_the_agents_and_what_the_proxy_prints_goes_to_standard_error(site: Site, tools: Sidecar) -> None:
    del tools.config["access_log"]  # standard output
    execution = Execution(site, tools, "import sys; print(sys.stdin.readline() * 2, end='', flush=True)")
    execution.tell("a protocol")
    assert execution.end() == 0
    assert execution.process.stdout is not None
    assert execution.process.stdout.read() == "a protocol\na protocol\n"
    assert '"event":"start"' in execution.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
def test_the_agent_inherits_nothing_of_the_hardening_and_no_descriptor(site: Site, tools: Sidecar) -> None:
    code = (
        "import ctypes, os, resource\n"
        "status = dict(x.split(':\t', 1) for x in open('/proc/self/status').read().splitlines() if ':\t' in x)\n"
        "print(status['NoNewPrivs'], ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))\n"
        "print(int(status['SigBlk'], 16), sorted(map(int, os.listdir('/proc/self/fd')))[:-1])\n"
    )
    execution = Execution(site, tools, code)
    assert execution.line() == f"0 1 {resource_limits()}"
    assert execution.line() == "0 [0, 1, 2]"
    assert execution.end() == 0


def resource_limits() -> tuple[int, int]:
    import resource

    return resource.getrlimit(resource.RLIMIT_CORE)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
def test_the_proxy_is_hardened_all_the_same(site: Site, tools: Sidecar) -> None:
    execution = Execution(site, tools, SLEEP.format("pass"))
    assert execution.line() == "up"
    assert "NoNewPrivs:\t1" in Path(f"/proc/{execution.proxy}/status").read_text()
    assert "NoNewPrivs:\t0" in Path(f"/proc/{execution.process.pid}/status").read_text()
    assert os.getsid(execution.proxy) == execution.proxy, "what a terminal sends does not reach it"


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]
)
def test_signals_go_to_the_agent_and_its_answer_counts(site: Site, tools: Sidecar, number: signal.Signals) -> None:
    handler = f"signal.signal({int(number)}, lambda *_: sys.exit(42))"
    execution = Execution(site, tools, SLEEP.format(handler))
    assert execution.line() == "up"
    execution.process.send_signal(number)
    assert execution.end() == 42
    assert "draining" in execution.stderr


def test_a_signal_that_the_agent_does_not_mind_changes_nothing(site: Site, tools: Sidecar) -> None:
    execution = Execution(site, tools, SLEEP.format("signal.signal(15, lambda *_: print('heard', flush=True))"))
    assert execution.line() == "up"
    for _ in range(3):
        execution.process.send_signal(signal.SIGTERM)
        assert execution.line() == "heard"
    assert listens(tools.port())
    assert execution.process.stdin is not None
    execution.process.stdin.close()
    assert execution.end() == 0


def test_a_proxy_that_dies_takes_the_agent_along(site: Site, tools: Sidecar) -> None:
    execution = Execution(site, tools, SLEEP.format("signal.signal(15, lambda *_: sys.exit(3))"))
    assert execution.line() == "up"
    os.kill(execution.proxy, signal.SIGKILL)
    assert execution.end() == 1
    assert "sidecar: the proxy ended by signal 9" in execution.stderr


def test_a_supervisor_that_is_killed_leaves_no_proxy(site: Site, tools: Sidecar) -> None:
    execution = Execution(site, tools, SLEEP.format("pass"))
    assert execution.line() == "up"
    proxy = execution.proxy
    site.owns(lambda: gone(proxy) or os.kill(proxy, signal.SIGKILL))
    execution.process.kill()
    eventually(lambda: gone(proxy), "the proxy to end by itself")
    assert "draining" in execution.stderr


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ({"identity": {"certificate": "no.crt", "key": "tools.key", "trust": {"example.org": "ca.crt"}}}, "no.crt"),
        ({"surprise": True}, "surprise"),
    ],
)
def test_a_file_that_is_wrong_starts_no_agent(site: Site, tools: Sidecar, edit: dict[str, Any], expected: str) -> None:
    tools.config |= edit
    execution = Execution(site, tools, "print('started')")
    assert execution.end() == 2
    assert expected in execution.stderr
    assert execution.line() == ""


def test_a_port_that_is_taken_starts_no_agent(site: Site, tools: Sidecar, backend: Backend) -> None:
    tools.config["inbound"][0]["listen"] = f"127.0.0.1:{backend.port}"
    tools.config["inbound"][0]["forward"] = "http://127.0.0.1:1"
    execution = Execution(site, tools, "print('started')")
    assert execution.end() == 1
    assert "cannot listen on" in execution.stderr
    assert execution.line() == ""


def test_another_sidecar_at_the_same_socket_is_not_taken_for_ours(site: Site, tools: Sidecar) -> None:
    tools.start()
    other = site.sidecar("other", inbound=tools.config["inbound"])
    other.config["admin"] = tools.config["admin"]
    execution = Execution(site, other, "print('started')")
    assert execution.end() == 1
    assert execution.line() == ""


def test_a_proxy_that_is_not_ready_in_time_starts_no_agent(site: Site, tools: Sidecar) -> None:
    execution = Execution(site, tools, "print('started')", "--ready-timeout", "0.001")
    assert execution.end() == 1
    assert "the proxy was not ready after 0.001 s: starting" in execution.stderr
    assert execution.line() == ""


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (("no-such-program",), 127, "no-such-program is not there"),
        (("/etc/passwd",), 126, "/etc/passwd cannot be executed: permission denied"),
        ((), 2, "which agent?"),
        (("--nonsense",), 2, "--nonsense stands behind the file"),
    ],
)
def test_an_agent_that_cannot_be_started(
    site: Site, tools: Sidecar, words: tuple[str, ...], code: int, expected: str
) -> None:
    tools.write()
    done = site.command("exec", "tools.yaml", *([] if words[:1] == ("--nonsense",) else ["--"]), *words)
    assert done.returncode == code
    assert expected in done.stderr
    assert "ready" not in done.stderr, "nothing was started"


def test_an_interpreter_that_is_not_there_is_found_late_and_named(site: Site, tools: Sidecar) -> None:
    tools.write()
    script = site.path("agent")
    script.write_text("#!/nonexistent/interpreter\n")
    script.chmod(0o755)
    done = site.command("exec", "tools.yaml", "--", str(script))
    assert done.returncode == 127
    assert "is not there" in done.stderr
    assert "draining" in done.stderr


def test_what_stands_behind_the_dashes_is_the_agents(site: Site, tools: Sidecar) -> None:
    tools.write()
    show = "import sys; print(sys.argv[1:])"
    done = site.command("exec", "tools.yaml", "--", sys.executable, "-c", show, "--help", "--", "-x")
    assert done.stdout == "['--help', '--', '-x']\n"
    done = site.command("exec", "tools.yaml", sys.executable, "-c", show, "-v")
    assert done.stdout == "['-v']\n", "the dashes may be left out"


@pytest.mark.needs("root", "unshare")
def test_as_process_1_it_reaps_what_others_leave_behind(site: Site, tools: Sidecar) -> None:
    code = (
        "import os, subprocess, sys, time\n"
        "assert os.getppid() == 1\n"
        "for _ in range(3):\n"  # a child that leaves its own child behind, which then ends
        "    subprocess.run(['sh', '-c', 'sleep 0.05 & exit 0'], check=True)\n"
        "def zombies():\n"
        "    states = []\n"
        "    for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "        try: states.append(open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[0])\n"
        "        except OSError: pass\n"
        "    return states.count('Z'), len(states)\n"
        "end = time.monotonic() + 20\n"
        "while zombies()[0] or zombies()[1] > 3:\n"
        "    assert time.monotonic() < end, zombies()\n"
        "    time.sleep(0.02)\n"
        "print(zombies(), flush=True)\n"
        "sys.exit(5)\n"
    )
    execution = Execution(site, tools, code, wrapper=PROCESS_1)
    assert execution.line() == "(0, 3)", execution.stderr
    assert execution.end() == 5


#: Nothing but what comes before the command is loaded; says so, and waits.
FIRST_MOMENTS = """
import signal, sys, types
sys.modules["sidecar.cli"] = cli = types.ModuleType("sidecar.cli")
def wait():
    print("loaded", flush=True)
    while True: signal.pause()
cli.main = wait
from sidecar.__main__ import main
sys.exit(main())
"""
PROCESS_1 = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@pytest.mark.needs("root", "unshare")
def test_as_process_1_it_can_be_ended_before_anything_is_loaded(site: Site) -> None:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True}
    process = site.process(*PROCESS_1, sys.executable, "-c", FIRST_MOMENTS, **pipes)
    assert process.stdout.readline() == "loaded\n"
    (inside,) = children(process.pid)
    os.kill(inside, signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM


@pytest.mark.needs("root", "unshare")
def test_as_process_1_it_obeys_as_soon_as_it_can_hear(site: Site, tools: Sidecar) -> None:
    """Whatever it is at by then: reading the file, waiting for the proxy, or passing the signal on."""
    execution = Execution(site, tools, SLEEP.format("pass"), wrapper=PROCESS_1)
    eventually(lambda: any(catches(pid, signal.SIGTERM) for pid in children(execution.process.pid)), "a handler")
    (inside,) = children(execution.process.pid)
    os.kill(inside, signal.SIGTERM)
    assert execution.end() == 128 + signal.SIGTERM


def test_any_other_process_keeps_what_ends_it(site: Site) -> None:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True}
    process = site.process(sys.executable, "-c", FIRST_MOMENTS, **pipes)
    assert process.stdout.readline() == "loaded\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    with contextlib.suppress(OSError):
        caught = re.search(r"^SigCgt:\t([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="how Ctrl-C is told from kill is of Linux")
def test_ctrl_c_reaches_the_agent_once_and_the_proxy_not_at_all(site: Site, tools: Sidecar) -> None:
    tools.write()
    code = (
        "import signal, sys, threading\n"
        "heard = []\n"
        "signal.signal(signal.SIGINT, lambda *_: (heard.append(1), print('interrupted', flush=True)))\n"
        "signal.signal(signal.SIGUSR1, lambda *_: (print(f'heard {len(heard)}', flush=True), sys.exit(0)))\n"
        "print('up', flush=True)\n"
        "while True: signal.pause()\n"
    )
    terminal = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    )
    ours, theirs = os.openpty()
    inner = [*COMMAND, "exec", "tools.yaml", "--", sys.executable, "-c", code]
    with subprocess.Popen(
        [sys.executable, "-c", terminal, *inner],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=site.folder,
        start_new_session=True,
        text=True,
    ) as process:
        os.close(theirs)
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "up\n"
        os.write(ours, b"\x03")
        assert process.stdout.readline() == "interrupted\n", "the terminal has signalled its whole group by then"
        eventually(lambda: pending_is_over(process.pid), "the supervisor to have seen it")
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "heard 1\n"
        said = process.stderr.read()
    os.close(ours)
    assert process.returncode == 0
    assert re.search("draining", said)


def pending_is_over(pid: int) -> bool:
    """Says whether no signal waits for a process to take it."""
    text = Path(f"/proc/{pid}/status").read_text()
    return all(int(value, 16) == 0 for value in re.findall(r"^(?:Sig|Shd)Pnd:\t([0-9a-f]+)$", text, re.MULTILINE))


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own proxies are not the tests'."""
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
