"""Ensures that tokens, assertions and client secrets are nowhere but on the wire and in the planner's sidecar (THREATS 21).

They are looked for, in pieces of which each is enough, in all that both sidecars say and write, and in the agent: a real
process, its memory and its environment. That the search finds what is there is shown where it is: in the memory of the
planner's sidecar, and of the agent a word of its own.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import memory
from tests.support.memory import Search, forms_of_text, search_folder, search_process
from tests.support.oauth_clients import base64url
from tests.support.processes import Sidecar, outbound
from tests.support.token_pair import BY_SECRET, CLIENT, SECRET, SOURCE, TokenPair

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.support.processes import Site

pytestmark = pytest.mark.skipif(not memory.permitted(), reason=memory.NEEDED)
needs_issuer = pytest.mark.needs("oauth-server")

ADMIN = ("/config", "/metrics", "/tokens", "/connections", "/certs", "/ready", "/live")
WORD = "a-word-that-the-agent-does-know"
AGENT = """
import http.client, sys
port, word = int(sys.argv[1]), sys.argv[2]
kept = []
for line in sys.stdin:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", line.strip(), headers={"X-Word": word})
    response = connection.getresponse()
    kept.append((response.status, response.headers.as_string(), response.read()))
    connection.close()
    print(response.status, flush=True)
"""


class Agent:
    """A process that asks through the planner's sidecar, and keeps all that it is told."""

    def __init__(self, pair: TokenPair) -> None:
        arguments = (sys.executable, "-c", AGENT, str(pair.planner.port("outbound")), WORD)
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = pair.site.process(*arguments, **pipes)

    def ask(self, path: str) -> int:
        stdin: Any = self.process.stdin
        stdout: Any = self.process.stdout
        stdin.write(f"{path}\n")
        stdin.flush()
        return int(stdout.readline())


def of_process(pid: int, forms: Mapping[str, bytes]) -> Search:
    """Its memory, what it has open, what it was started with."""
    search = search_process(pid, forms)
    assert search.octets > 5_000_000, "an interpreter has more than that"
    assert search.unread == []
    for name in ("environ", "cmdline"):
        search.look(name, [Path(f"/proc/{pid}/{name}").read_bytes()], forms)
    return search


def started_with(sidecar: Sidecar, forms: Mapping[str, bytes]) -> Search:
    search = Search()
    for name in ("environ", "cmdline"):
        search.look(name, [Path(f"/proc/{sidecar.running.pid}/{name}").read_bytes()], forms)
    return search


def said(sidecars: Iterable[Sidecar], forms: Mapping[str, bytes]) -> Search:
    """All that the admin sockets show."""
    search = Search()
    for sidecar in sidecars:
        for path in ADMIN:
            answer = sidecar.ask(path)
            search.look(f"{path} of {sidecar.name}", [answer.body, str(answer.fields).encode()], forms)
    return search


def forms_of(**secrets: str) -> dict[str, bytes]:
    """Every secret by its name, in every form of text."""
    named = ((name, forms_of_text(secret.encode())) for name, secret in secrets.items())
    return {f"{name}, {form}": data for name, forms in named for form, data in forms.items()}


def secrets_of(pair: TokenPair, client_auth: str, token: str) -> dict[str, bytes]:
    """The token in use by its three parts, of which the first is that of every other; and what it was got for.

    Nobody but the issuer sees an assertion; how each begins is known, for it names the certificate.
    """
    header, payload, signature = token.removeprefix("Bearer ").split(".")
    secrets = {"header": header, "payload": payload, "signature": signature}
    if client_auth == "private_key_jwt":
        assertion = {"alg": "ES256", "typ": "JWT", "x5t#S256": pair.thumbprint()}
        secrets["assertion"] = base64url(json.dumps(assertion, separators=(",", ":")).encode())
    if client_auth in BY_SECRET:
        secrets["secret"] = SECRET
        secrets["basic"] = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
    return forms_of(**secrets)


def prepared(site: Site, client_auth: str) -> TokenPair:
    pair = TokenPair(site)
    if client_auth:
        pair.with_issuer(client_auth)
    site.path("tmp").mkdir()
    for sidecar in (pair.planner, pair.tools):
        sidecar.environ |= {"TMPDIR": str(site.path("tmp")), "SIDECAR_DEBUG": "1"}
    return pair


def live_a_little(pair: TokenPair, agent: Agent) -> None:
    """Good requests and bad ones, renewals, reloads that are refused: whatever may make somebody talk."""
    assert agent.ask("/good?access_token=none") == 200
    pair.rule["scopes"] = ["tools:admin"]
    pair.tools.reload()
    assert agent.ask("/scope") == 403
    audience = pair.rule["audience"]
    pair.rule |= {"scopes": ["tools:read"], "audience": "https://other.internal"}
    pair.tools.reload()
    assert agent.ask("/audience") == 401
    pair.rule["audience"] = audience
    if pair.rule["issuer"] == "self-signed":
        del pair.rule["scopes"]  # those have none
    pair.tools.reload()
    assert agent.ask("/good-again") == 200
    pair.planner.config["tokens"][0]["unknown"] = "key"
    pair.planner.reload(result="failed")
    del pair.planner.config["tokens"][0]["unknown"]
    pair.site.identity("planner")
    pair.planner.reload()
    assert agent.ask("/renewed") == 200


