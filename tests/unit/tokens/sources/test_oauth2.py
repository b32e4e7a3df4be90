"""Against an issuer that does as the test says, by HTTPS; see `tests.support.tokens`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.clock import Clock
from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.settings import ClientAuth, Keeping, OAuth2Source, Reach, SecretRef
from sidecar.tokens.sources.oauth2 import OAuth2
from sidecar.tokens.token import Token
from tests.support.ca import DAY
from tests.support.lent import TellingSigner
from tests.support.tls import NOW, PLANNER, TOOLS
from tests.support.tokens import CANARY, Asked, Reply, ScriptedIssuer, jwt, means, parts, thumbprint

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = SecretRef(env="A_SECRET")
SECRETS = (ClientAuth.SECRET_BASIC, ClientAuth.SECRET_POST)
CERTIFICATES = (ClientAuth.TLS, ClientAuth.SELF_SIGNED_TLS)
BOUND = jwt({"exp": int(NOW + DAY), "cnf": {"x5t#S256": thumbprint(PLANNER)}})
WELL_KNOWN = "/.well-known/oauth-authorization-server"


@pytest.fixture
def issuer() -> Iterator[ScriptedIssuer]:
    with ScriptedIssuer() as made:
        made.give(BOUND)
        yield made


def source(issuer: ScriptedIssuer, auth: ClientAuth = ClientAuth.TLS, **more: Any) -> OAuth2:
    settings = OAuth2Source("x", issuer.url, auth, **({"reach": issuer.reach} | more))
    if auth in SECRETS:
        settings = replace(settings, client_secret=SECRET)
    return OAuth2(settings, means(secrets={SECRET: CANARY}))


async def refused(made: OAuth2) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await made.fetch()
    return caught.value


def only(asked: list[Asked]) -> Asked:
    assert len(asked) == 1
    return asked[0]


async def test_the_request(issuer: ScriptedIssuer) -> None:
    made = source(issuer, scopes=("read", "write"), resource="https://tools.internal/mcp", audience="tools")
    token = await made.fetch()
    asked = only(issuer.to("/token"))
    assert asked.method == "POST"
    assert asked.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert asked.pairs == [
        ("grant_type", "client_credentials"),
        ("scope", "read write"),
        ("resource", "https://tools.internal/mcp"),
        ("audience", "tools"),
        ("client_id", str(PLANNER.id)),
    ]
    assert token.value == BOUND
    assert token.bound


async def test_what_is_not_set_is_not_sent(issuer: ScriptedIssuer) -> None:
    await source(issuer).fetch()
    assert [name for name, _ in only(issuer.to("/token")).pairs] == ["grant_type", "client_id"]


@pytest.mark.parametrize("auth", ClientAuth)
async def test_bound_by_any_method_our_certificate_is_shown(issuer: ScriptedIssuer, auth: ClientAuth) -> None:
    made = source(issuer, auth)
    await made.revoke(await made.fetch())
    for path in ("/token", "/revoke"):
        assert only(issuer.to(path)).certificate == thumbprint(PLANNER)
    assert only(issuer.to(WELL_KNOWN)).certificate is None


@pytest.mark.parametrize("auth", ClientAuth)
async def test_unbound_it_is_shown_only_as_a_proof(issuer: ScriptedIssuer, auth: ClientAuth) -> None:
    issuer.give("opaque")
    made = source(issuer, auth, bound=False)
    await made.revoke(await made.fetch())
    for path in ("/token", "/revoke"):
        assert only(issuer.to(path)).certificate == (thumbprint(PLANNER) if auth in CERTIFICATES else None)
    assert (made._client._contexts.credentials is None) is (auth not in CERTIFICATES)


@pytest.mark.parametrize("auth", ClientAuth)
@pytest.mark.parametrize("bound", [True, False])
async def test_aliases_are_where_our_certificate_is_shown(
    issuer: ScriptedIssuer, auth: ClientAuth, *, bound: bool
) -> None:
    aliases = {"token_endpoint": f"{issuer.url}/m/token", "revocation_endpoint": f"{issuer.url}/m/revoke"}
    issuer.metadata["mtls_endpoint_aliases"] = aliases
    for path in ("/token", "/revoke"):
        issuer.replies[f"/m{path}"] = issuer.replies[path]
    made = source(issuer, auth, bound=bound)
    await made.revoke(await made.fetch())
    mutual = bound or auth in CERTIFICATES
    for path in ("/token", "/revoke"):
        assert only(issuer.to(f"/m{path}" if mutual else path)).certificate == (thumbprint(PLANNER) if mutual else None)
        assert issuer.to(path if mutual else f"/m{path}") == []


async def test_each_method_proves_itself_at_both_endpoints(issuer: ScriptedIssuer) -> None:
    for auth in ClientAuth:
        issuer.asked.clear()
        made = source(issuer, auth)
        await made.revoke(await made.fetch())
        assertions = set()
        for path in ("/token", "/revoke"):
            asked = only(issuer.to(path))
            assert ("Authorization" in asked.headers) is (auth is ClientAuth.SECRET_BASIC)
            assert ("client_secret" in asked.form) is (auth is ClientAuth.SECRET_POST)
            assert ("client_assertion" in asked.form) is (auth is ClientAuth.PRIVATE_KEY_JWT)
            assert ("client_id" in asked.form) is (auth is not ClientAuth.SECRET_BASIC)
            if auth is ClientAuth.PRIVATE_KEY_JWT:
                assert parts(asked.form["client_assertion"])[1]["aud"] == issuer.url
                assertions.add(asked.form["client_assertion"])
        assert len(assertions) == (2 if auth is ClientAuth.PRIVATE_KEY_JWT else 0)


async def test_revocation(issuer: ScriptedIssuer) -> None:
    await source(issuer).revoke(Token("a-token"))
    asked = only(issuer.to("/revoke"))
    assert asked.pairs == [("token", "a-token"), ("token_type_hint", "access_token"), ("client_id", str(PLANNER.id))]
    assert issuer.to("/token") == []


async def test_no_revocation_where_there_is_none(issuer: ScriptedIssuer) -> None:
    del issuer.metadata["revocation_endpoint"]
    await source(issuer).revoke(Token("a-token"))
    assert [asked.path for asked in issuer.asked] == [WELL_KNOWN]


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (Reply(400, {"error": "unsupported_token_type"}), SourceCode.REFUSED),
        (Reply(503, b""), SourceCode.STATUS),
        (Reply(404, b""), SourceCode.STATUS),
    ],
)
async def test_revocation_that_fails(issuer: ScriptedIssuer, reply: Reply, code: SourceCode) -> None:
    issuer.replies["/revoke"] = reply
    with pytest.raises(SourceError) as caught:
        await source(issuer).revoke(Token(CANARY))
    assert caught.value.code is code
    assert CANARY not in repr(caught.value)


@pytest.mark.parametrize("status", [400, 401])
async def test_a_refusal_is_not_tried_again_in_another_way(issuer: ScriptedIssuer, status: int) -> None:
    issuer.replies["/token"] = Reply(status, {"error": "invalid_client", "error_description": CANARY})
    error = await refused(source(issuer, ClientAuth.SECRET_BASIC))
    assert error.code is SourceCode.REFUSED
    assert "invalid_client" in str(error)
    assert CANARY not in str(error) + error.hint
    assert len(issuer.to("/token")) == 1


@pytest.mark.parametrize("status", [201, 204, 301, 302, 303, 307, 308, 403, 404, 429, 500, 502, 503])
@pytest.mark.threat(21)
async def test_other_statuses_and_no_redirect(issuer: ScriptedIssuer, status: int) -> None:
    elsewhere = (("Location", f"{issuer.url}/elsewhere"),) if 300 <= status < 400 else ()
    issuer.replies["/token"] = Reply(status, b"", elsewhere)
    error = await refused(source(issuer, ClientAuth.SECRET_POST))
    assert error.code is SourceCode.STATUS
    assert str(status) in str(error)
    assert ("redirects are not followed" in error.hint) is bool(elsewhere)
    assert issuer.to("/elsewhere") == []


async def test_an_answer_that_is_none(issuer: ScriptedIssuer) -> None:
    for body in (b"<html>", b"", b"[]", b'{"access_token":"a","access_token":"b"}'):
        issuer.replies["/token"] = Reply(200, body)
        assert (await refused(source(issuer))).code is SourceCode.BAD_ANSWER


async def test_metadata_is_asked_for_once(issuer: ScriptedIssuer) -> None:
    made = source(issuer)
    for _ in range(3):
        await made.revoke(await made.fetch())
    assert len(issuer.to(WELL_KNOWN)) == 1
    assert len(issuer.to("/token")) == 3


async def test_metadata_of_another_issuer(issuer: ScriptedIssuer) -> None:
    issuer.metadata["issuer"] += "/"
    error = await refused(source(issuer))
    assert error.code is SourceCode.METADATA
    assert issuer.to("/token") == []


async def test_an_endpoint_in_plain_text_is_not_used(issuer: ScriptedIssuer) -> None:
    issuer.metadata["token_endpoint"] = "http://localhost:1/token"
    assert (await refused(source(issuer))).code is SourceCode.METADATA


async def test_no_certificate_over_plain_text(issuer: ScriptedIssuer) -> None:
    issuer.metadata["token_endpoint"] = "http://localhost:1/token"
    reach = replace(issuer.reach, unsafe_plaintext=True)
    for auth, bound in ((ClientAuth.TLS, False), (ClientAuth.SECRET_POST, True)):
        error = await refused(source(issuer, auth, bound=bound, reach=reach))
        assert error.code is SourceCode.METADATA
        assert "plain http" in str(error)
    # Nothing listens on that port: it was tried, as the configuration allows.
    assert (
        await refused(source(issuer, ClientAuth.SECRET_POST, bound=False, reach=reach))
    ).code is SourceCode.UNREACHABLE


@pytest.mark.threat(22)
async def test_a_token_for_somebody_else(issuer: ScriptedIssuer) -> None:
    issuer.give(jwt({"cnf": {"x5t#S256": thumbprint(TOOLS)}}))
    assert (await refused(source(issuer))).code is SourceCode.NOT_BOUND


async def test_a_life_counts_from_before_the_request(issuer: ScriptedIssuer) -> None:
    readings = iter([NOW, NOW + 50, NOW + 50])
    made = means(clock=Clock(lambda: next(readings)))
    issuer.give("opaque", expires_in=60)
    token = await OAuth2(
        OAuth2Source("x", issuer.url, ClientAuth.TLS, reach=issuer.reach, keeping=Keeping()), made
    ).fetch()
    assert token.expires == NOW + 60


async def test_an_issuer_that_is_not_there(issuer: ScriptedIssuer) -> None:
    made = source(issuer)
    issuer.close()
    assert (await refused(made)).code is SourceCode.UNREACHABLE


async def test_an_issuer_that_hangs(issuer: ScriptedIssuer) -> None:
    issuer.hang()
    error = await refused(source(issuer, reach=replace(issuer.reach, timeout=0.3)))
    assert error.code is SourceCode.TIMEOUT


async def test_an_issuer_that_nobody_vouches_for(issuer: ScriptedIssuer) -> None:
    assert (await refused(source(issuer, reach=Reach()))).code is SourceCode.TLS


async def test_a_key_that_does_not_sign_is_not_the_issuers_fault(issuer: ScriptedIssuer) -> None:
    made = means(signer=TellingSigner(PLANNER, lambda _message, _hash: b""))
    settings = OAuth2Source("x", issuer.url, ClientAuth.PRIVATE_KEY_JWT, reach=issuer.reach)
    assert (await refused(OAuth2(settings, made))).code is SourceCode.SIGNING
    assert issuer.to("/token") == []
