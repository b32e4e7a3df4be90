"""`sidecar demo` as a user runs it: the story comes true, in time, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import termios
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jwt
import pytest

from tests.support.machine import missing

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("mcp")

#: Where a software TPM can be had, the sidecars have their keys in one, and the story has a step more.
IN_TPM = not (missing("swtpm") or missing("tpm2-pytss"))
STEPS = (
    *("set-up", "named caller", "unnamed caller", "impostor", "spoofed identity", "no certificate", "stolen token"),
    *(["copied key"] if IN_TPM else []),
)
PROCESSES = 6 if IN_TPM else 4
SECONDS = 60
#: What every JWT looks like: its header and claims begin with a brace.
A_TOKEN = re.compile(r"eyJ[\w-]+\.eyJ[\w-]+\.[\w-]+")


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    """Ours, with a place for temporary files that can be looked at afterwards, and without a wish for colours."""
    (tmp_path / "tmp").mkdir(exist_ok=True)
    colours = {"FORCE_COLOR", "NO_COLOR", "COLUMNS", "CLICOLOR_FORCE"}
    kept = {name: value for name, value in os.environ.items() if name not in colours}
    return kept | {"TMPDIR": str(tmp_path / "tmp")} | more


def demo(tmp_path: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sidecar", "demo", *arguments],
        env=environment(tmp_path, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


class Running:
    """A demo in the background, whose output is read as it comes."""

    def __init__(self, tmp_path: Path, *arguments: str) -> None:
        self.tmp_path = tmp_path
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sidecar", "demo", *arguments],
            env=environment(tmp_path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # As a shell starts it: Ctrl-C is not ignored, whatever the test runner's own shell did.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        )

    def until(self, words: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.text += line
            if words in line:
                return
        pytest.fail(f"ended before {words!r}:\n{self.text}")

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=SECONDS)
        self.text += rest
        return self.process.returncode


@contextlib.contextmanager
def running(tmp_path: Path, *arguments: str) -> Iterator[Running]:
    made = Running(tmp_path, *arguments)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.process.terminate()
        if made.process.stdout is not None:
            made.process.stdout.close()
        made.process.wait(SECONDS)


def pids(text: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"pid (\d+):", text)]


def places_at_work(tmp_path: Path) -> list[Path]:
    """Where Linux tells of the programs that run in a demo's folder; elsewhere none is seen."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended while we looked, or somebody else's
            if (entry / "cwd").readlink().is_relative_to(tmp_path / "tmp"):
                found.append(entry)
    return found


def at_work(tmp_path: Path) -> list[str]:
    """Those programs, with their arguments."""
    found = []
    for entry in places_at_work(tmp_path):
        with contextlib.suppress(OSError):  # ended while we looked
            found.append((entry / "cmdline").read_text().replace("\0", " "))
    return found


def nothing_is_left(tmp_path: Path, text: str) -> None:
    assert list((tmp_path / "tmp").iterdir()) == []
    assert at_work(tmp_path) == []
    for pid in pids(text):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


class Told(NamedTuple):
    tmp_path: Path
    result: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """One run at a width at which nothing that is looked for is broken."""
    tmp_path = tmp_path_factory.mktemp("demo")
    return Told(tmp_path, demo(tmp_path, "--width", "160"))


def test_the_whole_story(told: Told) -> None:
    result = told.result
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    table = result.stdout.rpartition("expected  ")[2]
    for step in STEPS:
        assert re.search(rf"^ \d  {step} .* ok$", table, re.MULTILINE), step
    seconds = re.search(r"every step behaved as it should; ([\d.]+) s", result.stdout)
    assert seconds
    assert float(seconds[1]) < SECONDS, "how fast it is depends on what else the machine does"
    assert len(pids(result.stdout)) == PROCESSES
    nothing_is_left(told.tmp_path, result.stdout)


def test_the_story_shows_what_it_claims(told: Told) -> None:
    out = told.result.stdout
    parts = dict(zip(STEPS, re.split(r"^\d  ", out, flags=re.MULTILINE)[1:], strict=False))
    for agent in ("planner", "tools"):
        assert len(re.findall(f"spiffe://example.org/agent/{agent}/1", parts["named caller"])) >= 3
    denial = re.search(r"decision_id: (\w+)", parts["unnamed caller"])
    assert denial
    assert re.search(rf"decision\.id +{denial[1]}\n", parts["unnamed caller"])
    assert re.search(r"decision\.reason +caller_not_named\n", parts["unnamed caller"])
    assert re.search(r"received then +0 bytes", parts["impostor"])
    assert re.search(r"x-sidecar-caller +spiffe://example.org/agent/planner/1\n", parts["spoofed identity"])
    assert re.search(r"decision\.reason +no_certificate\n", parts["no certificate"])
    assert "PRIVATE KEY" not in out
    assert not A_TOKEN.search(out)


