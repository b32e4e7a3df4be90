"""Ensures that a request carries one credential, the right one, to the one place it is for (THREATS 20 and 21).

Inbound, what a caller wrote beside its one token counts for nothing, and what was validated stays here. Outbound,
whatever the agent wrote is gone, the upstream sees exactly the token of the entry, and that token leaves in no other
direction: not after a redirect, not to another peer or name, not through another entry, and not into anything that can
be read.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support.eventually import eventually
from tests.support.guarded import NO_TOKEN, Guarded
from tests.support.processes import PLANNER, Site, ask, outbound, replace_file
from tests.support.raw import connect, read_all, server
from tests.support.token_pair import TokenPair, claims
from tests.support.web import Web, page, sending

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.processes import Answer, Sidecar

CANARY: Final = "canary-21-9d0c5fd1e7"
AGENTS: Final = "canary-agents-own-0a"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    with Guarded() as made:
        assert made.ask("/good", made.token()).status == 200
        yield made


# -- inbound ----------------------------------------------------------------------------------------------------------


@pytest.mark.threat(20)
@pytest.mark.parametrize("number", range(6))
def test_threat_20_two_authorization_fields_are_400(guarded: Guarded, number: int) -> None:
    g, path = guarded, f"/20/two/{number}"
    good, junk = b"Bearer " + g.token(), b"Basic dXNlcjpwYXNz"
    fields = (
        [("Authorization", good), ("Authorization", good)],
        [("Authorization", good), ("Authorization", junk)],
        [("Authorization", junk), ("Authorization", good)],
        [("Authorization", good), ("authorization", good)],
        [("AUTHORIZATION", good), ("X-Between", b"1"), ("aUtHoRiZaTiOn", b"")],
        [("Authorization", good)] * 50,
    )[number]
    answer = g.ask_with(path, fields)
    assert answer.status == 400
    assert answer.json["error"] == "duplicate_authorization"
    eventually(lambda: g.tools.log(error="duplicate_authorization"), "the line in the log")
    assert g.backend.of(path) == []
    assert good.decode() not in g.said()


@pytest.mark.threat(20)
@pytest.mark.parametrize("number", range(11))
def test_threat_20_a_token_anywhere_else_is_none(guarded: Guarded, number: int) -> None:
    """RFC 6750 2.2 and 2.3, and whatever is nearly the field. The answer to no token has no error code (3.1)."""
    g, path = guarded, f"/20/none/{number}"
    token = g.token()
    query, fields = (
        (b"?access_token=" + token, []),
        (b"?access_token=" + token, [("Authorization", b"Basic dXNlcjpwYXNz")]),
        (b"", [("Content-Type", b"application/x-www-form-urlencoded")]),  # and in the body
        (b"", [("Cookie", b"access_token=" + token)]),
        (b"", [("X-Authorization", b"Bearer " + token), ("Proxy-Authorization", b"Bearer " + token)]),
        (b"", [("Authorization", b"Bearer  " + token)]),
        (b"", [("Authorization", b"Bearer\t" + token)]),
        (b"", [("Authorization", b"Bearer " + token + b", Bearer " + token)]),
        (b"", [("Authorization", b"Bearer")]),
        (b"", [("Authorization", b"DPoP " + token)]),
        (b"", [("Authorization", token)]),
    )[number]
    answer = g.ask_with(path + query.decode(), fields, body=b"access_token=" + token)
    g.refused(answer, "token_missing", path, challenge=NO_TOKEN)
    assert token.decode() not in g.said()


@pytest.mark.threat(20)
def test_threat_20_the_query_decides_nothing_and_the_validated_token_stays_here(guarded: Guarded) -> None:
    g = guarded
    forged = g.token({"alg": "none"}).decode()
    for token, status in ((g.token(), 200), (g.token(said={"aud": "x"}), 401)):
        query = f"/20/query/{status}?access_token={forged if status == 200 else g.token().decode()}"
        assert g.ask(query, token).status == status
    (request,) = g.backend.of("/20/query/200")
    assert g.backend.of("/20/query/401") == []
    assert request.fields("Authorization") == []
    assert forged not in g.said()  # the query is in no log


@pytest.mark.threat(20)
def test_threat_20_with_pass_token_the_server_behind_sees_the_one_that_was_validated() -> None:
    with Guarded(pass_token=True) as g:
        token = g.token()
        assert g.ask("/20/passed-on", token).status == 200
        (request,) = g.backend.of("/20/passed-on")
        assert request.fields("Authorization") == [f"Bearer {token.decode()}"]
        # RFC 9110 7.6.1: what `Connection` names is for us alone, and so it goes no further.
        fields = [("Connection", b"Authorization, close"), ("authorization", b"bearer " + token)]
        assert g.ask_with("/20/named", fields).status == 200
        (request,) = g.backend.of("/20/named")
        assert request.fields("Authorization") == []


# -- outbound ---------------------------------------------------------------------------------------------------------


def with_file(site: Site, value: str = CANARY, **entry: Any) -> TokenPair:
    """A pair whose planner sends along what is in a file; the tools' sidecar asks for nothing and takes nothing away."""
    replace_file(site.path("token"), value.encode())
    pair = TokenPair(site, {"kind": "file", "path": "token"})
    pair.planner.config["outbound"][0] |= entry
    pair.tools.config["inbound"][0]["allow"] = [{"caller": PLANNER}]
    return pair


