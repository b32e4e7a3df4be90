"""A signer service in this process, on the test's event loop or in a thread with one of its own; and what it wrote down."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sidecar.clock import Clock
from sidecar.keys import software
from sidecar.keys.messages import self_test_message
from sidecar.keys.protection import Protection
from sidecar.keys.remote import RemoteSigner
from sidecar.keys.signer import Hash
from sidecar.keys.spec import RemoteKey
from sidecar.keys.token_messages import Mandate
from sidecar.keys.wire import SignRequest, encode_request, parse_reply
from sidecar.signer.limits import SignerLimits
from sidecar.signer.service import Place, SignerService
from tests.support.ca import keypair
from tests.support.eventually import soon
from tests.support.log import KeptMessages
from tests.support.signers import Subject

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from sidecar.keys.signer import Signer
    from sidecar.keys.wire import Reply

LIMIT = 20.0
T = TypeVar("T")


class KeptLines:
    """Takes lines as the access log does, and keeps them."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def add(self, line: bytes) -> None:
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        self.lines.append(line)

    def flush(self) -> None:
        """There is nothing that waits."""

    def of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in map(json.loads, self.lines) if line["event"] == event]


def software_signer(curve: type[ec.EllipticCurve], name: str = "behind a service") -> software.SoftwareSigner:
    pem = keypair(name, curve=curve).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return software.SoftwareSigner(software.load(pem))


class StuckDevice:
    """A device whose calls hang until they are let go on; `stuck` is set while one does."""

    protection = Protection.TPM

    def __init__(self, curve: type[ec.EllipticCurve] = ec.SECP256R1) -> None:
        self._key = keypair("a device that hangs", curve=curve)
        self.public_key = self._key.public_key()
        self.stuck = threading.Event()
        self.go_on = threading.Event()
        self.calls = 0

    def sign(self, digest: bytes, hash_: Hash) -> bytes:
        self.calls += 1
        self.stuck.set()
        self.go_on.wait()
        self.stuck.clear()
        return self._key.sign(digest, ec.ECDSA(Prehashed(hash_.algorithm)))

    def close(self) -> None:
        self.go_on.wait()


class Served:
    """A service that runs in a thread; ``with`` ends it."""

    def __init__(self, signer: Signer, path: Path, limits: SignerLimits | None = None) -> None:
        self.path = path
        self.log = KeptLines()
        self.messages = KeptMessages()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.service = self._wait(self._start(signer, limits or SignerLimits()))

    async def _start(self, signer: Signer, limits: SignerLimits) -> SignerService:
        service = SignerService(
            signer,
            Place(self.path),
            self.log,
            messages=self.messages,
            clock=Clock(),
            limits=limits,
            mandate=Mandate(),
        )
        await service.start()
        return service

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT)

    def client(self, limit: float = LIMIT) -> RemoteSigner:
        return RemoteSigner(RemoteKey(self.path), limit=limit)

    def close(self) -> None:
        self._wait(self.service.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Client:
    """One connection, by hand; its ``reply`` is None where the service ended it instead."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def ask_to_sign(self, message: bytes | None = None, hash_: Hash = Hash.SHA256) -> None:
        self.send(encode_request(SignRequest(hash_, self_test_message() if message is None else message)))

    async def reply(self) -> Reply | None:
        data = b""
        async with asyncio.timeout(LIMIT):
            while (found := parse_reply(data)) is None:
                try:
                    more = await self.reader.read(1)
                except ConnectionError:
                    return None
                if not more:
                    assert data == b"", "a reply is whole"
                    return None
                data += more
        return found

    async def ended(self) -> bool:
        """Waits for the end of the connection."""
        assert await self.reply() is None
        return True

    def close(self) -> None:
        self.writer.close()


class Ground:
    """A service on the running loop, with its log, its messages and its clients."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "s.sock"
        self.log = KeptLines()
        self.messages = KeptMessages()
        self.service: SignerService | None = None
        self._clients: list[Client] = []

    async def start(
        self,
        signer: Signer | None = None,
        *,
        uids: frozenset[int] = frozenset(),
        limits: SignerLimits | None = None,
        mandate: Mandate | None = None,
    ) -> SignerService:
        self.service = SignerService(
            signer or software_signer(ec.SECP256R1),
            Place(self.path, uids),
            self.log,
            messages=self.messages,
            clock=Clock(),
            limits=limits or SignerLimits(),
            mandate=mandate or Mandate(),
        )
        await self.service.start()
        return self.service

    async def client(self) -> Client:
        client = Client(*await asyncio.open_unix_connection(self.path))
        self._clients.append(client)
        return client

    async def lines(self, event: str, count: int) -> list[dict[str, object]]:
        """Waits for that many lines; more would be as wrong as fewer."""
        await soon(lambda: len(self.log.of(event)) >= count, f"{count} lines of {event}")
        found = self.log.of(event)
        assert len(found) == count
        return found

    async def close(self) -> None:
        for client in self._clients:
            client.close()
        service = self.service
        if service is not None:
            await service.close()
            await soon(lambda: not service.open, "the connections to be over")


@contextlib.contextmanager
def service_subject(curve: type[ec.EllipticCurve]) -> Iterator[Subject]:
    """A row of `tests.support.signers`: a software key behind a service."""
    folder = Path(tempfile.mkdtemp(prefix="sidecar-signer-"))
    try:
        with Served(software_signer(curve), folder / "s.sock") as served:
            signer = served.client()
            yield Subject(signer, Protection.REMOTE, served.client, particular=True)
            signer.close()
    finally:
        shutil.rmtree(folder)
