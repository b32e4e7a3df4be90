"""What a signer service and its clients say to each other, over a UNIX stream socket: one request, its reply, the next.

Numbers are big-endian. Each message is a head of four octets and a body::

    octet 0      version of the format: 1
    octet 1      a request's kind, or a reply's status
    octets 2-3   length of the body, in octets
    then         the body

Requests:

* kind 1, PUBLIC_KEY. The body is empty.
* kind 2, SIGN. Octet 0 of the body is the hash: 1 is SHA-256, 2 is SHA-384. The rest is the message itself, never a
  digest, of at most 16384 octets (`sidecar.keys.messages.MAX_BYTES`).

Replies:

* status 0, done. The body is a SubjectPublicKeyInfo in DER (RFC 5280 4.1.2.7) after PUBLIC_KEY, an ECDSA-Sig-Value in DER
  (RFC 3279 2.2.3) after SIGN; never empty.
* status 1, refused. The body is the reason: the ASCII text of a `sidecar.keys.errors.SignCode`.

A reply has at most 4096 octets. A client sends no request before it has the reply to the one before. Whoever reads what
is not in this list ends the connection. A change that an old reader would misread is a new version.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final, TypeAlias

from sidecar.errors import PeerError
from sidecar.keys import messages
from sidecar.keys.errors import SignCode
from sidecar.keys.signer import Hash

VERSION: Final = 1
HEAD_BYTES: Final = 4
#: A body of SIGN: the hash and the longest message that any service signs. A length has room for 65535.
_SIGN_BYTES: Final = 1 + messages.MAX_BYTES
MAX_REQUEST: Final = HEAD_BYTES + _SIGN_BYTES
#: A public key takes 120 octets on P-384, a signature 104; this leaves room for more curves and stays one read.
MAX_REPLY: Final = 4096


class Kind(IntEnum):
    """Octet 1 of a request."""

    PUBLIC_KEY = 1
    SIGN = 2


class Status(IntEnum):
    """Octet 1 of a reply."""

    DONE = 0
    REFUSED = 1


_HASHES: Final = {1: Hash.SHA256, 2: Hash.SHA384}
_NUMBERS: Final = {hash_: number for number, hash_ in _HASHES.items()}


class WireCode(StrEnum):
    """What is wrong with bytes that are no message; part of the log, never renamed."""

    VERSION = "signer_wire_version"
    KIND = "signer_wire_kind"
    LENGTH = "signer_wire_length"
    HASH = "signer_wire_hash"
    REASON = "signer_wire_reason"
    #: More bytes than one message, where one is due.
    EXCESS = "signer_wire_excess"


class WireError(PeerError):
    """Bytes that are no message of this format, or a message that does not fit into it. Never quotes them."""


@dataclass(frozen=True, slots=True)
class PublicKeyRequest:
    """Asks for the public key."""


@dataclass(frozen=True, slots=True)
class SignRequest:
    """Asks for a signature over a message."""

    hash_: Hash
    message: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """What was asked for."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why it cannot be had."""

    code: SignCode


Request: TypeAlias = PublicKeyRequest | SignRequest
Reply: TypeAlias = Done | Refusal

#: The lengths that the body of each kind and status may have, ends included.
_REQUEST_LENGTHS: Final[dict[int, tuple[int, int]]] = {Kind.PUBLIC_KEY: (0, 0), Kind.SIGN: (1, _SIGN_BYTES)}
_REPLY_LENGTHS: Final[dict[int, tuple[int, int]]] = {
    Status.DONE: (1, MAX_REPLY - HEAD_BYTES),
    Status.REFUSED: (1, max(len(code.value) for code in SignCode)),
}


def encode_request(request: Request) -> bytes:
    """Returns the bytes of a request. Raises WireError for a message that is longer than any that is ever signed."""
    if isinstance(request, PublicKeyRequest):
        return _framed(Kind.PUBLIC_KEY, b"")
    if len(request.message) > messages.MAX_BYTES:
        raise WireError(WireCode.LENGTH, f"the message has more than {messages.MAX_BYTES} bytes")
    return _framed(Kind.SIGN, bytes((_NUMBERS[request.hash_],)) + request.message)


def encode_reply(reply: Reply) -> bytes:
    """Returns the bytes of a reply. Raises WireError for a payload that is empty or too long."""
    if isinstance(reply, Refusal):
        return _framed(Status.REFUSED, reply.code.value.encode("ascii"))
    least, most = _REPLY_LENGTHS[Status.DONE]
    if not least <= len(reply.payload) <= most:
        raise WireError(WireCode.LENGTH, f"the reply has {len(reply.payload)} bytes, not {least} to {most}")
    return _framed(Status.DONE, reply.payload)


def parse_request(data: bytes) -> Request | None:
    """Reads what has come of a request: None while it is not all there. Raises WireError as soon as it cannot become one."""
    found = _body(data, _REQUEST_LENGTHS)
    if found is None:
        return None
    kind, body, complete = found
    if kind == Kind.PUBLIC_KEY:
        return PublicKeyRequest()
    if body and body[0] not in _HASHES:
        raise WireError(WireCode.HASH, f"there is no hash {body[0]}")
    return SignRequest(_HASHES[body[0]], body[1:]) if complete else None


def parse_reply(data: bytes) -> Reply | None:
    """Reads what has come of a reply: None while it is not all there. Raises WireError as soon as it cannot become one."""
    found = _body(data, _REPLY_LENGTHS)
    if found is None or not found[2]:
        return None
    status, body, _ = found
    if status == Status.DONE:
        return Done(body)
    try:
        return Refusal(SignCode(body.decode("ascii")))
    except ValueError:
        raise WireError(WireCode.REASON, "it is refused for a reason that is not known here") from None


def _framed(kind: int, body: bytes) -> bytes:
    return bytes((VERSION, kind)) + len(body).to_bytes(2, "big") + body


def _body(data: bytes, lengths: dict[int, tuple[int, int]]) -> tuple[int, bytes, bool] | None:
    """Checks a head as far as it is there. Returns the kind, what there is of the body, and whether that is all of it."""
    if data and data[0] != VERSION:
        raise WireError(WireCode.VERSION, f"there is no version {data[0]} of the format")
    if len(data) > 1 and data[1] not in lengths:
        raise WireError(WireCode.KIND, f"there is no kind {data[1]} of message")
    if len(data) < HEAD_BYTES:
        return None
    kind, length = data[1], int.from_bytes(data[2:HEAD_BYTES], "big")
    least, most = lengths[kind]
    if not least <= length <= most:
        raise WireError(WireCode.LENGTH, f"a body of {length} bytes is announced, not one of {least} to {most}")
    body = data[HEAD_BYTES:]
    if len(body) > length:
        raise WireError(WireCode.EXCESS, "more follows where a message should end")
    return kind, body, len(body) == length
