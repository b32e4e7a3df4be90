from __future__ import annotations

import os
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import given
from hypothesis import strategies as st

from sidecar.clock import Clock
from sidecar.keys.errors import SignCode
from sidecar.keys.messages import MAX_BYTES, self_test_message
from sidecar.keys.selftest import check_signature
from sidecar.keys.serial import SerialSigner
from sidecar.keys.signer import Hash
from sidecar.keys.software import SoftwareSigner, load
from sidecar.keys.token_messages import Mandate
from sidecar.keys.wire import MAX_REQUEST, Done, PublicKeyRequest, Refusal, SignRequest, encode_request
from sidecar.signer import connection as module
from sidecar.signer.limits import SignerLimits
from sidecar.signer.log import UseCode
from sidecar.sockets import Peer
from tests.support.ca import Ca
from tests.support.eventually import soon
from tests.support.signer_service import Ground, Served, StuckDevice, software_signer
from tests.support.signing_inputs import longest

if TYPE_CHECKING:
    from collections.abc import Iterator

ASK_KEY = encode_request(PublicKeyRequest())
QUICK = SignerLimits(idle=0.2, head=0.2)


async def test_requests_and_replies(ground: Ground) -> None:
    service = await ground.start()
    client = await ground.client()
    client.send(ASK_KEY)
    reply = await client.reply()
    assert isinstance(reply, Done)
    key = load_der_public_key(reply.payload)
    assert key == service.means.signer.public_key
    assert isinstance(key, ec.EllipticCurvePublicKey)
    for _ in range(3):
        message = self_test_message()
        client.ask_to_sign(message)
        reply = await client.reply()
        assert isinstance(reply, Done)
        check_signature(key, reply.payload, message, Hash.SHA256)
    (first, *_) = await ground.lines("sign", 3)
    assert (first["peer.pid"], first["peer.uid"]) == (os.getpid(), os.geteuid())


async def test_byte_by_byte(ground: Ground) -> None:
    await ground.start()
    client = await ground.client()
    for octet in encode_request(SignRequest(Hash.SHA256, self_test_message())):
        client.send(bytes((octet,)))
        await client.writer.drain()
    assert isinstance(await client.reply(), Done)


@pytest.mark.parametrize("piece", [MAX_REQUEST, 1000, 1], ids=["whole", "pieces", "byte by byte"])
async def test_the_longest_token(ground: Ground, piece: int) -> None:
    planner = Ca(now=Clock().wall()).leaf()
    service = await ground.start(SoftwareSigner(load(planner.key_pem)), mandate=Mandate(planner.id))
    client = await ground.client()
    message = longest(planner, Clock().wall()).message
    assert len(message) >= MAX_BYTES - 2
    request = encode_request(SignRequest(Hash.SHA256, message))
    for start in range(0, len(request), piece):
        client.send(request[start : start + piece])
        await client.writer.drain()
    reply = await client.reply()
    assert isinstance(reply, Done)
    check_signature(service.means.signer.public_key, reply.payload, message, Hash.SHA256)


async def test_a_long_request_that_does_not_end(ground: Ground) -> None:
    await ground.start(limits=QUICK)
    client = await ground.client()
    client.send(encode_request(SignRequest(Hash.SHA256, bytes(MAX_BYTES)))[:-1])
    assert await client.ended()
    (line,) = await ground.lines("refused", 1)
    assert line["result"] == "signer_peer_slow"


@pytest.mark.parametrize("uid", [os.geteuid() + 1, None, -1, 2**32 - 1])
async def test_nobody_else_is_served(ground: Ground, monkeypatch: pytest.MonkeyPatch, uid: int | None) -> None:
    monkeypatch.setattr(module, "peer", lambda _: Peer(77, uid))
    await ground.start(uids=frozenset({os.geteuid() + 2}))
    client = await ground.client()
    client.send(ASK_KEY)
    assert await client.ended()
    (line,) = await ground.lines("refused", 1)
    assert (line["peer.pid"], line["peer.uid"], line["result"]) == (77, uid, "signer_peer_uid")
    assert any("the signer socket refused a connection" in said for said in ground.messages.lines)


class Deaf:
    """A transport that goes on after it was aborted, and a service that admits nobody."""

    means = SimpleNamespace(log=SimpleNamespace(refused=lambda *_: None))

    def get_extra_info(self, name: str) -> None:
        """There is no socket."""

    def abort(self) -> None:
        """Does nothing."""

    def admit(self, *_: object) -> UseCode:
        return UseCode.UID