AGENT_SENDS: Final = (
    [],
    [("Authorization", f"Bearer {AGENTS}")],
    [("authorization", f"Basic {AGENTS}")],
    [("AUTHORIZATION", AGENTS), ("Connection", "Authorization")],
    [("Connection", "authorization, x-api-key")],
    [("aUTHORIZATION", "")],
)


@pytest.mark.threat(20)
def test_threat_20_the_upstream_sees_exactly_one_token_and_it_is_ours(site: Site) -> None:
    pair = with_file(site).start()
    for number, fields in enumerate(AGENT_SENDS):
        assert pair.ask(f"/20/{number}", "POST", body=b"x", headers=dict(fields)).status == 200
        (request,) = pair.upstream.of(f"/20/{number}")
        assert request.fields("Authorization") == [f"Bearer {CANARY}"]
        assert AGENTS.encode() not in request.head
    chunked = b"Host: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\nx\r\n0\r\n"
    trailers = b"Authorization: Bearer %b\r\n\r\n" % AGENTS.encode()
    with connect(pair.planner.port("outbound")) as sock:
        sock.sendall(b"POST /20/trailers HTTP/1.1\r\n" + chunked + trailers)
        assert read_all(sock).startswith(b"HTTP/1.1 200 ")
    (request,) = pair.upstream.of("/20/trailers")
    assert request.fields("Authorization") == [f"Bearer {CANARY}"]
    assert AGENTS.encode() not in request.head + request.trailers


@pytest.mark.threat(20)
def test_threat_20_two_of_the_agents_are_400_and_go_nowhere(site: Site) -> None:
    pair = with_file(site).start()
    with connect(pair.planner.port("outbound")) as sock:
        two = b"Authorization: Bearer a\r\nauthorization: Bearer b\r\n"
        sock.sendall(b"GET /20/two HTTP/1.1\r\nHost: localhost\r\n" + two + b"\r\n")
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"duplicate_authorization"' in answer
    assert pair.upstream.requests == []


@pytest.mark.threat(20)
def test_threat_20_another_field_is_replaced_in_all_its_spellings(site: Site) -> None:
    pair = with_file(site, token_header="X-Api-Key").start()
    names = ("X-Api-Key", "x-api-key", "X_API_KEY", "x.api.key", "X-Api_Key")
    assert pair.ask("/20/key", headers=dict.fromkeys(names, AGENTS)).status == 200
    (request,) = pair.upstream.of("/20/key")
    assert request.fields("X-Api-Key") == [CANARY]
    assert AGENTS.encode() not in request.head


@pytest.mark.threat(20)
def test_threat_20_a_validated_token_of_the_pair_is_the_injected_one(site: Site) -> None:
    pair = TokenPair(site)
    pair.rule["pass_token"] = True
    pair.start()
    assert pair.ask("/20/both", headers={"Authorization": f"Bearer {AGENTS}"}).status == 200
    (value,) = pair.sent("/20/both")
    assert value.startswith("Bearer ")
    assert claims(value)["sub"] == PLANNER


@pytest.mark.threat(20, 21)
def test_threat_20_a_token_that_is_no_one_word_goes_nowhere(site: Site) -> None:
    pair = with_file(site)
    values = ("two words", "line\nbreak\nX-Evil: 1", "nul\0", "ä", "x" * 9000, "", "tab\t")
    entries = [outbound(f"e{number}", pair.tools.port(), token=f"s{number}") for number in range(len(values))]
    for number, (value, entry) in enumerate(zip(values, entries, strict=True)):
        replace_file(site.path(f"token-{number}"), value.encode())
        pair.planner.config["tokens"].append({"name": f"s{number}", "kind": "file", "path": f"token-{number}"})
        pair.planner.config["outbound"].append(apart(entry, pair.planner))
    pair.start()
    for number, (value, entry) in enumerate(zip(values, entries, strict=True)):
        answer = ask(site.at(entry["listen"]), "GET", f"/20/{number}")
        assert (answer.status, answer.json["error"]) == (503, "token_unavailable")
        (line,) = pair.planner.await_log(http_path=f"/20/{number}")
        assert line["error"] == "token_unusable"
        assert not value or value not in pair.planner.stderr + answer.body.decode()
    assert pair.upstream.requests == []


def apart(entry: dict[str, Any], planner: Sidecar) -> dict[str, Any]:
    """The entry, on a port that no other one has."""
    while entry["listen"] in {each["listen"] for each in planner.config["outbound"]}:
        entry["listen"] = outbound("", 1)["listen"]
    return entry