@pytest.mark.parametrize(
    "client_auth",
    [
        pytest.param("", id="self-signed"),
        *(pytest.param(each, marks=needs_issuer) for each in ("private_key_jwt", *BY_SECRET)),
    ],
)
@pytest.mark.threat(21)
def test_threat_21_the_token_is_nowhere(site: Site, client_auth: str) -> None:
    pair = prepared(site, client_auth).start()
    agent = Agent(pair)
    live_a_little(pair, agent)
    # Now the agent behind is told: so we know what to look for.
    pair.rule["pass_token"] = True
    pair.tools.reload()
    assert agent.ask("/shown") == 200
    forms = secrets_of(pair, client_auth, pair.sent("/shown")[0])
    assert of_process(agent.process.pid, forms).found == {}
    assert said((pair.planner, pair.tools), forms).found == {}
    for sidecar in (pair.planner, pair.tools):
        assert started_with(sidecar, forms).found == {}
    # What a search that finds nothing is worth.
    assert of_process(agent.process.pid, forms_of(word=WORD)).found
    assert {"payload, text", "signature, text"} <= search_process(pair.planner.running.pid, forms).forms
    checked = site.command("check", str(pair.planner.file), SIDECAR_DEBUG="1")
    site.path("check.out").write_text(checked.stdout + checked.stderr)
    assert (pair.planner.stop(), pair.tools.stop()) == (0, 0)
    secret = site.path("client.secret")
    found = search_folder(site.folder, forms, besides=[secret])
    assert found.found == {}
    assert found.octets > 10_000
    assert list(site.path("tmp").iterdir()) == []
    if client_auth in BY_SECRET:
        assert list(search_folder(site.folder, forms).found) == [secret.name]


#: What an issuer answers from which no word may be told, however wrong it is.
LOOSE = "canary-91d3-what-the-issuer-said-4f7e"
ANSWERS: list[dict[str, Any]] = [
    {"body": json.dumps({"access_token": f"two {LOOSE}", "token_type": "Bearer"})},
    {"body": json.dumps({"access_token": f"{LOOSE}\r\nX-Admin: yes", "token_type": "Bearer"})},
    {"body": json.dumps({"access_token": LOOSE, "token_type": LOOSE})},
    {"body": json.dumps({"access_token": LOOSE, "token_type": "Bearer", "expires_in": LOOSE})},
    {"body": json.dumps({"access_token": LOOSE, "token_type": "Bearer", "scope": LOOSE})},
    {"body": f'{{"access_token": "{LOOSE}", "access_token": "{LOOSE}"}}'},
    {"body": f"no JSON: {LOOSE}"},
    {"body": json.dumps({"error": LOOSE, "error_description": LOOSE}), "status": 400},
    {"body": json.dumps({"error": "invalid_client", "error_description": LOOSE}), "status": 401},
    {"body": f"<html>{LOOSE}", "status": 500, "type": "text/html"},
]


@needs_issuer
@pytest.mark.threat(21)
def test_threat_21_no_word_of_an_issuer_is_passed_on(site: Site) -> None:
    """One entry for each answer: a source that failed for one is not asked again for a while."""
    pair = prepared(site, "tls_client_auth")
    entries = [outbound(f"entry{number}", pair.tools.port(), token=SOURCE) for number in range(len(ANSWERS))]
    pair.planner.config["outbound"] = entries
    pair.start()
    forms = forms_of(loose=LOOSE)
    told = Search()
    for number, answer in enumerate(ANSWERS):
        pair.issuer.fault("answer", "token", **answer)
        connection = site.at(entries[number]["listen"])
        connection.request("GET", f"/{number}")
        response = connection.getresponse()
        assert response.status == 503, number
        told.look(str(number), [response.read(), str(response.headers).encode()], forms)
    assert told.found == {}
    assert said((pair.planner, pair.tools), forms).found == {}
    assert pair.issuer.count("token") == len(ANSWERS)
    assert (pair.planner.stop(), pair.tools.stop()) == (0, 0)
    assert search_folder(site.folder, forms).found == {}
    lines = pair.planner.log(event="request")
    assert len(lines) == len(ANSWERS)
    assert {line["error"] for line in lines} == {
        "token_unusable",
        "issuer_bad_answer",
        "issuer_refused",
        "issuer_status",
    }
    assert pair.upstream.requests == []
