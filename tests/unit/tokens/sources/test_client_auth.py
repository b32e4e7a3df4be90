from __future__ import annotations

import base64
import re
from typing import Any

import jwt
import pytest

from sidecar.clock import Clock
from sidecar.keys.token_messages import Assertions, Client
from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.settings import ClientAuth, OAuth2Source, SecretRef
from sidecar.tokens.sources.client_auth import ASSERTION_TYPE, ClientAuthentication
from tests.support.lent import PLANNER_384, TellingSigner
from tests.support.tls import NOW, PLANNER
from tests.support.tokens import CANARY, means, parts, thumbprint

ISSUER = "https://as.example"
SECRET = SecretRef(env="A_SECRET")
CERTIFICATES = (ClientAuth.TLS, ClientAuth.SELF_SIGNED_TLS)


def settings(auth: ClientAuth, **more: Any) -> OAuth2Source:
    return OAuth2Source("x", ISSUER, auth, **more)


def authentication(auth: ClientAuth, secret: str = "", **more: Any) -> ClientAuthentication:
    secrets = {SECRET: secret} if secret else {}
    more |= {"client_secret": SECRET} if secret else {}
    return ClientAuthentication(settings(auth, **more), means(clock=Clock(lambda: NOW + 0.9), secrets=secrets))


@pytest.mark.parametrize("auth", CERTIFICATES)
async def test_with_a_certificate_the_form_has_the_client_id(auth: ClientAuth) -> None:
    assert (await authentication(auth).proof()).form == (("client_id", str(PLANNER.id)),)
    assert (await authentication(auth, client_id="planner").proof()).form == (("client_id", "planner"),)


@pytest.mark.parametrize("auth", ClientAuth)
@pytest.mark.parametrize("bound", [True, False])
def test_when_our_certificate_is_shown(auth: ClientAuth, *, bound: bool) -> None:
    secret = "s" if auth in {ClientAuth.SECRET_BASIC, ClientAuth.SECRET_POST} else ""
    assert authentication(auth, secret, bound=bound).mutual is (bound or auth in CERTIFICATES)


@pytest.mark.parametrize("identity", [PLANNER, PLANNER_384])
@pytest.mark.parametrize("key_id", [None, "key-1"])
async def test_an_assertion_is_exactly_this(identity: Any, key_id: str | None) -> None:
    signer = TellingSigner(identity)
    made = ClientAuthentication(
        settings(ClientAuth.PRIVATE_KEY_JWT, client_id="planner", key_id=key_id),
        means(identity, signer, clock=Clock(lambda: NOW + 0.9)),
    )
    form = (await made.proof()).form
    assert form[:2] == (("client_id", "planner"), ("client_assertion_type", ASSERTION_TYPE))
    name, assertion = form[2]
    assert name == "client_assertion"
    header, claims, _ = parts(assertion)
    alg = "ES256" if identity is PLANNER else "ES384"
    expected = [("alg", alg), ("typ", "JWT"), ("x5t#S256", thumbprint(identity))]
    assert list(header.items()) == expected + ([("kid", key_id)] if key_id else [])
    now, jti = int(NOW + 0.9), claims["jti"]
    assert re.fullmatch("[A-Za-z0-9_-]{22}", jti)
    assert list(claims.items()) == [
        ("iss", "planner"),
        ("sub", "planner"),
        ("aud", ISSUER),
        ("iat", now),
        ("exp", now + 60),
        ("jti", jti),
    ]
    assert jwt.decode(
        assertion, signer.public_key, [alg], audience=ISSUER, options={"verify_exp": False, "verify_iat": False}
    )
    # The signer service knows it.
    known = Assertions(signer.public_key, frozenset({Client(ISSUER, "planner")}))
    assert known.knows(signer.asked[0].message, NOW + 0.9)


async def test_each_assertion_is_for_one_request() -> None:
    made = authentication(ClientAuth.PRIVATE_KEY_JWT)
    assert len({(await made.proof()).form[2] for _ in range(5)}) == 5


async def test_the_audience_of_an_assertion() -> None:
    made = authentication(ClientAuth.PRIVATE_KEY_JWT, assertion_audience=f"{ISSUER}/token")
    assert parts((await made.proof()).form[2][1])[1]["aud"] == f"{ISSUER}/token"


async def test_a_secret_in_the_form() -> None:
    proof = await authentication(ClientAuth.SECRET_POST, CANARY, client_id="planner").proof()
    assert proof.form == (("client_id", "planner"), ("client_secret", CANARY))
    assert proof.headers == {}
    assert CANARY not in repr(proof)


@pytest.mark.parametrize(
    ("client_id", "secret", "pair"),
    [
        ("planner", "secret", "planner:secret"),
        ("a:b", "c:d", "a%3Ab:c%3Ad"),
        ("spiffe://example.org/a", "ä &+%=", "spiffe%3A%2F%2Fexample.org%2Fa:%C3%A4+%26%2B%25%3D"),
    ],
)
async def test_a_secret_in_the_head_is_form_encoded_first(client_id: str, secret: str, pair: str) -> None:
    proof = await authentication(ClientAuth.SECRET_BASIC, secret, client_id=client_id).proof()
    assert proof.form == ()
    scheme, _, value = proof.headers["Authorization"].partition(" ")
    assert scheme == "Basic"
    assert base64.b64decode(value, validate=True).decode() == pair
    assert value not in repr(proof)


async def test_a_secret_that_is_no_text() -> None:
    with pytest.raises(SourceError) as caught:
        await authentication(ClientAuth.SECRET_BASIC, CANARY + "\udcff").proof()
    assert caught.value.code is SourceCode.BAD_TOKEN
    assert caught.value.__context__ is None
    assert CANARY not in repr(caught.value)


def test_a_secret_that_was_not_read() -> None:
    with pytest.raises(KeyError):
        ClientAuthentication(settings(ClientAuth.SECRET_POST, client_secret=SECRET), means())


def test_the_secret_is_in_no_repr() -> None:
    made = authentication(ClientAuth.SECRET_POST, CANARY)
    assert CANARY not in repr(made) + repr(means(secrets={SECRET: CANARY}))
