"""PEM (RFC 7468), read strictly: a block either is whole or the file is refused.

Libraries skip what they cannot read, so that a bundle with one damaged authority loads without it. Text between blocks
is let pass, as `openssl x509 -text` and Mozilla's bundles write it there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from sidecar.identity.strict64 import decode

CERTIFICATE_LABELS: Final = frozenset({"CERTIFICATE", "X509 CERTIFICATE"})

NOT_PEM_HINT: Final = "DER becomes PEM by: openssl x509 -inform der -in FILE -out FILE.pem"

_BEGIN: Final = b"-----BEGIN "
_END: Final = b"-----END "
_DASHES: Final = b"-----"
_LABEL: Final = re.compile(rb"[A-Z0-9]+(?: [A-Z0-9]+)*")


class PemError(ValueError):
    """A file is not PEM; the caller gives it its own code. The text never quotes the contents of a block."""


@dataclass(frozen=True, slots=True)
class Block:
    """One block: its label, its lines between the boundaries, and the number of its first line."""

    label: str
    body: bytes
    line: int

    @property
    def is_certificate(self) -> bool:
        """Whether the label is that of a certificate."""
        return self.label in CERTIFICATE_LABELS

    @property
    def is_private_key(self) -> bool:
        """Whether the label is that of a private key of any kind, encrypted ones included."""
        return self.label.endswith("PRIVATE KEY")

    def der(self) -> bytes:
        """The decoded contents; raises :class:`PemError`."""
        try:
            return decode(self.body)
        except ValueError as error:
            raise PemError(f"the block at line {self.line} is not base64") from error


def blocks(pem: bytes) -> list[Block]:
    """The blocks of a file in their order, none if it has none; raises :class:`PemError` for a damaged boundary."""
    found: list[Block] = []
    label: bytes | None = None
    first = 0
    body: list[bytes] = []
    for number, raw in enumerate(pem.splitlines(), 1):
        line = raw.strip()
        if _BEGIN.strip() not in line and _END.strip() not in line:
            if label is not None:
                body.append(line)
            continue
        if label is None:
            label, first, body = _label(line, _BEGIN, number), number, []
        elif _label(line, _END, number) == label:
            found.append(Block(label.decode("ascii"), b"".join(body), first))
            label = None
        else:
            raise PemError(f"the block at line {first} ends with another label at line {number}")
    if label is not None:
        raise PemError(f"the block at line {first} does not end")
    return found


def _label(line: bytes, boundary: bytes, number: int) -> bytes:
    """The label of a boundary of that kind; raises :class:`PemError` when the line is not exactly one."""
    label = line.removeprefix(boundary).removesuffix(_DASHES)
    if line != boundary + label + _DASHES or not _LABEL.fullmatch(label):
        raise PemError(f"line {number} is not a whole {boundary.strip(b'- ').decode('ascii')} line")
    return label
