from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidecar import __version__
from sidecar.cli import COMMANDS, Command, main
from sidecar.errors import ConfigurationError, LocalError, PeerError
from sidecar.keys.errors import KeyCode

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

SECRET = "MHcCAQEEIA"  # what the text of an unexpected error may quote


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[argparse.Namespace], int]], None]:
    """Lets `sidecar run` be a function of the test."""

    def install(run: Callable[[argparse.Namespace], int]) -> None:
        module = types.ModuleType("sidecar.cli.fake")
        module.add_arguments = lambda parser: parser.add_argument("file")  # type: ignore[attr-defined]  # made here
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "sidecar.cli.fake", module)
        monkeypatch.setitem(COMMANDS, "run", Command("sidecar.cli.fake", "run the proxy"))

    return install


def raising(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def run(_: argparse.Namespace) -> int:
        raise error

    return run


def python(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env={**os.environ, **environ}
    )


def test_help_names_every_command_and_loads_none() -> None:
    code = (
        "import sys; from sidecar.cli import main; code = main(['--help']);"
        "loaded = [m for m in sys.modules if m.startswith('sidecar.cli.') and m != 'sidecar.cli.output'];"
        "heavy = [m for m in ('asyncio', 'ssl', 'cryptography', 'yaml', 'mcp') if m in sys.modules];"
        "sys.exit(code or bool(loaded or heavy))"
    )
    done = python("-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    for name, row in COMMANDS.items():
        assert f"    {name}" in done.stdout
        assert row.help in done.stdout
    assert "example:" in done.stdout
    assert "exit codes: 0 fine, 1 failed while running, 2 the configuration or the command line is wrong" in done.stdout


def test_one_command_does_not_load_another() -> None:
    code = (
        "import sys; from sidecar.cli import main; main(['check', '--help']);"
        "sys.exit(any(m in sys.modules for m in ('sidecar.cli.run', 'sidecar.cli.demo', 'sidecar.cli.certs', 'mcp')))"
    )
    assert python("-c", code).returncode == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: sidecar {name}")


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sidecar {__version__}\n"


@pytest.mark.parametrize(
    "argv", [[], ["chek", "x.yaml"], ["check"], ["check", "a", "b"], ["--verbose"], ["check", "--x"]]
)
def test_a_wrong_command_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "usage: sidecar" in said.err


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--vers"]) == 2
    assert "--vers" in capsys.readouterr().err


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_exit_code_is_the_command_s(command: Callable[..., None], code: int) -> None:
    command(lambda args: code if args.file == "x" else 99)
    assert main(["run", "x"]) == code


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigurationError(KeyCode.NO_KEY, "no key", hint="make one"), 2, "sidecar: no key\n    make one\n"),
        (ConfigurationError(KeyCode.NO_KEY, "no key"), 2, "sidecar: no key\n"),
        (LocalError(KeyCode.NO_KEY, "port in use", hint="stop it"), 1, "sidecar: port in use\n    stop it\n"),
        (PeerError(KeyCode.NO_KEY, "refused"), 1, "sidecar: refused\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 1, ""),
        (OSError(28, "No space left on device", "/x/log"), 1, "sidecar: No space left on device /x/log\n"),
        (OSError(28, "No space left on device"), 1, "sidecar: No space left on device\n"),
        (OSError(), 1, "sidecar: OSError\n"),
    ],
)
def test_what_a_user_sees_of_an_error(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    command(raising(error))
    assert main(["run", "x"]) == code
    assert capsys.readouterr().err == said


@pytest.mark.threat(60)
def test_threat_60_a_defect_shows_no_traceback_and_quotes_nothing(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIDECAR_DEBUG", raising=False)
    command(raising(ValueError(SECRET)))
    assert main(["run", "x"]) == 1
    said = capsys.readouterr()
    first, second, *rest = said.err.splitlines()
    assert first.startswith("sidecar: internal error: ValueError at test_main.py:")
    assert "report" in second
    assert "SIDECAR_DEBUG=1" in second
    assert rest == []
    assert SECRET not in said.out + said.err


def test_a_defect_with_its_traceback_on_request(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDECAR_DEBUG", "1")
    command(raising(ValueError("the cause")))
    assert main(["run", "x"]) == 1
    assert "Traceback" in capsys.readouterr().err
    command(raising(OSError(28, "full")))
    assert main(["run", "x"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_defect_in_a_command_that_cannot_even_be_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(COMMANDS, "run", Command("sidecar.cli.absent", "run"))
    assert main(["run", "x"]) == 1
    assert "internal error: ModuleNotFoundError" in capsys.readouterr().err


def test_python_dash_m() -> None:
    done = python("-m", "sidecar", "--version")
    assert (done.returncode, done.stdout) == (0, f"sidecar {__version__}\n")


def test_streams_take_names_that_their_encoding_cannot_hold(
    command: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    command(lambda _: 0 * sys.stdout.write("ä\udcff\n"))
    assert main(["run", "x"]) == 0
    assert raw.getvalue() == b"\\xe4\\udcff\n"


def test_a_process_of_ours_is_hardened_before_its_command_runs(
    command: Callable[[Callable[[argparse.Namespace], int]], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told: list[str] = []
    monkeypatch.setattr("sidecar.hardening.harden", lambda: told.append("hardened") or ["no\x1b prctl"])
    monkeypatch.setattr(sys, "argv", ["sidecar", "run", "planner.yaml"])
    command(lambda args: told.append(args.file) or 0)
    assert main() == 0
    assert told == ["hardened", "planner.yaml"]
    shown = capsys.readouterr().err
    assert shown.startswith("sidecar: warning: not hardened: no\\x1b prctl\n    ")
    assert main(["run", "planner.yaml"]) == 0
    assert told[2:] == ["planner.yaml"], "what calls us is not ours to harden"


def test_one_that_starts_the_users_programs_is_only_concealed(
    command: Callable[[Callable[[argparse.Namespace], int]], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command(lambda _: 0)
    monkeypatch.setitem(COMMANDS, "run", COMMANDS["run"]._replace(hardened=False))
    monkeypatch.setattr("sidecar.hardening.harden", lambda: pytest.fail("its children would inherit it"))
    monkeypatch.setattr("sidecar.hardening.conceal", lambda: ["no prctl"])
    monkeypatch.setattr(sys, "argv", ["sidecar", "run", "planner.yaml"])
    assert main() == 0
    assert "not hardened: no prctl" in capsys.readouterr().err


def test_every_command_is_hardened_but_those_that_start_programs_of_the_user() -> None:
    assert [name for name, row in COMMANDS.items() if not row.hardened] == ["exec", "demo"]


def test_the_readme_lists_every_command_as_help_does() -> None:
    page = (Path(__file__).parents[3] / "README.md").read_text()
    rows = re.findall(r"^\| `sidecar (\w+)[^|]* \| (.*) \|$", page, re.MULTILINE)
    assert rows == [(name, command.help) for name, command in COMMANDS.items()]