async def test_what_a_stranger_has_sent_already_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "peer", lambda _: Peer(77, 4321))
    connection = module.Connection(Deaf())  # type: ignore[arg-type]
    connection.connection_made(Deaf())  # type: ignore[arg-type]
    connection.data_received(ASK_KEY)  # an answer would need more than Deaf has


async def test_a_uid_that_is_named_is_served(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "peer", lambda _: Peer(77, 4321))
    await ground.start(uids=frozenset({4321}))
    client = await ground.client()
    client.send(ASK_KEY)
    assert isinstance(await client.reply(), Done)


async def test_root_is_nobody_special(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "peer", lambda _: Peer(77, 0))
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    await ground.start()
    client = await ground.client()
    assert await client.ended()


@pytest.mark.parametrize(
    ("data", "result"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "signer_wire_version"),
        (b"\1\7", "signer_wire_kind"),
        (b"\1\2\xff\xff", "signer_wire_length"),
        (b"\1\2" + (1 + MAX_BYTES + 1).to_bytes(2, "big"), "signer_wire_length"),
        (b"\1\2\0\2\x09", "signer_wire_hash"),
        (ASK_KEY + b"x", "signer_wire_excess"),
        (ASK_KEY * 2, "signer_wire_excess"),
        (bytes(100_000), "signer_wire_version"),
    ],
)
async def test_what_is_no_request_ends_the_connection(ground: Ground, data: bytes, result: str) -> None:
    await ground.start()
    client = await ground.client()
    client.send(data)
    assert await client.reply() in {Refusal(SignCode.REFUSED), None}  # a reset may overtake it, where much is unread
    assert await client.ended()
    (line,) = await ground.lines("refused", 1)
    assert line["result"] == result
    assert ground.log.of("sign") == []


async def test_a_request_that_does_not_end(ground: Ground) -> None:
    await ground.start(limits=QUICK)
    client = await ground.client()
    client.send(ASK_KEY[:2])
    assert await client.ended()
    (line,) = await ground.lines("refused", 1)
    assert line["result"] == "signer_peer_slow"


async def test_a_connection_that_asks_nothing(ground: Ground) -> None:
    await ground.start(limits=QUICK)
    client = await ground.client()
    assert await client.ended()
    again = await ground.client()
    again.send(ASK_KEY)
    assert await again.reply() is not None
    assert await again.ended(), "the time begins anew with the reply"
    assert ground.log.lines == [], "that is nobody's fault"


async def test_one_request_at_a_time(ground: Ground) -> None:
    device = StuckDevice()
    await ground.start(SerialSigner(device))
    client = await ground.client()
    client.ask_to_sign()
    await soon(device.stuck.is_set, "the device to be asked")
    client.send(ASK_KEY)
    assert await client.ended()
    (line,) = await ground.lines("refused", 1)
    assert line["result"] == "signer_peer_hurry"
    device.go_on.set()
    (line,) = await ground.lines("sign", 1)
    assert line["result"] == "ok", "it was made, and that is written down"


async def test_a_client_that_leaves_while_it_waits_for_the_device(ground: Ground) -> None:
    device = StuckDevice()
    service = await ground.start(SerialSigner(device), limits=SignerLimits(threads=1))
    first, second = await ground.client(), await ground.client()
    first.ask_to_sign()
    await soon(device.stuck.is_set, "the device to be asked")
    second.ask_to_sign()
    await soon(lambda: sum(each.busy for each in service.open) == 2, "the second request")
    second.close()
    (line,) = await ground.lines("sign", 1)
    assert line["result"] == "signer_peer_left"
    device.go_on.set()
    assert isinstance(await first.reply(), Done)
    first.ask_to_sign()
    assert isinstance(await first.reply(), Done), "the one thread is past what was given up"
    assert device.calls == 2, "nothing is signed for nobody"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(software_signer(ec.SECP256R1), tmp_path_factory.mktemp("signer") / "s.sock") as made:
        yield made


@given(pieces=st.lists(st.binary(max_size=200), max_size=4))
def test_any_bytes_leave_the_service_standing(served: Served, pieces: list[bytes]) -> None:
    """Whatever a client sends, in whatever pieces, the service answers the next one and signs nothing unasked."""
    uses = len(served.log.of("sign"))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(served.path))
        for piece in pieces:
            try:
                sock.sendall(piece)
            except ConnectionError:
                break
    client = served.client()
    client.close()
    assert len(served.log.of("sign")) == uses
