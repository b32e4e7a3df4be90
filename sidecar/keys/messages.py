"""What a key of ours may be asked to sign: the table of recognisers that a signer service goes by.

A service that signed whatever it is given would lend its key for certificates, tokens and other people's handshakes.
So it is given the whole message, never a digest, and signs only what a recogniser knows. All of these begin with 64
spaces (RFC 8446 4.4.3), which no certificate, CSR or JWS does.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_BLANKS: Final = b" " * 64
_SELF_TEST: Final = _BLANKS + b"sidecar self-test\0"
_SELF_TEST_BYTES: Final = 32
#: RFC 8446 4.4.3: 64 spaces, the context string, a zero byte, the transcript hash of the cipher suite (SHA-256 or
#: SHA-384). No cipher suite of TLS 1.3 has another hash.
_CERTIFICATE_VERIFY: Final = re.compile(
    _BLANKS + rb"TLS 1\.3, (server|client) CertificateVerify\0(?:.{32}|.{48})", re.DOTALL
)


class Recogniser(NamedTuple):
    """``name`` is for the log; ``knows`` says whether a message is one of its kind."""

    name: str
    knows: Callable[[bytes], bool]


def _handshake(message: bytes) -> bool:
    return _CERTIFICATE_VERIFY.fullmatch(message) is not None


def _self_test(message: bytes) -> bool:
    return message.startswith(_SELF_TEST) and len(message) == len(_SELF_TEST) + _SELF_TEST_BYTES


#: A new kind of message is one more row.
RECOGNISERS: Final = (Recogniser("tls13-certificate-verify", _handshake), Recogniser("self-test", _self_test))

#: The longest message that any row accepts.
MAX_BYTES: Final = len(_BLANKS) + len(b"TLS 1.3, server CertificateVerify\0") + 48


def recognise(message: bytes) -> str | None:
    """Returns the name of the kind of message, None for one that must not be signed."""
    for recogniser in RECOGNISERS:
        if recogniser.knows(message):
            return recogniser.name
    return None


def self_test_message() -> bytes:
    """Makes a message that nobody else would ask for, and that means nothing to anybody."""
    return _SELF_TEST + secrets.token_bytes(_SELF_TEST_BYTES)
