from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from sidecar.clock import Clock
from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.protection import Protection
from sidecar.keys.serial import SerialSigner
from sidecar.keys.signer import Hash
from sidecar.keys.token_messages import Client, Mandate
from sidecar.keys.wire import Done, PublicKeyRequest, Refusal, encode_request
from sidecar.signer.limits import SignerLimits
from tests.support.ca import Ca, keypair
from tests.support.eventually import soon
from tests.support.signer_service import Ground, StuckDevice, software_signer
from tests.support.signing_inputs import ISSUER, assertion, self_signed

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = keypair("of a device that fails")
HANDSHAKE = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + bytes(32)
#: Long enough for a reply that needs no device, however busy the machine; short enough to wait for.
LIMIT = SignerLimits(sign=0.5)
HUNG = SignerLimits(sign=0.5, threads=2, waiting=2)


class Counting:
    """A signer whose every call is seen; ``act`` is what it does."""

    protection = Protection.HSM
    public_key = KEY.public_key()

    def __init__(self, act: Callable[[], bytes] = lambda: b"a signature") -> None:
        self.act = act
        self.messages: list[bytes] = []

    def sign(self, message: bytes, hash_: Hash) -> bytes:
        self.messages.append(message)
        return self.act()

    def close(self) -> None:
        """Holds nothing."""


def raising(error: BaseException) -> Callable[[], bytes]:
    def act() -> bytes:
        raise error

    return act


async def test_each_use_is_written_down(ground: Ground) -> None:
    signer = Counting()
    await ground.start(signer)
    client = await ground.client()
    for message in (HANDSHAKE, None):
        client.ask_to_sign(message)
        assert await client.reply() == Done(b"a signature")
    first, second = await ground.lines("sign", 2)
    assert [line["purpose"] for line in (first, second)] == ["tls13-certificate-verify", "self-test"]
    assert first["result"] == "ok"
    assert first["key.protection"] == "hsm"
    assert str(first["pin"]).startswith("sha256:")
    written = b"".join(ground.log.lines)
    assert b"CertificateVerify\\" not in written
    assert b"a signature" not in written


CSR = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(KEY, Hash.SHA256.algorithm)


@pytest.mark.parametrize(
    "message",
    [
        CSR.tbs_certrequest_bytes,
        CSR.public_bytes(Encoding.DER)[:140],
        b"eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0",
        Hash.SHA256.digest(HANDSHAKE),
        HANDSHAKE + b"x",
        b"",
    ],
    ids=["CSR", "signed CSR", "JWS", "digest", "longer handshake", "nothing"],
)
async def test_what_no_recogniser_knows_never_reaches_the_device(ground: Ground, message: bytes) -> None:
    signer = Counting()
    await ground.start(signer)
    client = await ground.client()
    client.ask_to_sign(message)
    assert await client.reply() == Refusal(SignCode.REFUSED)
    (line,) = await ground.lines("sign", 1)
    assert (line["purpose"], line["result"]) == (None, "signer_refused")
    client.ask_to_sign()
    assert isinstance(await client.reply(), Done), "the connection goes on"
    assert message not in signer.messages


now = Clock().wall
PLANNER = Ca(now=now()).leaf(key=KEY)
ID = str(PLANNER.id)
CLIENT = Client(ISSUER, "client 1")
MANDATE = Mandate(PLANNER.id, frozenset({CLIENT}))


def token_for(seconds: float = 0.0, **knobs: Any) -> bytes:
    return self_signed(PLANNER.der, ID, now() + seconds, **knobs).message


def assertion_for(client: str = CLIENT.client_id, seconds: float = 0.0, **knobs: Any) -> bytes:
    return assertion(client, CLIENT.audience, now() + seconds, **knobs).message


async def test_tokens_of_the_mandate(ground: Ground) -> None:
    signer = Counting()
    await ground.start(signer, mandate=MANDATE)
    assert any(
        "signs=tls13-certificate-verify,self-test,self-signed-token,client-assertion" in said.replace('"', "")
        for said in ground.messages.lines
    )
    client = await ground.client()
    asked = [token_for(), assertion_for(), HANDSHAKE]
    for message in asked:
        client.ask_to_sign(message)
        assert await client.reply() == Done(b"a signature")
    assert signer.messages == asked
    lines = await ground.lines("sign", 3)
    assert [line["purpose"] for line in lines] == ["self-signed-token", "client-assertion", "tls13-certificate-verify"]
    assert b"eyJ" not in b"".join(ground.log.lines)


@pytest.mark.parametrize(
    "message",
    [
        lambda: token_for(-90),
        lambda: token_for(90),
        lambda: token_for(lifetime=301),
        lambda: token_for(audience=ISSUER),
        lambda: token_for(alg="ES384"),
        lambda: self_signed(PLANNER.der, ID + "0", now()).message,
        lambda: self_signed(Ca(now=now()).leaf("/agent/planner/1").der, ID, now()).message,
        lambda: assertion_for(ID),
        lambda: assertion_for(seconds=-90),
        lambda: assertion_for(lifetime=61),
        lambda: token_for() + b".c2ln",
    ],
)
async def test_tokens_beside_the_mandate(ground: Ground, message: Callable[[], bytes]) -> None:
    signer = Counting()
    await ground.start(signer, mandate=MANDATE)
    client = await ground.client()
    client.ask_to_sign(message())
    assert await client.reply() == Refusal(SignCode.REFUSED)
    (line,) = await ground.lines("sign", 1)
    assert (line["purpose"], line["result"]) == (None, "signer_refused")
    assert signer.messages == []


