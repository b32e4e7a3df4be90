from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.config.faults import ConfigCode
from sidecar.tokens.settings import ExecSource, FileSource, Keeping, SelfSignedSource
from tests.support.configuration import VALID, Workspace, line_of

if TYPE_CHECKING:
    from sidecar.tokens.settings import SourceSettings


def sources(*lines: str) -> str:
    """The valid file with these sources, each on a line of its own."""
    return VALID + "tokens:\n" + "".join(f"  - {line}\n" for line in lines)


def source(workspace: Workspace, line: str) -> SourceSettings:
    (found,) = workspace.load(sources(line)).config.tokens
    return found


MESH = "{name: mesh, kind: self-signed, audience: https://tools.example.org}"
POD = "{name: pod, kind: file, path: tokens/tools}"
CLI = "{name: cli, kind: exec, command: [get-token, --audience, tools, '']}"


def test_a_file_without_sources_has_none(workspace: Workspace) -> None:
    assert workspace.load().config.tokens == ()


def test_each_kind_with_its_defaults(workspace: Workspace) -> None:
    assert workspace.load(sources(MESH, POD, CLI)).config.tokens == (
        SelfSignedSource("mesh", "https://tools.example.org", 300.0, Keeping(cache=True, helper=False)),
        FileSource("pod", workspace.folder / "tokens/tools", Keeping(max_lifetime=900.0)),
        ExecSource("cli", ("get-token", "--audience", "tools", ""), 10.0),
    )


def test_each_kind_with_all_its_keys(workspace: Workspace) -> None:
    keeping = Keeping(cache=False, max_lifetime=86400.0, helper=True)
    kept = "cache: none, helper: true"
    assert source(workspace, MESH.replace("}", f", lifetime: 10s, {kept}}}")) == SelfSignedSource(
        "mesh", "https://tools.example.org", 10.0, Keeping(cache=False, helper=True)
    )
    assert source(workspace, POD.replace("}", f", max_lifetime: 24h, {kept}}}")) == FileSource(
        "pod", workspace.folder / "tokens/tools", keeping
    )
    assert source(workspace, CLI.replace("}", f", timeout: 5m, max_lifetime: 24h, {kept}}}")) == ExecSource(
        "cli", ("get-token", "--audience", "tools", ""), 300.0, keeping
    )


@pytest.mark.parametrize(
    ("program", "found"),
    [("get-token", "get-token"), ("./get-token", "{}/get-token"), ("bin/x", "{}/bin/x"), ("/bin/x", "/bin/x")],
)
def test_a_program_is_a_name_or_a_path_from_the_folder_of_the_file(
    workspace: Workspace, program: str, found: str
) -> None:
    got = source(workspace, f"{{name: cli, kind: exec, command: [{program}]}}")
    assert isinstance(got, ExecSource)
    assert got.command == (found.format(workspace.folder),)


def test_a_token_file_need_not_be_there_and_is_not_read(workspace: Workspace) -> None:
    (workspace.folder / "token").write_text("secret")
    (workspace.folder / "token").chmod(0o644)
    loaded = workspace.load(sources(POD.replace("tokens/tools", "token"), POD.replace("name: pod", "name: b")))
    assert not any("token" in path.name for path in loaded.snapshot.paths)


