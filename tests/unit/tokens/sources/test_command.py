from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.sources import command as module
from sidecar.tokens.sources.command import MAX_OUTPUT, output_of
from tests.support.eventually import soon
from tests.support.token_sources import alive

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = sys.executable


async def run(program: str, *arguments: str, seconds: float = 20, environ: dict[str, str] | None = None) -> bytes:
    return await output_of((PYTHON, "-c", program, *arguments), os.environ if environ is None else environ, seconds)


async def refused(*words: str, seconds: float = 20) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await output_of(words, os.environ, seconds)
    return caught.value


def unreaped(pid: int) -> bool:
    """Says whether a process is a child of ours that nobody has waited for."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


async def test_its_output_byte_for_byte() -> None:
    assert await run(r"import sys; sys.stdout.buffer.write(b'a\r\n\0\xff')") == b"a\r\n\0\xff"
    assert await run("") == b""


async def test_no_shell_reads_the_words() -> None:
    assert await run("import sys; print(sys.argv[1:])", "$HOME; true", "", "a b") == b"['$HOME; true', '', 'a b']\n"


async def test_its_input_is_empty_and_its_errors_are_lost() -> None:
    assert await run("import sys; print(repr(sys.stdin.read())); print('secret', file=sys.stderr)") == b"''\n"


async def test_a_session_of_its_own() -> None:
    assert await run("import os; print(os.getpid() == os.getsid(0) == os.getpgrp())") == b"True\n"


async def test_its_environment() -> None:
    assert await run("import os; print(os.environ.get('A'), os.environ.get('HOME'))", environ={"A": "b"}) == b"b None\n"


async def test_no_descriptor_of_ours() -> None:
    # What a C library opened without CLOEXEC: the session with a device.
    ours = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(ours, True)
    try:
        found = await run("import os; print(*sorted(map(int, os.listdir('/proc/self/fd'))))")
    finally:
        os.close(ours)
    assert str(ours).encode() not in found.split()
    assert len(found.split()) <= 4  # its three, and the folder that it reads


async def test_it_is_found_in_the_path(tmp_path: Path) -> None:
    helper = tmp_path / "a-helper-of-ours"
    helper.write_text("#!/bin/sh\necho a-token\n")
    helper.chmod(0o755)
    assert await output_of(("a-helper-of-ours",), {"PATH": str(tmp_path)}, 20) == b"a-token\n"


async def test_what_cannot_be_started(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("echo\n")
    script = tmp_path / "script"
    script.write_text("#!/nowhere/interpreter\n")
    script.chmod(0o755)
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\x7fELF garbage")
    garbage.chmod(0o755)
    for name in (
        str(tmp_path / "absent"),
        "absent-8d7f",
        str(plain),
        str(script),
        str(garbage),
        str(tmp_path),
        "a\0b",
        "",
    ):
        error = await refused(name, "secret")
        assert error.code is SourceCode.COMMAND
        assert error.hint
        assert "secret" not in str(error)


@pytest.mark.parametrize(
    ("program", "said"), [("raise SystemExit(3)", "exit status 3"), ("import os; os.kill(os.getpid(), 9)", "signal 9")]
)
async def test_what_fails_says_how(program: str, said: str) -> None:
    error = await refused(PYTHON, "-c", f"print('secret', flush=True)\n{program}")
    assert error.code is SourceCode.COMMAND
    assert said in str(error)
    assert f"uid {os.geteuid()}" in error.hint
    assert "secret" not in str(error)


async def test_the_most_that_it_may_print(tmp_path: Path) -> None:
    assert len(await run(f"print('a' * {MAX_OUTPUT - 1})")) == MAX_OUTPUT
    pid = tmp_path / "pid"
    error = await refused(
        PYTHON, "-c", f"import os; open({str(pid)!r}, 'w').write(str(os.getpid()))\nwhile True: print('a' * 9999)"
    )
    assert error.code is SourceCode.COMMAND
    assert "64 KiB" in str(error)
    await soon(lambda: not alive(int(pid.read_text())), "its end")


#: A process and its child; the child holds the output, or closes it, and the other ends at once or waits for it.
FAMILY = """
if [ "$3" = closes ]; then sleep 60 >&- & else sleep 60 & fi
echo "$!" >>"$1"
echo "$$" >>"$1"
[ "$2" = leader-ends ] || wait
"""


def family(pids: Path, kind: str, output: str = "holds") -> tuple[str, ...]:
    return ("/bin/sh", "-c", FAMILY, "sh", str(pids), kind, output)


@pytest.mark.parametrize("kind", ["both-stay", "leader-ends"])
async def test_at_the_time_limit_all_of_it_is_killed(tmp_path: Path, kind: str) -> None:
    pids = tmp_path / "pids"
    error = await refused(*family(pids, kind), seconds=1)
    assert error.code is SourceCode.COMMAND_TIMEOUT
    assert "1 s" in str(error)
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) == 2
    await soon(lambda: not any(map(alive, started)), "their end")


async def test_who_ignores_signals_is_killed_too(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = 'trap "" TERM HUP INT; echo "$$" >"$1"; while :; do sleep 60; done'
    error = await refused("/bin/sh", "-c", program, "sh", str(pid), seconds=1)
    assert error.code is SourceCode.COMMAND_TIMEOUT
    await soon(lambda: not alive(int(pid.read_text())), "its end")


async def test_cancelled_all_of_it_is_killed_and_reaped(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    task = asyncio.get_running_loop().create_task(output_of(family(pids, "both-stay"), os.environ, 60))
    await soon(lambda: pids.exists() and pids.read_text().count("\n") == 2, "both processes")
    started = [int(pid) for pid in pids.read_text().split()]
    threads = [thread for thread in threading.enumerate() if thread.name == "token-command"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await soon(lambda: not any(map(alive, started)), "their end")
    await soon(lambda: not any(thread.is_alive() for thread in threads), "the end of the thread")
    assert not any(map(unreaped, started))


async def test_cancelled_before_it_began_nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, ended, begun = threading.Event(), threading.Event(), []
    call = module._Run.__call__

    def late(run: module._Run) -> bytes:
        go_on.wait(20)
        try:
            return call(run)
        finally:
            ended.set()

    monkeypatch.setattr(module._Run, "__call__", late)
    monkeypatch.setattr(module.subprocess, "Popen", lambda *_, **__: begun.append(1))
    task = asyncio.get_running_loop().create_task(output_of((PYTHON, "-c", ""), os.environ, 60))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await soon(ended.is_set, "the end of the thread")
    assert begun == []


async def test_what_it_leaves_behind_after_a_success_is_left_alone(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    await output_of(family(pids, "leader-ends", "closes"), os.environ, 20)
    left = [int(pid) for pid in pids.read_text().split() if alive(int(pid))]
    assert len(left) == 1
    os.kill(left[0], signal.SIGKILL)


async def test_many_at_once() -> None:
    outputs = await asyncio.gather(*(run(f"print({number})") for number in range(20)))
    assert outputs == [f"{number}\n".encode() for number in range(20)]


async def test_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert (await refused(PYTHON)).code is SourceCode.BUSY


async def test_no_descriptor_stays_open() -> None:
    await run("")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - numbers are all that is wanted
    for _ in range(10):
        await run("print(1)")
        await refused(PYTHON, "-c", "raise SystemExit(1)")
        await refused("/nowhere/at/all")
    await soon(lambda: len(os.listdir("/proc/self/fd")) <= before, "all to be closed")  # noqa: PTH208 - as above
