"""Keys lent to OpenSSL: signers that tell what they were asked for and do as they are told, and contexts that use them."""

from __future__ import annotations

import _ssl
import contextlib
import ctypes
import gc
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.keys import openssl, software
from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.openssl import ExternalKey, live_keys
from sidecar.keys.protection import Protection
from sidecar.tls.contexts import Credentials, client_context, server_context
from tests.support.ca import DAY, keypair
from tests.support.tls import CA, INTERMEDIATE, PLANNER, TOOLS, Ours, anybody, converse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidecar.keys.signer import Hash
    from sidecar.tls.contexts import PrivateKey, TlsContext
    from tests.support.ca import Identity

TOOLS_384, PLANNER_384 = (
    INTERMEDIATE.leaf(f"/agent/{name}/384", key=keypair(f"{name} P-384", curve=ec.SECP384R1), lifetime=5 * DAY)
    for name in ("tools", "planner")
)


class Asked(NamedTuple):
    message: bytes
    hash: Hash


class TellingSigner:
    """Keeps the last things that it was asked to sign, and signs them; ``answer`` is called in its place."""

    protection = Protection.HSM

    def __init__(self, identity: Identity, answer: Callable[[bytes, Hash], Any] | None = None) -> None:
        assert isinstance(identity.key, ec.EllipticCurvePrivateKey)
        self.key = identity.key
        self.public_key = self.key.public_key()
        self.answer = answer
        self.asked: deque[Asked] = deque(maxlen=400)

    def sign(self, message: bytes, hash_: Hash) -> bytes:
        self.asked.append(Asked(message, hash_))
        return (self.answer or self.right)(message, hash_)

    def right(self, message: bytes, hash_: Hash) -> bytes:
        return self.key.sign(message, ec.ECDSA(hash_.algorithm))

    def close(self) -> None:
        pass


class Lent(NamedTuple):
    """A client's and a server's context, and what signs for each."""

    client: TlsContext
    server: TlsContext
    planner: TellingSigner
    tools: TellingSigner


def lent(planner: Identity = PLANNER, tools: Identity = TOOLS) -> Lent:
    """Two ends whose keys are behind signers."""
    signers = TellingSigner(planner), TellingSigner(tools)
    return Lent(
        client_of(planner, ExternalKey(signers[0])), server_of(tools, ExternalKey(signers[1])), signers[0], signers[1]
    )


def client_of(identity: Identity, key: PrivateKey | None = None, **knobs: Any) -> TlsContext:
    """A client's context with that key for the identity's certificate; its own, in software, unless one is given."""
    presented = Credentials(identity.chain_pem, key or software.load(identity.key_pem))
    return client_context(presented, CA.bundles, CA.domain, anybody, **knobs)


def server_of(identity: Identity, key: PrivateKey | None = None, **knobs: Any) -> TlsContext:
    """The same for a server."""
    presented = Credentials(identity.chain_pem, key or software.load(identity.key_pem))
    return server_context(presented, CA.bundles, **knobs)


def queued_error() -> int:
    """The oldest error in this thread's queue of OpenSSL, where a later call would find it; 0 for none."""
    library = ctypes.CDLL(_ssl.__file__)
    library.ERR_peek_error.restype = ctypes.c_ulong
    error: int = library.ERR_peek_error()
    return error


def under_way() -> int:
    """Signatures that OpenSSL has begun and not given up."""
    return len(openssl._signatures)


@contextlib.contextmanager
def leaving_nothing() -> Iterator[None]:
    """Demands that the block leaves no more keys and signatures than it found, and no error for the next one to trip over."""
    keys, signatures = live_keys(), under_way()
    yield
    if live_keys() > keys:
        gc.collect()  # slow among thousands of tests
    assert live_keys() <= keys
    assert under_way() <= signatures
    assert queued_error() == 0


def talk(client: Ours, server: Ours) -> None:
    """Both ends are open, each with the other's identity, and data passes both ways."""
    assert (client.error, server.error) == (None, None)
    assert client.open
    assert server.open
    client.write(b"ping")
    server.write(b"pong")
    converse(client, server)
    assert (client.plain, server.plain) == (b"pong", b"ping")


def failing(code: SignCode) -> Callable[[bytes, Hash], Any]:
    def answer(_message: bytes, _hash: Hash) -> Any:
        raise SignError(code, "as the test says", hint="as the test hints")

    return answer
