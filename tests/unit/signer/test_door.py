"""The service behind a door, and the way to it: `sidecar.signer.door` and `sidecar.keys.door`."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Self

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.clock import Clock
from sidecar.keys.door import Door
from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.protection import Protection
from sidecar.keys.remote import RemoteSigner
from sidecar.keys.selftest import self_test
from sidecar.keys.token_messages import Mandate
from sidecar.signer.door import Porter
from sidecar.signer.limits import SignerLimits
from sidecar.signer.service import SignerService
from tests.support.log import KeptMessages
from tests.support.signer_service import KeptLines, software_signer

if TYPE_CHECKING:
    from collections.abc import Iterator


class House:
    """Both ends of a door, and a service that can come and go behind it."""

    def __init__(self) -> None:
        self.outer, self.inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.service: SignerService | None = None
        self._porter: Porter | None = None

    def open(self) -> None:
        messages, limits = KeptMessages(), SignerLimits()
        self.service = SignerService(
            software_signer(ec.SECP256R1),
            None,
            KeptLines(),
            messages=messages,
            clock=Clock(),
            limits=limits,
            mandate=Mandate(),
        )
        self._porter = Porter(self.service, self.inner.dup())
        self._porter.start()

    async def close(self) -> None:
        assert self._porter is not None
        assert self.service is not None
        self._porter.close()
        await self.service.close()

    async def client(self, limit: float = 5.0) -> RemoteSigner:
        return await asyncio.to_thread(RemoteSigner, Door(self.outer.dup()), limit=limit, protection=Protection.TPM)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.outer.close()
        self.inner.close()


@pytest.fixture
def house() -> Iterator[House]:
    with House() as made:
        yield made


async def test_it_signs_and_says_what_protects_the_key(house: House) -> None:
    house.open()
    client = await house.client()
    assert client.public_key == software_signer(ec.SECP256R1).public_key
    assert client.protection is Protection.TPM
    await asyncio.to_thread(self_test, client)
    client.close()
    await house.close()


async def test_a_service_that_was_started_again_finds_who_has_knocked(house: House) -> None:
    house.open()
    client = await house.client()
    await house.close()
    trying = asyncio.create_task(asyncio.to_thread(self_test, client))  # noqa: TID251 - awaited below
    await asyncio.sleep(0.05)
    house.open()
    await trying
    client.close()
    await house.close()


async def test_nobody_behind_the_door(house: House) -> None:
    with pytest.raises(SignError, match="our signer process did not answer within") as caught:
        await house.client(limit=0.05)
    assert caught.value.code is SignCode.TIMEOUT


async def test_a_door_before_which_too_many_wait(house: House) -> None:
    """The kernel takes so many connections that nobody takes in; who comes then has his time limit."""
    door = Door(house.outer.dup())
    waiting: list[socket.socket] = []
    with pytest.raises(TimeoutError):
        waiting.extend(door.connect(Once(2)) for _ in range(10_000))
    for sock in waiting:
        sock.close()
    door.close()
    house.open()
    client = await house.client()
    client.close()
    await house.close()


class Once:
    """Time for so many looks, then none."""

    def __init__(self, looks: int) -> None:
        self._looks = looks

    def __call__(self) -> float:
        self._looks -= 1
        if self._looks <= 0:
            raise TimeoutError
        return 1.0


async def test_a_door_that_is_gone(house: House) -> None:
    house.inner.close()
    with pytest.raises(SignError, match="our signer process cannot be reached") as caught:
        await house.client()
    assert caught.value.code is SignCode.UNAVAILABLE


async def test_what_is_no_connection_is_let_go_of(house: House) -> None:
    house.open()
    reading, writing = os.pipe()
    socket.send_fds(house.outer, [b"\0"], [writing])
    os.close(writing)
    house.outer.send(b"nothing along")
    client = await house.client()
    client.close()
    assert await asyncio.to_thread(os.read, reading, 1) == b"", "the pipe's other end is closed"
    os.close(reading)
    await house.close()
