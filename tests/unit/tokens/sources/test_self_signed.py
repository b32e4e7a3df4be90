from __future__ import annotations

import base64
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.clock import Clock
from sidecar.keys.signer import hash_for
from sidecar.keys.token_messages import SelfSigned as Recogniser
from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.jws import parse
from sidecar.tokens.self_signed import TYPE as ACCEPTED
from sidecar.tokens.self_signed import verify_self_signed
from sidecar.tokens.settings import Keeping, SelfSignedSource
from sidecar.tokens.sources.self_signed import TYPE, SelfSigned
from tests.support.ca import HOUR
from tests.support.lent import PLANNER_384, TellingSigner
from tests.support.tls import CA, INTERMEDIATE, NOW, PLANNER
from tests.support.tokens import means, parts, thumbprint

if TYPE_CHECKING:
    from tests.support.ca import Identity

AUDIENCE = "https://tools.internal"
IDENTITIES = {"ES256": PLANNER, "ES384": PLANNER_384}


def at(now: float) -> Clock:
    return Clock(lambda: now, lambda: now)


def source(now: float = NOW, identity: Identity = PLANNER, **settings: Any) -> SelfSigned:
    return SelfSigned(SelfSignedSource("x", AUDIENCE, **settings), means(identity, clock=at(now)))


@pytest.mark.parametrize("alg", IDENTITIES)
async def test_header_and_claims_are_exactly_these(alg: str) -> None:
    identity = IDENTITIES[alg]
    header, claims, signature = parts((await source(NOW + 0.9, identity).fetch()).value)
    assert list(header.items()) == [
        ("alg", alg),
        ("typ", "sidecar+jwt"),
        ("x5c", [base64.b64encode(der).decode() for der in identity.der]),
    ]
    now = int(NOW + 0.9)
    jti = claims["jti"]
    assert re.fullmatch("[A-Za-z0-9_-]{22}", jti)
    assert list(claims.items()) == [
        ("iss", str(identity.id)),
        ("sub", str(identity.id)),
        ("aud", AUDIENCE),
        ("iat", now),
        ("exp", now + 300),
        ("jti", jti),
        ("cnf", {"x5t#S256": thumbprint(identity)}),
    ]
    assert len(signature) == {"ES256": 64, "ES384": 96}[alg]
    assert TYPE == ACCEPTED


@pytest.mark.parametrize("identity", IDENTITIES.values())
async def test_our_own_inbound_side_accepts_it(identity: Identity) -> None:
    token = (await source(identity=identity).fetch()).value.encode()
    verified = verify_self_signed(token, parse(token), CA.bundles, NOW)
    assert (verified.subject, verified.audience) == (str(identity.id), AUDIENCE)


@pytest.mark.parametrize("identity", IDENTITIES.values())
async def test_the_signer_service_recognises_it(identity: Identity) -> None:
    signer = TellingSigner(identity)
    made = SelfSigned(SelfSignedSource("x", AUDIENCE), means(identity, signer, clock=at(NOW)))
    await made.fetch()
    message, hash_ = signer.asked[0]
    assert Recogniser(signer.public_key, str(identity.id)).knows(message, NOW)
    assert hash_ is hash_for(signer.public_key)


async def test_no_two_are_the_same() -> None:
    made = source()
    assert len({parts((await made.fetch()).value)[1]["jti"] for _ in range(20)}) == 20


@pytest.mark.parametrize(
    ("lifetime", "most", "life"), [(300, 900, 300), (60, 900, 60), (300, 45, 45), (9000, 9000, 300), (30.9, 900, 30)]
)
async def test_its_life(lifetime: float, most: float, life: int) -> None:
    token = await source(NOW + 0.5, lifetime=lifetime, keeping=Keeping(max_lifetime=most)).fetch()
    claims = parts(token.value)[1]
    assert claims["exp"] - claims["iat"] == life
    assert token.expires == claims["exp"]
    assert token.lifetime == claims["exp"] - (NOW + 0.5)
    assert token.bound


async def test_it_does_not_outlive_our_certificate() -> None:
    short = INTERMEDIATE.leaf("/agent/short/1", lifetime=HOUR)
    ends = short.svid(NOW).not_after
    token = await source(ends - 100.5, short).fetch()
    assert token.expires == ends
    assert token.lifetime == 100.5
    for late in (0.0, 0.1, 5000):
        with pytest.raises(SourceError) as caught:
            await source(ends + late, short).fetch()
        assert caught.value.code is SourceCode.EXPIRED


async def test_a_life_of_less_than_a_second_is_none() -> None:
    with pytest.raises(SourceError) as caught:
        await source(lifetime=0.5).fetch()
    assert caught.value.code is SourceCode.EXPIRED


async def test_a_chain_that_no_field_has_room_for() -> None:
    made = means(PLANNER)
    made = replace(made, svid=replace(made.svid, chain=made.svid.chain * 6))
    with pytest.raises(SourceError) as caught:
        await SelfSigned(SelfSignedSource("x", AUDIENCE), made).fetch()
    assert caught.value.code is SourceCode.BAD_TOKEN
