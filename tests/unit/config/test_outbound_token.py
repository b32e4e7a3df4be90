from __future__ import annotations

import pytest

from sidecar.config.faults import ConfigCode
from tests.support.configuration import VALID, Workspace, edit, line_of

SOURCES = "tokens:\n  - {name: mesh, kind: self-signed, audience: https://tools.example.org}\n"


def entry(*keys: str, sources: str = SOURCES, text: str = VALID) -> str:
    return edit("    peer:", "".join(f"    {key}\n" for key in keys) + "    peer:", text) + sources


def outbound(workspace: Workspace, *keys: str) -> tuple[str | None, bytes, bytes]:
    found = workspace.load(entry(*keys)).config.outbound[0]
    return found.token, found.token_header, found.token_scheme


def test_a_source_is_named_and_a_field(workspace: Workspace) -> None:
    assert outbound(workspace) == (None, b"Authorization", b"Bearer")
    assert outbound(workspace, "token: mesh") == ("mesh", b"Authorization", b"Bearer")
    assert outbound(workspace, "token: mesh", 'token_header: "authorization: DPoP"') == (
        "mesh",
        b"authorization",
        b"DPoP",
    )
    assert outbound(workspace, "token: mesh", "token_header: X-Api-Key") == ("mesh", b"X-Api-Key", b"")


def test_a_source_that_is_not_there(workspace: Workspace) -> None:
    text = entry("token: mash")
    fault = workspace.fault(text)
    assert (fault.code, fault.key, fault.line) == (
        ConfigCode.UNKNOWN_TOKEN,
        "outbound[0].token",
        line_of(text, "token: mash"),
    )
    assert (fault.message, fault.hint) == ('tokens has no source "mash"', "known are mesh")
    assert workspace.fault(entry("token: mesh", sources="")).hint == "add it, or correct the name"


@pytest.mark.parametrize(
    ("sources", "key"),
    [
        (SOURCES.replace("audience: https://tools.example.org", "audience: ''"), "tokens[0].audience"),
        (SOURCES.replace("kind: self-signed", "kind: x"), "tokens[0].kind"),
        (SOURCES.replace("name: mesh", "name: MESH"), "tokens[0].name"),
        ("tokens:\n", "tokens"),
        ("tokens: mesh\n", "tokens"),
        ("tokens: [mesh]\n", "tokens[0]"),
    ],
)
def test_a_source_that_is_faulty_may_be_there(workspace: Workspace, sources: str, key: str) -> None:
    """One fault for one mistake."""
    assert workspace.fault(entry("token: mesh", sources=sources)).key == key


def test_a_field_for_no_token(workspace: Workspace) -> None:
    text = entry("token_header: X-Api-Key")
    fault = workspace.fault(text)
    assert (fault.code, fault.key, fault.line) == (
        ConfigCode.NO_TOKEN,
        "outbound[0].token_header",
        line_of(text, "token_header"),
    )
    assert fault.message == "token_header is there, and no token to put into it"


@pytest.mark.parametrize(
    "header", ["Host", "Transfer_Encoding", "'Content-Length: Bearer'", "x-sidecar-caller", "'a b'"]
)
def test_a_field_that_cannot_have_it(workspace: Workspace, header: str) -> None:
    fault = workspace.fault(entry("token: mesh", f"token_header: {header}"))
    assert (fault.code, fault.key) == (ConfigCode.BAD_FIELD_NAME, "outbound[0].token_header")


def test_a_scheme_needs_quotes(workspace: Workspace) -> None:
    fault = workspace.fault(entry("token: mesh", "token_header: Authorization: Bearer"))
    assert (fault.code, "quotes" in fault.hint) == (ConfigCode.SYNTAX, True)


def test_bytes_get_no_token(workspace: Workspace) -> None:
    tcp = edit("    hosts: [tools.internal]\n", "    protocol: tcp\n")
    faults = workspace.faults(entry("token: mesh", "token_header: X-Api-Key", text=tcp))
    assert [(fault.code, fault.key, fault.message) for fault in faults] == [
        (
            ConfigCode.NOT_FOR_TCP,
            f"outbound[0].{key}",
            f"{key} is not used by protocol tcp: nobody looks for requests in its bytes",
        )
        for key in ("token", "token_header")
    ]
