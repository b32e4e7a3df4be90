from __future__ import annotations

import os
import socket
import stat
import time
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sidecar.errors import LocalError
from sidecar.keys.errors import KeyCode, PrivateKeyError, SignCode, SignError
from sidecar.keys.open import Secrets
from sidecar.keys.serial import SerialSigner
from sidecar.keys.signer import Hash
from sidecar.keys.spec import KeyFile, RemoteKey
from sidecar.keys.wire import Done, PublicKeyRequest, encode_request
from sidecar.signer import service as module
from sidecar.signer.limits import SignerLimits
from sidecar.signer.service import Place, SocketCode, let_go, open_key
from tests.support.ca import keypair
from tests.support.eventually import soon
from tests.support.lacking import lacking
from tests.support.signer_service import Ground, StuckDevice, software_signer

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.keys.software import SoftwareSigner

ASK_KEY = encode_request(PublicKeyRequest())
PEM = keypair("served").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_is_opened_and_tried(tmp_path: Path) -> None:
    signer = open_key(KeyFile(tmp_path / "k"), Secrets(pem=PEM), 3.0)
    assert signer.public_key == keypair("served").public_key()


def test_another_service_s_key_is_not_passed_on(tmp_path: Path) -> None:
    with pytest.raises(PrivateKeyError) as caught:
        open_key(RemoteKey(tmp_path / "s.sock"), Secrets(), 3.0)
    assert caught.value.code is KeyCode.UNSUPPORTED


def test_a_key_that_does_not_sign_is_closed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[SoftwareSigner] = []

    def fails(signer: SoftwareSigner) -> None:
        signer.close = lambda: closed.append(signer)  # type: ignore[method-assign]
        raise SignError(SignCode.BAD_SIGNATURE, "no signature")

    monkeypatch.setattr(module, "self_test", fails)
    with pytest.raises(SignError) as caught:
        open_key(KeyFile(tmp_path / "k"), Secrets(pem=PEM), 3.0)
    assert caught.value.code is SignCode.BAD_SIGNATURE
    assert len(closed) == 1


@pytest.mark.threat(51)
async def test_threat_51_without_descriptors_clients_wait(ground: Ground) -> None:
    lacking(await ground.start(), tries=2)
    client = await ground.client()
    client.send(ASK_KEY)
    assert isinstance(await client.reply(), Done)
    told = [line for line in ground.messages.lines if "accept" in line]
    where = f"address=unix:{ground.path}"
    assert told == [
        f'error cannot accept: newcomers wait, what is open goes on {where} error=EMFILE reason="Too many open files"',
        f"info accepts again {where}",
    ]


async def test_the_socket_is_ours_alone(ground: Ground) -> None:
    await ground.start()
    assert mode(ground.path) == 0o600
    assert any("the signer service is ready" in said and "sha256:" in said for said in ground.messages.lines)


@pytest.mark.parametrize(("uids", "expected"), [({4321}, 0o666), ({os.geteuid()}, 0o600)])
async def test_with_other_uids_the_kernel_s_word_decides(ground: Ground, uids: set[int], expected: int) -> None:
    await ground.start(uids=frozenset(uids))
    assert mode(ground.path) == expected


async def test_the_end(ground: Ground) -> None:
    device = StuckDevice()
    service = await ground.start(SerialSigner(device), limits=SignerLimits(close=0.1))
    idle, busy = await ground.client(), await ground.client()
    idle.send(ASK_KEY)
    assert await idle.reply() is not None
    busy.ask_to_sign()
    await soon(device.stuck.is_set, "the device to be asked")
    began = time.monotonic()
    await service.close()
    await service.close()
    assert time.monotonic() - began < 10, "a device that hangs does not keep us"
    assert not ground.path.exists()
    assert await idle.ended()
    assert await busy.ended()
    (line,) = await ground.lines("sign", 1)
    assert line["result"] == "signer_closed"
    device.go_on.set()


@pytest.mark.parametrize(
    ("there", "code"), [("live", SocketCode.IN_USE), ("file", SocketCode.NOT_A_SOCKET), ("long", SocketCode.UNUSABLE)]
)
async def test_a_socket_that_cannot_be_had(ground: Ground, there: str, code: SocketCode) -> None:
    live = socket.socket(socket.AF_UNIX)
    if there == "live":
        live.bind(str(ground.path))
        live.listen()
    elif there == "file":
        ground.path.write_text("precious")
    else:
        ground.path = ground.path.with_name("x" * 200)
    with live, pytest.raises(LocalError) as caught:
        await ground.start()
    assert caught.value.code is code
    assert caught.value.hint.endswith("--listen")


async def test_a_socket_that_nobody_answers_is_replaced(ground: Ground) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(ground.path))
    await ground.start()
    client = await ground.client()
    client.send(ASK_KEY)
    assert isinstance(await client.reply(), Done)


async def test_too_many_connections_the_longest_idle_gives_way(ground: Ground) -> None:
    await ground.start(limits=SignerLimits(connections=3))
    clients = []
    for _ in range(3):
        clients.append(await ground.client())
        clients[-1].send(ASK_KEY)
        assert await clients[-1].reply() is not None
    clients[0].send(ASK_KEY)
    assert await clients[0].reply() is not None
    one_more = await ground.client()
    one_more.send(ASK_KEY)
    assert await one_more.reply() is not None
    assert await clients[1].ended(), "it was idle for longest"
    for client in (clients[0], clients[2]):
        client.send(ASK_KEY)
        assert await client.reply() is not None


async def test_too_many_connections_a_busy_one_stays(ground: Ground) -> None:
    device = StuckDevice()
    service = await ground.start(SerialSigner(device), limits=SignerLimits(connections=2))
    busy = [await ground.client() for _ in range(2)]
    for client in busy:
        client.ask_to_sign()
    await soon(lambda: sum(each.busy for each in service.open) == 2, "both to be busy")
    one_more = await ground.client()
    assert await one_more.ended()
    (line,) = await ground.lines("refused", 1)
    assert line["result"] == "signer_connections"
    device.go_on.set()
    for client in busy:
        assert isinstance(await client.reply(), Done)


async def test_a_flood_of_connections_is_bounded(ground: Ground) -> None:
    service = await ground.start(limits=SignerLimits(connections=4))
    for _ in range(40):
        await ground.client()
        assert len(service.open) <= 4
    last = await ground.client()
    last.send(ASK_KEY)
    assert await last.reply() is not None
    assert len(service.open) <= 4


def test_a_signer_is_let_go_of() -> None:
    signer = software_signer(ec.SECP256R1)
    let_go(signer, 20)
    with pytest.raises(SignError):
        signer.sign(b"", Hash.SHA256)


def test_rules_of_the_socket(tmp_path: Path) -> None:
    assert Place(tmp_path / "x").rules().mode == 0o600
    assert Place(tmp_path / "x", frozenset({4321})).rules().folder_mode == 0o711
