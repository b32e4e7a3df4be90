"""Ensures that a token ends when nobody is to use it any more: its issuer is told so (RFC 7009), and nobody waits for that."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.processes import Pending, outbound
from tests.support.token_pair import SOURCE, Agent, TokenPair

if TYPE_CHECKING:
    from tests.support.processes import Site

pytestmark = pytest.mark.needs("oauth-server")


def jti_in_use(pair: TokenPair) -> str:
    assert pair.ask("/x").status == 200
    return str(pair.lines("/x")[1]["token.id"])


@pytest.mark.parametrize("removed", ["the entry", "its token", "the scope"])
def test_a_token_that_nobody_is_to_use_any_more_is_revoked(site: Site, removed: str) -> None:
    pair = TokenPair(site).with_issuer("tls_client_auth")
    entries = pair.planner.config["outbound"]
    entries.append(outbound("other", pair.tools.port()))
    pair.start()
    jti = jti_in_use(pair)
    assert pair.issuer.revoked == []
    if removed == "the entry":
        del entries[0]
    elif removed == "its token":
        del entries[0]["token"]
    else:
        pair.source["scopes"] = ["tools:read"]
    pair.planner.reload()
    eventually(lambda: pair.issuer.revoked == [jti], "the token to be revoked")
    assert [held["binding"] for held in pair.status()["tokens"] if held["binding"]] == []


@pytest.mark.parametrize("client_auth", ["tls_client_auth", "private_key_jwt", "client_secret_post"])
def test_the_last_thing_a_process_does_is_to_revoke(site: Site, client_auth: str) -> None:
    pair = TokenPair(site).with_issuer(client_auth).start()
    jti = jti_in_use(pair)
    assert pair.planner.stop() == 0
    assert pair.issuer.revoked == [jti]
    assert "could not be revoked" not in pair.planner.stderr


def test_what_is_in_flight_at_the_end_keeps_its_token(site: Site) -> None:
    """A request that waits for its answer, and agents that ask on until nobody takes their requests any more."""
    pair = TokenPair(site).with_issuer("tls_client_auth").start()
    held = Pending(site.agent(pair.planner), "GET", "/hold")
    pair.upstream.await_held()
    agents = [Agent(pair, number) for number in range(3)]
    for agent in agents:
        agent.await_more(3)
    pair.planner.signal(signal.SIGTERM)
    for agent in agents:
        agent.join(20)
        *answers, last = agent.answers
        assert set(answers) == {200}
        assert isinstance(last, str), "refused in the end"
    assert pair.issuer.revoked == []
    pair.upstream.release()
    assert held.answer().status == 200
    assert pair.planner.exit_code() == 0
    (token,) = pair.issuer.state()["tokens"]
    assert pair.issuer.revoked == [token["jti"]]
    assert {line["http.status"] for line in pair.planner.log(event="request")} == {200}


def test_an_issuer_that_does_not_revoke_is_worth_a_warning(site: Site) -> None:
    pair = TokenPair(site).with_issuer("tls_client_auth", revoke_jwt=False).start()
    jti_in_use(pair)
    assert pair.planner.stop() == 0
    (line,) = [line for line in pair.planner.stderr.splitlines() if "could not be revoked" in line]
    assert " warning " in line
    assert "code=issuer_refused" in line
    assert f"source={SOURCE}" in line
    assert pair.issuer.revoked == []
    assert " error " not in pair.planner.stderr


def test_an_issuer_that_hangs_does_not_keep_the_process(site: Site) -> None:
    pair = TokenPair(site).with_issuer("tls_client_auth").start()
    jti_in_use(pair)
    pair.issuer.fault("hang", "revocation")
    begun = time.monotonic()
    assert pair.planner.stop() == 0
    assert time.monotonic() - begun < 3 + 3  # what revoking may take, and the machine
    assert "Traceback" not in pair.planner.stderr