async def test_no_tokens_without_a_mandate(ground: Ground) -> None:
    await ground.start(Counting())
    client = await ground.client()
    for message in (token_for(), assertion_for(), assertion_for(ID)):
        client.ask_to_sign(message)
        assert await client.reply() == Refusal(SignCode.REFUSED)
    assert [line["purpose"] for line in await ground.lines("sign", 3)] == [None] * 3


@pytest.mark.parametrize(("curve", "other"), [(ec.SECP256R1, Hash.SHA384), (ec.SECP384R1, Hash.SHA256)])
async def test_the_hash_is_that_of_the_curve(ground: Ground, curve: type[ec.EllipticCurve], other: Hash) -> None:
    await ground.start(software_signer(curve))
    client = await ground.client()
    client.ask_to_sign(HANDSHAKE, other)
    assert await client.reply() == Refusal(SignCode.REFUSED)
    (line,) = await ground.lines("sign", 1)
    assert (line["purpose"], line["result"]) == ("tls13-certificate-verify", "signer_refused")


@pytest.mark.parametrize("code", SignCode)
async def test_what_the_device_says(ground: Ground, code: SignCode) -> None:
    await ground.start(Counting(raising(SignError(code, "why"))))
    client = await ground.client()
    client.ask_to_sign()
    assert await client.reply() == Refusal(code)
    (line,) = await ground.lines("sign", 1)
    assert line["result"] == str(code)


@pytest.mark.parametrize("act", [raising(ValueError("a secret")), lambda: b"", lambda: bytes(5000)])
async def test_what_a_device_should_not_do(ground: Ground, act: Callable[[], bytes]) -> None:
    await ground.start(Counting(act))
    client = await ground.client()
    client.ask_to_sign()
    assert await client.reply() == Refusal(SignCode.FAILED)
    (line,) = await ground.lines("sign", 1)
    assert line["result"] == "signer_failed"
    (said,) = [each for each in ground.messages.lines if "unexpected" in each]
    assert "a secret" not in said


async def test_a_device_that_hangs_stalls_nothing_else(ground: Ground) -> None:
    device = StuckDevice()
    await ground.start(SerialSigner(device, limit=LIMIT.sign), limits=LIMIT)
    stuck, other = await ground.client(), await ground.client()
    stuck.ask_to_sign()
    await soon(device.stuck.is_set, "the device to be asked")
    other.send(encode_request(PublicKeyRequest()))
    assert isinstance(await other.reply(), Done)
    assert device.stuck.is_set(), "the key was shown while it hung"
    assert await stuck.reply() == Refusal(SignCode.TIMEOUT)
    other.ask_to_sign()
    assert await other.reply() == Refusal(SignCode.TIMEOUT)
    assert device.calls == 1
    device.go_on.set()
    await soon(lambda: not device.stuck.is_set(), "the device to answer again")
    async with asyncio.timeout(20):
        while True:  # the call that hung may not have let go of the device yet
            stuck.ask_to_sign()
            if isinstance(await stuck.reply(), Done):
                break
    results = [line["result"] for line in ground.log.of("sign")]
    assert results[:2] == ["signer_timeout", "signer_timeout"]
    assert results[-1] == "ok"


async def test_a_flood_while_the_device_hangs_is_bounded(ground: Ground) -> None:
    """The threads hang, the queue is full: one more is refused at once, and none of them is begun later."""
    device = StuckDevice()
    signer = Counting(lambda: device.sign(bytes(32), Hash.SHA256))
    await ground.start(signer, limits=HUNG)
    clients = [await ground.client() for _ in range(7)]
    for client in clients[: HUNG.threads]:
        client.ask_to_sign()
    await soon(lambda: device.calls == HUNG.threads, "the threads to be in the device")
    for client in clients[HUNG.threads :]:
        client.ask_to_sign()
    replies = [await client.reply() for client in clients]
    assert replies.count(Refusal(SignCode.FULL)) == 3
    assert replies.count(Refusal(SignCode.TIMEOUT)) == 4
    assert device.calls == HUNG.threads
    clients[0].ask_to_sign()
    assert await clients[0].reply() == Refusal(SignCode.TIMEOUT), "the threads still hang; who gave up left the queue"
    device.go_on.set()
    await soon(lambda: not device.stuck.is_set(), "the threads to be free")
    clients[0].ask_to_sign()
    assert isinstance(await clients[0].reply(), Done)
    assert device.calls == HUNG.threads + 1, "what was given up is not signed"
    assert len(await ground.lines("sign", 9)) == 9