# What is wrong: (the source, code, key below tokens[0], message)
BAD = {
    "no name": ("{kind: file, path: a}", ConfigCode.MISSING_KEY, "name", "the key is missing"),
    "a bad name": ("{name: A, kind: file, path: a}", ConfigCode.BAD_NAME, "name", '"A" is not a name'),
    "no kind": ("{name: a, path: a}", ConfigCode.MISSING_KEY, "kind", "the key is missing"),
    "another kind": (
        "{name: a, kind: vault, path: a}",
        ConfigCode.BAD_CHOICE,
        "kind",
        '"vault" is not one of the choices',
    ),
    "kind without a value": ("{name: a, kind: }", ConfigCode.NO_VALUE, "kind", "the key has no value"),
    "a key nobody has": (
        MESH.replace("}", ", foo: 1}"),
        ConfigCode.UNKNOWN_KEY,
        "foo",
        "the key is unknown",
    ),
    "a key of another kind": (
        MESH.replace("}", ", issuer: https://a.b}"),
        ConfigCode.MISPLACED_KEY,
        "issuer",
        "issuer belongs to kind: oauth2",
    ),
    "a key of other kinds": (
        MESH.replace("}", ", timeout: 1s}"),
        ConfigCode.MISPLACED_KEY,
        "timeout",
        "timeout belongs to kind: oauth2 or kind: exec",
    ),
    "a self-signed token is not capped twice": (
        MESH.replace("}", ", max_lifetime: 1m}"),
        ConfigCode.MISPLACED_KEY,
        "max_lifetime",
        "max_lifetime belongs to kind: oauth2 or kind: file or kind: exec",
    ),
    "audience of a file": (
        POD.replace("}", ", audience: a}"),
        ConfigCode.MISPLACED_KEY,
        "audience",
        "audience belongs to kind: oauth2 or kind: self-signed",
    ),
    "no audience": ("{name: a, kind: self-signed}", ConfigCode.NO_AUDIENCE, "audience", "no audience is named"),
    "an empty audience": (
        "{name: a, kind: self-signed, audience: ''}",
        ConfigCode.BAD_TEXT,
        "audience",
        "this is not 1 to 1024 printable characters without blanks around them",
    ),
    "audiences": (
        "{name: a, kind: self-signed, audience: [a, b]}",
        ConfigCode.WRONG_TYPE,
        "audience",
        "this is a list, expected a single value",
    ),
    "a short life": (
        MESH.replace("}", ", lifetime: 9s}"),
        ConfigCode.OUT_OF_RANGE,
        "lifetime",
        '"9s" is not between 10s and 5m',
    ),
    "a long life": (
        MESH.replace("}", ", lifetime: 301s}"),
        ConfigCode.OUT_OF_RANGE,
        "lifetime",
        '"301s" is not between 10s and 5m',
    ),
    "no path": ("{name: a, kind: file}", ConfigCode.MISSING_KEY, "path", "the key is missing"),
    "a shell's path": (
        "{name: a, kind: file, path: $HOME/x}",
        ConfigCode.BAD_PATH,
        "path",
        '"$HOME/x" is not a path',
    ),
    "kept for no time": (
        POD.replace("}", ", max_lifetime: 999ms}"),
        ConfigCode.OUT_OF_RANGE,
        "max_lifetime",
        '"999ms" is not between 1s and 24h',
    ),
    "kept elsewhere": (
        POD.replace("}", ", cache: disk}"),
        ConfigCode.BAD_CHOICE,
        "cache",
        '"disk" is not one of the choices',
    ),
    "a helper perhaps": (
        POD.replace("}", ", helper: yes}"),
        ConfigCode.BAD_CHOICE,
        "helper",
        '"yes" is neither true nor false',
    ),
    "no command": ("{name: a, kind: exec}", ConfigCode.MISSING_KEY, "command", "the key is missing"),
    "an empty command": (
        "{name: a, kind: exec, command: []}",
        ConfigCode.EMPTY_LIST,
        "command",
        "the list is empty",
    ),
    "a command for a shell": (
        "{name: a, kind: exec, command: get-token --audience tools}",
        ConfigCode.WRONG_TYPE,
        "command",
        "this is a single value, expected a list",
    ),
    "a program without a name": (
        "{name: a, kind: exec, command: ['']}",
        ConfigCode.BAD_PATH,
        "command",
        '"" is not a path',
    ),
    "NUL in an argument": (
        '{name: a, kind: exec, command: [a, "b\\0"]}',
        ConfigCode.BAD_CHARACTER,
        "command[1]",
        "the value holds the character U+0000",
    ),
    "a slow program": (
        CLI.replace("}", ", timeout: 301s}"),
        ConfigCode.OUT_OF_RANGE,
        "timeout",
        '"301s" is not between 100ms and 5m',
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_fault_is_named_with_its_place(workspace: Workspace, case: str) -> None:
    line, code, key, message = BAD[case]
    fault = workspace.fault(sources(line))
    assert (fault.code, fault.key, fault.message) == (code, f"tokens[0].{key}", message)
    assert fault.line == line_of(sources(line), f"  - {line}")
    assert fault.hint or code is ConfigCode.OUT_OF_RANGE or "list, expected" in message


def test_a_hint_says_which_kinds_there_are(workspace: Workspace) -> None:
    fault = workspace.fault(sources("{name: a}"))
    assert fault.hint == "add kind: oauth2 or self-signed or file or exec"
    assert workspace.fault(sources("{name: a, kind: x}")).hint == "write oauth2 or self-signed or file or exec"


def test_names_are_unique_also_where_sources_are_faulty(workspace: Workspace) -> None:
    faults = workspace.faults(sources(MESH, POD.replace("pod", "mesh"), "{name: mesh}", "{name: mesh, kind: file}"))
    assert [(fault.code, fault.key) for fault in faults] == [
        (ConfigCode.DUPLICATE_NAME, "tokens[1].name"),
        (ConfigCode.MISSING_KEY, "tokens[2].kind"),
        (ConfigCode.DUPLICATE_NAME, "tokens[2].name"),
        (ConfigCode.MISSING_KEY, "tokens[3].path"),
        (ConfigCode.DUPLICATE_NAME, "tokens[3].name"),
    ]
    line = line_of(VALID + "tokens:\n", "tokens:\n") + 1
    assert faults[0].message == f"another source has this name, on line {line}"


def test_names_of_sources_are_their_own(workspace: Workspace) -> None:
    assert workspace.load(sources(MESH.replace("name: mesh", "name: out")))


def test_every_fault_of_every_source_is_found(workspace: Workspace) -> None:
    faults = workspace.faults(sources("{name: A, kind: x}", "{name: b, kind: file, path: ~/x, cache: x}", "a"))
    assert [fault.key for fault in faults] == [
        "tokens[0].kind",
        "tokens[0].name",
        "tokens[1].path",
        "tokens[1].cache",
        "tokens[2]",
    ]