# -- 21: where it never goes ------------------------------------------------------------------------------------------


def outputs(*sidecars: Sidecar) -> str:
    """All that the processes say of themselves, to anybody."""
    said = []
    for each in sidecars:
        said += [each.stdout, each.stderr, each.log_file.read_text()]
        said += [
            each.ask(path).body.decode()
            for path in ("/config", "/tokens", "/metrics", "/connections", "/ready", "/certs")
        ]
    return "".join(said)


REDIRECTS: Final = ("301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect")


@pytest.mark.threat(21)
def test_threat_21_the_agent_gets_the_redirect_and_nobody_follows_it(site: Site) -> None:
    target = server(site)
    location = f"http://127.0.0.1:{target.port}/there"
    web = Web(sending(b"")).__enter__()
    site.owns(web.__exit__)
    pair = with_file(site)
    pair.tools.config["inbound"][0]["forward"] = f"http://127.0.0.1:{web.port}"
    pair.start()
    for status in REDIRECTS:
        web.answer = sending(page(b"{}", f"Location: {location}", "Connection: close", status=status))
        for method in ("GET", "POST"):
            answer = pair.ask("/21/redirect", method)
            assert (answer.status, answer.fields["Location"]) == (int(status[:3]), location)
            assert CANARY not in str(answer.fields) + answer.body.decode()
    assert [request.count(CANARY.encode()) for request in web.requests] == [1] * 2 * len(REDIRECTS)
    assert target.connections == 0


@pytest.mark.threat(21)
def test_threat_21_no_other_entry_name_or_peer_gets_it(site: Site) -> None:
    """A second entry without a token, a name that the entry does not have, and a peer that is somebody else."""
    pair = with_file(site)
    other = site.sidecar("other", inbound=[dict(pair.tools.config["inbound"][0]) | {"listen": "127.0.0.1:0"}])
    thief = server(site)
    other.config["inbound"][0] |= {"listen": outbound("", 1)["listen"], "forward": f"http://127.0.0.1:{thief.port}"}
    plain = apart(outbound("plain", pair.tools.port()), pair.planner)
    pair.planner.config["outbound"].append(plain)
    wrong = apart(outbound("wrong", other.port(), token="mesh"), pair.planner)
    pair.planner.config["outbound"].append(wrong)
    other.start()
    pair.start()
    assert pair.ask("/21/with").status == 200
    (request,) = pair.upstream.of("/21/with")
    assert request.fields("Authorization") == [f"Bearer {CANARY}"]

    assert ask(site.at(plain["listen"]), "GET", "/21/plain").status == 200
    (request,) = pair.upstream.of("/21/plain")
    assert request.fields("Authorization") == []

    for headers, target in (({"Host": "elsewhere.example"}, "/21/name"), ({}, "http://elsewhere.example/21/name")):
        answer = pair.ask(target, headers=headers)
        assert answer.status in {400, 403, 421}, answer
        assert CANARY not in answer.body.decode()
    assert pair.upstream.of("/21/name") == []

    answer = ask(site.at(wrong["listen"]), "GET", "/21/peer")
    assert (answer.status, answer.json["error"]) == (502, "upstream_tls")
    assert thief.connections == 0
    assert CANARY not in outputs(pair.planner, pair.tools, other)


@pytest.mark.threat(21)
def test_threat_21_it_is_in_no_error_log_or_metric(site: Site) -> None:
    """Traffic, refusals, a reload that fails, an upstream that dies: and the token stands in none of it."""
    pair = with_file(site).start()
    answers: list[Answer] = [pair.ask("/21/fine"), pair.ask("/21/query?x=y", "POST", body=b"x")]
    pair.upstream.refusals = 1
    answers.append(pair.ask("/21/renewed"))
    answers.append(pair.ask("/21", headers={"Host": "elsewhere.example"}))
    pair.planner.config["tokens"].append({"name": "mesh", "kind": "file"})
    pair.planner.reload(result="failed")
    said = outputs(pair.tools)
    pair.tools.kill()
    answers.append(pair.ask("/21/dead"))
    assert answers[-1].status == 502
    assert pair.held()["binding"] == "static"
    site.path("token").unlink()
    eventually(lambda: pair.ask("/21/gone").json["error"] == "token_unavailable", "the token to be gone")
    replace_file(site.path("token"), (CANARY + " " + CANARY).encode())

    def unusable() -> bool:
        assert pair.ask("/21/broken").json["error"] == "token_unavailable"
        return bool(pair.held()["error"] == "token_unusable")

    eventually(unusable, "the token to be unusable")
    said += outputs(pair.planner) + json.dumps([each.body.decode() + str(each.fields) for each in answers])
    assert pair.planner.stop() == 0
    said += pair.planner.stdout + pair.planner.stderr + pair.planner.log_file.read_text()
    assert len(pair.sent("/21/fine")) == 1
    assert len(said) > 5000
    assert CANARY not in said
