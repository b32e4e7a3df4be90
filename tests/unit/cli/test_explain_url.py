"""What `sidecar explain --url` says is what the tables say that the proxy runs, for each way in which an agent may ask."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.cli import main
from tests.support.configuration import VALID

if TYPE_CHECKING:
    from pathlib import Path

PEER = "peer: spiffe://example.org/agent/tools/*"
ENTRIES = f"""\
outbound:
  - name: tools
    listen: 127.0.0.1:14001
    hosts: [tools.internal, other.internal:8080]
    connect: tools.example.org:8443
    {PEER}
    paths: [/mcp/**]
    methods: [GET, POST]
  - name: nameless
    listen: 127.0.0.1:14002
    connect: tools.example.org:8443
    {PEER}
  - name: raw
    listen: 127.0.0.1:14003
    protocol: tcp
    connect: tools.example.org:8443
    {PEER}
  - name: llm
    listen: 127.0.0.1:14004
    hosts: [api.example.com]
    connect: api.example.com:443
    tls: public
  - name: saas
    listen: 127.0.0.1:14005
    connect: saas.example.com:443
    tls: public
    passthrough: true
  - name: db
    listen: 127.0.0.1:14006
    hosts: [db.internal]
    protocol: tcp
    connect: tools.example.org:8443
    {PEER}
  - name: console
    listen: 127.0.0.1:14006
    hosts: ["db.internal:443"]
    connect: tools.example.org:8443
    {PEER}
  - name: one
    listen: 127.0.0.1:14007
    hosts: [both.internal]
    protocol: tcp
    connect: tools.example.org:8443
    {PEER}
  - name: two
    listen: 127.0.0.1:14008
    hosts: [both.internal]
    protocol: tcp
    connect: tools.example.org:8443
    {PEER}
"""


@pytest.fixture
def verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    (tmp_path / "planner.yaml").write_text(VALID[: VALID.index("inbound:")] + ENTRIES)
    monkeypatch.chdir(tmp_path)

    def ask(url: str, method: str = "GET") -> dict[str, str]:
        """Entry -> "allow" or the reason."""
        code = main(["explain", "planner.yaml", "--url", url, "--method", method, "--json"])
        out, err = capsys.readouterr()
        assert err == ""
        found = json.loads(out)
        said = {each["entry"]: each.get("reason", each["verdict"]) for each in found["entries"]}
        assert found["allowed"] is (code == 0) is ("allow" in said.values())
        return said

    return ask


@pytest.mark.parametrize(
    ("url", "entry", "expected"),
    [
        ("http://tools.internal/mcp", "tools", "allow"),
        ("http://TOOLS.internal:80/mcp?x=1", "tools", "allow"),
        ("http://other.internal:8080/mcp/x", "tools", "allow"),
        ("http://127.0.0.1:14001/mcp", "tools", "allow"),
        ("http://localhost:14001/mcp", "tools", "allow"),
        ("http://tools.internal:8080/mcp", "tools", "host_not_served"),
        ("http://tools.internal/admin", "tools", "path_not_allowed"),
        ("http://tools.internal/mcp/../x", "tools", "path_dot_segment"),
        ("https://tools.internal/mcp", "tools", "agent_tls"),
        ("https://elsewhere.internal/mcp", "tools", "host_not_served"),
        ("http://nameless/x", "nameless", "allow"),
        ("http://127.0.0.1:14002/x", "nameless", "allow"),
        ("http://raw/", "raw", "host_not_served"),
        ("https://raw/", "raw", "allow"),
        ("http://api.example.com/v1", "llm", "allow"),
        ("https://api.example.com/v1", "llm", "method_refused"),
        ("http://saas/", "saas", "host_not_served"),
        ("http://169.254.169.254/latest", "tools", "host_not_served"),
        ("http://127.0.0.1:14003/", "raw", "allow"),
        ("https://127.0.0.1:14003/", "raw", "allow"),
        ("https://db.internal:80/", "db", "allow"),
        ("https://db.internal/", "db", "host_not_served"),
        ("https://db.internal/", "console", "agent_tls"),
        ("http://db.internal:443/", "console", "allow"),
        ("http://127.0.0.1:14006/", "db", "host_not_served"),
        ("http://127.0.0.1:14006/", "console", "host_not_served"),
        ("https://both.internal/", "one", "host_not_served"),
        ("https://both.internal/", "two", "host_not_served"),
    ],
)
def test_each_way(verdicts: Any, url: str, entry: str, expected: str) -> None:
    assert verdicts(url)[entry] == expected


def test_one_entry_alone_takes_a_name(verdicts: Any) -> None:
    for url in ("http://tools.internal/mcp", "http://nameless/", "http://api.example.com/"):
        assert sorted(verdicts(url).values()).count("allow") == 1


def test_a_method_that_the_entry_does_not_take(verdicts: Any) -> None:
    assert verdicts("http://tools.internal/mcp", "PUT")["tools"] == "method_not_allowed"
    assert verdicts("http://nameless/", "TRACE")["nameless"] == "method_refused"


def test_people_read_where_it_leads_or_what_is_missing(
    tmp_path: Path, verdicts: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ["explain", "planner.yaml", "--entry", "tools", "--url"]
    assert main([*ask, "http://tools.internal/mcp"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "planner.yaml: the agent asks for GET http://tools.internal/mcp",
        "  tools: GET tools.internal/mcp: allow, by outbound.tools",
        "    to tools.example.org:8443, proven as spiffe://example.org/agent/tools/*",
    ]
    assert main([*ask, "http://tools.internal/x"]) == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  tools: GET tools.internal/x: deny (403), path_not_allowed: the entry takes other paths",
        "    nearest: outbound.tools",
        "      host    other.internal:8080 tools.internal; or its listener, 127.0.0.1:14001: holds",
        "      path    /mcp/**: missing, it is /x",
        "      method  GET POST: holds",
    ]
    assert main([*ask, "https://tools.internal/x"]) == 1
    assert "deny, agent_tls: the proxy does the TLS: ask for http://tools.internal/" in capsys.readouterr().out


def test_people_read_which_entry_of_a_shared_listener_has_the_name(
    verdicts: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "planner.yaml", "--entry", "db", "--url", "https://db.internal/"]) == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  db: CONNECT db.internal:443: deny (403), host_not_served: console names this very port",
        "    nearest: outbound.db",
        "      host    db.internal: holds",
    ]
    assert main(["explain", "planner.yaml", "--entry", "console", "--url", "http://127.0.0.1:14006/"]) == 1
    assert "      host    db.internal:443: missing, it is 127.0.0.1:14006" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--url", "/mcp"), "write a whole URL"),
        (("--url", "ftp://x/"), "neither http nor https"),
        (("--url", "http://user@x/"), "the authority of the request target is not host or host:port"),
        (("--url", "http://x/", "--caller", "spiffe://example.org/a"), "not allowed with argument"),
        ((), "one of the arguments --caller --url is required"),
        (("--caller", "spiffe://example.org/a"), "has no inbound entry\n    --url asks about outbound ones"),
    ],
)
def test_a_question_that_cannot_be_asked(
    verdicts: Any, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], expected: str
) -> None:
    assert main(["explain", "planner.yaml", *arguments]) == 2
    assert expected in capsys.readouterr().err
