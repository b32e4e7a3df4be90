"""Every implementation of the signer seam, each with a fresh key of its own: what the conformance suite runs over.

A row is a context manager that takes a curve and gives a `Subject`; it starts and ends whatever real program stands
behind it. A new kind of signer is one more row.
"""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.keys import software
from tests.support.ca import keypair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cryptography.hazmat.primitives.asymmetric import ec

    from sidecar.keys.protection import Protection
    from sidecar.keys.signer import Signer


@dataclass(frozen=True, slots=True)
class Subject:
    """One signer under test. ``reopen`` gives a second signer for the same key, which the test closes.

    ``particular`` says that it signs handshakes and self-tests alone.
    """

    signer: Signer
    protection: Protection
    reopen: Callable[[], Signer]
    particular: bool = False


@contextlib.contextmanager
def software_subject(curve: type[ec.EllipticCurve]) -> Iterator[Subject]:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = keypair("a signer", curve=curve)
    loaded = software.load(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    signer = software.SoftwareSigner(loaded)
    yield Subject(signer, software.Protection.SOFTWARE, lambda: software.SoftwareSigner(loaded))
    signer.close()


#: name -> (the parts of the machine that it needs, module, function)
SUBJECTS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "software": ((), "tests.support.signers", "software_subject"),
    "tpm-file": (("swtpm", "tpm2-pytss"), "tests.support.swtpm", "file_subject"),
    "tpm-handle": (("swtpm", "tpm2-pytss"), "tests.support.swtpm", "handle_subject"),
    "tpm-pin": (("swtpm", "tpm2-pytss"), "tests.support.swtpm", "pin_subject"),
    "pkcs11": (("softhsm", "python-pkcs11"), "tests.support.softhsm", "token_subject"),
    "service": ((), "tests.support.signer_service", "service_subject"),
}


def subject(name: str, curve: type[ec.EllipticCurve]) -> contextlib.AbstractContextManager[Subject]:
    """Sets one row up; its module is loaded for it alone, since it may need what this machine lacks."""
    _, module, function = SUBJECTS[name]
    made: contextlib.AbstractContextManager[Subject] = getattr(importlib.import_module(module), function)(curve)
    return made