@pytest.mark.threat(22)
def test_a_stolen_token_is_of_no_use(told: Told) -> None:
    out = told.result.stdout
    part = re.split(r"^\d  ", out, flags=re.MULTILINE)[1:][STEPS.index("stolen token")]
    assert "no Authorization: no credential in any of its requests" in part
    own = re.search(r"Hash=(\w{64});", part)
    assert own
    assert re.search(rf"cnf\.x5t#S256 +{own[1]}\n", part)
    served, replayed, bare = part.split("access log of the tools' sidecar")[1:]
    (token,) = set(re.findall(r"token\.id +(\S+)\n", part))
    for log, caller in ((served, "planner"), (replayed, "rogue"), (bare, "rogue")):
        assert f"src.identity     spiffe://example.org/agent/{caller}/1\n" in log.replace(
            "identity   s", "identity     s"
        )
    for log in (served, replayed):
        assert re.search(
            rf"token\.subject +spiffe://example.org/agent/planner/1\n +token\.id +{re.escape(token)}\n", log
        )
    assert re.search(r"decision\.reason +token_bound_elsewhere\n", replayed)
    assert re.search(r"incident +token_bound_elsewhere\n", replayed)
    assert re.search(r"decision\.reason +token_missing\n", bare)
    assert "incident  " not in bare
    assert part.count("WWW-Authenticate: Bearer") == 2


@pytest.mark.threat(21)
def test_the_token_is_nowhere_but_in_its_receiver(tmp_path: Path) -> None:
    """Neither what is printed, nor a log, nor a program's arguments and environment hold it."""
    with running(tmp_path, "--keep", "--width", "160") as kept:
        kept.until("Ctrl-C ends it")
        port = re.search(r"MCP server on 127\.0\.0\.1:(\d+)", kept.text)
        folder = re.search(r"real processes on this machine, in (\S+)", kept.text)
        assert port
        assert folder
        with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/leak", timeout=SECONDS) as answer:
            canary = answer.read().decode()
        assert A_TOKEN.fullmatch(canary)
        # It is the one that the story is about.
        claims = jwt.decode(canary, options={"verify_signature": False})
        assert f"token.id       {claims['jti']}\n" in kept.text
        held = {
            path: path.read_bytes() for path in Path(folder[1]).rglob("*") if path.is_file() and not path.is_socket()
        }
        assert {"tools.log", "planner.log", "thief.out", "planner-with-token.out"} <= {path.name for path in held}
        for name in ("cmdline", "environ"):
            held |= {entry / name: (entry / name).read_bytes() for entry in places_at_work(tmp_path)}
        for part in (canary, *canary.split(".")):
            assert not [path for path, data in held.items() if part.encode() in data]
            assert part not in kept.text
        assert kept.end(signal.SIGINT) == 0
    assert not A_TOKEN.search(kept.text)


@pytest.mark.needs("swtpm", "tpm2-pytss")
def test_keys_in_a_software_tpm_are_shown_as_what_they_are(told: Told) -> None:
    out = told.result.stdout
    assert out.count("key_protection tpm (swtpm, a software TPM: shows the code path, protects nothing)") == 2
    for agent in ("planner", "tools"):
        assert f"sidecar certs init certs --agent {agent} --key tpm:tcti=swtpm:path={agent}.tpm" in out
    assert out.count("software key\n") == 2  # the rogue and the impostor
    assert "the TPM did not make this wrapped key" in out
    assert "the planner's TPM is a program: who copies planner-tpm/ too has the key" in out


