"""What a key of ours may be asked to sign: the table of recognisers that a signer service goes by.

A service that signed whatever it is given would lend its key for certificates, tokens and other people's handshakes.
So it is given the whole message, never a digest, and signs only what a recogniser knows: handshakes and self-tests
always, the two kinds of tokens (`sidecar.keys.token_messages`) where it was told whose.

What is signed as one kind can be used as no other, and as nothing else:

* A handshake's message begins with 64 spaces (RFC 8446 4.4.3 put them there for this), and a self-test's too; behind
  them stand different words, up to a zero byte.
* A JWS signing input (RFC 7515 5.1) has letters, digits, ``-``, ``_`` and one dot. It begins with ``eyJ``, the base64url
  of a brace and a quote, where the others have spaces.
* The two kinds of tokens differ in ``typ`` and in their members, and whoever reads them looks at that. An issuer may not:
  therefore no self-signed token is for an issuer that a client is named for.
* A certificate, and a request for one, begins with 30 (hexadecimal) and a length in DER, a handshake of TLS 1.2 with a
  kind of message, or with 64 random bytes and the kind of a curve, 3 (RFC 8422 5.4): none of ours has that.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric import ec

    from sidecar.keys.token_messages import Mandate

_BLANKS: Final = b" " * 64
_SELF_TEST: Final = _BLANKS + b"sidecar self-test\0"
_SELF_TEST_BYTES: Final = 32
#: RFC 8446 4.4.3: 64 spaces, the context string, a zero byte, the transcript hash of the cipher suite (SHA-256 or
#: SHA-384). No cipher suite of TLS 1.3 has another hash.
_CERTIFICATE_VERIFY: Final = re.compile(
    _BLANKS + rb"TLS 1\.3, (server|client) CertificateVerify\0(?:.{32}|.{48})", re.DOTALL
)
#: The longest message that any row accepts: a token's, of which two certificates in ``x5c`` take about 2.5 KiB. The others
#: have less than 150 bytes.
MAX_BYTES: Final = 16 * 1024


class Recogniser(NamedTuple):
    """``name`` is for the log; ``knows`` says whether a message is one of its kind at a moment (seconds since the epoch)."""

    name: str
    knows: Callable[[bytes, float], bool]


def _handshake(message: bytes, _: float) -> bool:
    return _CERTIFICATE_VERIFY.fullmatch(message) is not None


def _self_test(message: bytes, _: float) -> bool:
    return message.startswith(_SELF_TEST) and len(message) == len(_SELF_TEST) + _SELF_TEST_BYTES


#: What every service signs.
ALWAYS: Final = (Recogniser("tls13-certificate-verify", _handshake), Recogniser("self-test", _self_test))


@dataclass(frozen=True, slots=True)
class Recognisers:
    """The table of one service. A new kind of message is one more row."""

    rows: tuple[Recogniser, ...] = ALWAYS

    @classmethod
    def of(cls, public_key: ec.EllipticCurvePublicKey, mandate: Mandate) -> Recognisers:
        """The table for a key and the tokens that may be signed with it."""
        from sidecar.keys.token_messages import Assertions, SelfSigned  # noqa: PLC0415 - for the service alone

        rows = list(ALWAYS)
        if mandate.spiffe_id is not None:
            issuers = frozenset(client.audience for client in mandate.clients)
            tokens = SelfSigned(public_key, str(mandate.spiffe_id), issuers)
            rows.append(Recogniser("self-signed-token", tokens.knows))
        if mandate.clients:
            rows.append(Recogniser("client-assertion", Assertions(public_key, mandate.clients).knows))
        return cls(tuple(rows))

    def recognise(self, message: bytes, now: float) -> str | None:
        """Returns the name of the kind of message, None for one that must not be signed."""
        for row in self.rows:
            if row.knows(message, now):
                return row.name
        return None


def self_test_message() -> bytes:
    """Makes a message that nobody else would ask for, and that means nothing to anybody."""
    return _SELF_TEST + secrets.token_bytes(_SELF_TEST_BYTES)