def test_without_swtpm_keys_are_in_files_and_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    result = demo(tmp_path, PATH=str(tmp_path / "bin"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "apt-get install swtpm" in result.stdout
    assert result.stdout.count("key_protection software\n") == 2
    assert "key_protection tpm" not in result.stdout
    assert len(pids(result.stdout)) == 4
    assert "copied key" not in result.stdout


def test_a_pipe_gets_plain_lines_of_80_columns(tmp_path: Path) -> None:
    result = demo(tmp_path)
    assert result.returncode == 0
    assert "\x1b" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_an_encoding_without_boxes_and_proxies_of_the_user_do_not_matter(tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9"
    result = demo(
        tmp_path, PYTHONIOENCODING="ascii", HTTP_PROXY=nowhere, http_proxy=nowhere, ALL_PROXY=nowhere, NO_PROXY="*"
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.isascii()


@pytest.mark.needs("curl")
def test_kept_running_its_commands_work_until_ctrl_c(tmp_path: Path) -> None:
    with running(tmp_path, "--keep") as kept:
        kept.until("Ctrl-C ends it")
        script = [line[3:] for line in kept.text.partition("another terminal:")[2].splitlines() if line[:3] == "   "]
        commands = "\n".join(line for line in script if not line.startswith("#")).replace("\\\n", " ").splitlines()
        folder = commands[0].removeprefix("cd ")
        assert Path(folder).is_dir()
        said = {}
        for command in commands[1:]:
            result = subprocess.run(
                ["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False
            )
            said[command] = (result.returncode, result.stdout)
        assert len(said) >= 9
        for command, (code, text) in said.items():
            stranger = command.startswith("curl -k https")  # closed by the sidecar: a failure for curl
            assert (code != 0) if stranger else (code == 0 and text), command
        assert next(text for command, (_, text) in said.items() if "--cert" in command).startswith('{"error":"denied"')
        assert "spiffe://example.org/agent/planner/1" in next(t for c, (_, t) in said.items() if "/headers" in c)
        assert kept.end(signal.SIGINT) == 0
    nothing_is_left(tmp_path, kept.text)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str
)
@pytest.mark.parametrize("moment", ["real processes", "3  An agent"])
def test_a_signal_in_the_middle_leaves_nothing(tmp_path: Path, moment: str, number: signal.Signals, code: int) -> None:
    with running(tmp_path) as begun:
        begun.until(moment)
        # Its software TPMs are there before its first line is.
        if IN_TPM and sys.platform == "linux":
            assert sum(program.startswith("swtpm ") for program in at_work(tmp_path)) == 2
        assert begun.end(number) == code
    assert "Traceback" not in begun.text
    nothing_is_left(tmp_path, begun.text)


def test_a_reader_that_goes_away_leaves_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as begun:
        begun.until("pid")
        assert begun.process.stdout is not None
        begun.process.stdout.close()
        assert begun.process.wait(SECONDS) == 1
    nothing_is_left(tmp_path, begun.text)


def test_a_part_that_does_not_start_is_named_with_what_it_said(tmp_path: Path) -> None:
    fake = tmp_path / "fake" / "mcp"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text("raise RuntimeError('this mcp is broken')\n")
    result = demo(tmp_path, PYTHONPATH=str(fake.parent))
    assert result.returncode == 1
    assert "FAILED" in result.stdout
    assert "tools ended before ready" in result.stdout
    assert "this mcp is broken" in result.stdout
    assert "not run" in result.stdout
    assert result.stderr == ""
    nothing_is_left(tmp_path, result.stdout)


def test_two_demos_at_once(tmp_path: Path) -> None:
    with running(tmp_path) as one, running(tmp_path) as other:
        for each in (one, other):
            each.until("every step behaved as it should")
            assert each.process.wait(SECONDS) == 0


def in_a_terminal(tmp_path: Path, columns: int, *arguments: str) -> str:
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (40, columns))
    with subprocess.Popen(
        [sys.executable, "-m", "sidecar", "demo", *arguments],
        env=environment(tmp_path, TERM="xterm-256color"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        text = b""
        with contextlib.suppress(OSError):  # on Linux the end of a terminal is an error
            while piece := os.read(ours, 65536):
                text += piece
        os.close(ours)
        assert process.wait(SECONDS) == 0, text.decode()
    return text.decode()


def test_a_terminal_gets_colours_and_its_width(tmp_path: Path) -> None:
    text = in_a_terminal(tmp_path, 100)
    assert "\x1b[1;32mok" in text
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in text.splitlines()]
    assert 80 < max(map(len, plain)) <= 100


def test_a_terminal_gets_no_colours_when_told_so(tmp_path: Path) -> None:
    text = in_a_terminal(tmp_path, 80, "--no-color")
    assert not set(re.findall(r"\x1b\[([0-9;]*)m", text)) - {"0", "1", "2"}
