"""``sidecar key create PLACE`` and ``sidecar key show PLACE``: a private key in a file, a TPM or a token."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sidecar.cli.signer import read_secrets
from sidecar.config.faults import printable
from sidecar.errors import ConfigurationError, LocalError, SidecarError
from sidecar.identity.pins import Pin
from sidecar.identity.spiffe import SpiffeId, SpiffeIdError
from sidecar.keys import csr
from sidecar.keys.create import PUBLIC, Made, create, demand_new, in_software, write_new
from sidecar.keys.errors import KeyCode, PrivateKeyError, SignCode, SignError
from sidecar.keys.open import open_signer
from sidecar.keys.protection import Protection
from sidecar.keys.selftest import self_test
from sidecar.keys.serial import SIGN_SECONDS
from sidecar.keys.spec import KeyFile, RemoteKey, TpmKey, parse
from sidecar.threads import apart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidecar.keys.open import Secrets
    from sidecar.keys.spec import KeySpec

T = TypeVar("T")

#: What opening a device may take beside a signature, in seconds: loading a key takes a TPM up to 1 s.
OPEN_SECONDS: Final = 5.0
#: What making a key may take, in seconds: some TPMs and smart cards take many.
CREATE_SECONDS: Final = 60.0

_CURVES: Final[dict[str, type[ec.EllipticCurve]]] = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1}
_STDOUT: Final = "-"

_ACTIONS: Final = {
    "create": (
        "make a private key",
        (
            "Makes a private key in a file, in a TPM, or in a PKCS#11 token: the last two never give it out. Prints its\n"
            "place as it is written in identity.key, its pin, and what protects it. Nothing that is there is overwritten."
        ),
    ),
    "show": (
        "open a private key and sign with it once",
        (
            "Opens a private key and signs with it once, a message that means nothing to anybody. Prints the key's place,\n"
            "its pin, and what protects it. A PIN is tried once: devices count wrong ones."
        ),
    ),
}
_EXAMPLE: Final = """\
example:
  sidecar key create tpm:file=planner.tpm.pem --csr planner.csr --spiffe-id spiffe://example.org/agent/planner/1
  sidecar key show tpm:file=planner.tpm.pem

exit codes: 0 fine, 1 the device cannot be used now, 2 the command line, the key or its PIN is wrong
"""


class KeyCommandCode(StrEnum):
    """What goes wrong beside the key itself."""

    NO_CSR = "spiffe_id_without_csr"
    CSR = "csr_not_written"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line of ``sidecar key``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    for name, (help_, description) in _ACTIONS.items():
        action = actions.add_parser(
            name,
            help=help_,
            description=description,
            epilog=_EXAMPLE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        action.add_argument(
            "place",
            metavar="PLACE",
            help="where the key is, as in identity.key: a file, tpm:… or pkcs11:…; paths start at the current folder",
        )
        if name == "create":
            action.add_argument("--curve", choices=tuple(_CURVES), default="P-256", help="default %(default)s")
        action.add_argument(
            "--csr", metavar="FILE", help="write a certificate request (PKCS#10) by the key to a new file; - for stdout"
        )
        action.add_argument(
            "--spiffe-id", metavar="URI", type=_spiffe_id, help="the SPIFFE ID that the request asks for"
        )


def run(args: argparse.Namespace) -> int:
    """Makes or opens the key and prints what it is. Raises SidecarError."""
    if args.spiffe_id is not None and args.csr is None:
        raise ConfigurationError(
            KeyCommandCode.NO_CSR, "--spiffe-id is for a request", hint="add --csr FILE, or leave it out"
        )
    if not args.place:
        raise PrivateKeyError(KeyCode.BAD_PLACE, "PLACE is empty", hint="name a file, tpm:… or pkcs11:…")
    spec = parse(args.place, Path.cwd())
    request = None if args.csr is None else Request(args.csr, args.spiffe_id)
    if request is not None:
        request.demand_new()
    if args.action == "create":
        _create(spec, _CURVES[args.curve], request)
    else:
        _show(spec, request)
    return 0


def _spiffe_id(text: str) -> SpiffeId:
    try:
        found = SpiffeId.parse(text)
    except SpiffeIdError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not found.path:
        raise argparse.ArgumentTypeError("this is the SPIFFE ID of a trust domain, which no workload is: add a path")
    return found


@dataclass(frozen=True, slots=True)
class Request:
    """A certificate request that is wanted; ``file`` is what ``--csr`` says."""

    file: str
    spiffe_id: SpiffeId | None

    def demand_new(self) -> None:
        """Raises PrivateKeyError or OSError where the file cannot be written, before a key is made."""
        if self.file != _STDOUT:
            demand_new(Path(self.file))

    def write(self, pem: bytes) -> None:
        """Raises PrivateKeyError, OSError."""
        if self.file == _STDOUT:
            print(pem.decode("ascii"), end="")
        else:
            write_new(Path(self.file), pem, PUBLIC)


def _facts_to(request: Request | None) -> TextIO:
    """Where the rest is printed: what is piped on is the request alone."""
    return sys.stderr if request is not None and request.file == _STDOUT else sys.stdout


def _create(spec: KeySpec, curve: type[ec.EllipticCurve], request: Request | None) -> None:
    made, lines = within(partial(_made, spec, curve, _pin(spec)), CREATE_SECONDS, spec)
    print(*lines, sep="\n", file=_facts_to(request))
    if request is None:
        return
    try:
        _write(request, made.spec, made.secrets)
    except (SidecarError, OSError) as error:
        why = str(error) if isinstance(error, SidecarError) else error.strerror or type(error).__name__
        raise LocalError(
            KeyCommandCode.CSR,
            f"the key was made and stays, but no request was written: {why}",
            hint="`sidecar key show` writes one with the same --csr and --spiffe-id, for the key as it is printed",
        ) from error


def _made(spec: KeySpec, curve: type[ec.EllipticCurve], pin: bytes | None) -> tuple[Made, list[str]]:
    made = create(spec, curve, pin)
    return made, list(_facts(made.spec, made.public_key, made.protection))


def _pin(spec: KeySpec) -> bytes | None:
    if isinstance(spec, (KeyFile, RemoteKey)):
        return None
    # The file of a wrapped key is to be made, not read.
    return read_secrets(replace(spec, file=None) if isinstance(spec, TpmKey) else spec).pin


def _show(spec: KeySpec, request: Request | None) -> None:
    secrets = read_secrets(spec)
    print(*within(partial(_tried, spec, secrets), OPEN_SECONDS + SIGN_SECONDS, spec), sep="\n", file=_facts_to(request))
    if request is not None:
        _write(request, spec, secrets)


def _tried(spec: KeySpec, secrets: Secrets) -> list[str]:
    with contextlib.closing(open_signer(spec, secrets)) as signer:
        began = time.monotonic()
        self_test(signer)
        took = time.monotonic() - began
    # Then the device is free again: some let one user in at a time.
    return [*_facts(spec, signer.public_key, signer.protection), f"signs       yes, in {took * 1000:.1f} ms"]


def _write(request: Request, spec: KeySpec, secrets: Secrets) -> None:
    request.write(within(partial(_requested, request, spec, secrets), OPEN_SECONDS + SIGN_SECONDS, spec))


def _requested(request: Request, spec: KeySpec, secrets: Secrets) -> bytes:
    with contextlib.closing(open_signer(spec, secrets)) as signer:
        return csr.request(signer, request.spiffe_id)


def within(call: Callable[[], T], seconds: float, what: object) -> T:
    """Makes a call that may wait for a device, named by ``what``, in a thread that may be lost.

    Raises what it raises, and SignError (TIMEOUT) after that time.
    """
    try:
        return asyncio.run(_awaited(call, seconds))
    except TimeoutError:
        raise SignError(
            SignCode.TIMEOUT,
            f"{what} did not answer within {seconds:g} s",
            hint="is the device or service hung, or used by many processes at once?",
        ) from None


async def _awaited(call: Callable[[], T], seconds: float) -> T:
    return await apart(call, seconds, "key")


def _facts(spec: KeySpec, public_key: ec.EllipticCurvePublicKey, protection: Protection) -> Iterator[str]:
    """Yields the lines that say what a key is; may ask its device."""
    yield f"key         {printable(str(spec))}"
    yield f"curve       {'P-384' if isinstance(public_key.curve, ec.SECP384R1) else 'P-256'}"
    yield f"pin         {Pin.of_spki(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))}"
    yield f"protection  {protection}: {explained(spec, protection, software=in_software(spec))}"


def explained(spec: KeySpec, protection: Protection, *, software: bool) -> str:
    """Says what keeps a key from being copied; ``software`` is what `in_software` says of its device."""
    if isinstance(spec, RemoteKey):
        return "behind a signer service, which says for itself what protects it"
    if isinstance(spec, KeyFile):
        return "whoever can read the file can copy it"
    device = "TPM" if isinstance(spec, TpmKey) else "token"
    if protection is Protection.SOFTWARE:
        return f"the key can be copied out of the {device} (unsafe-copyable)"
    if software:
        return f"a software {device}: whoever can read the files of that program can copy the key; for tests"
    return f"the key cannot leave the {device}"
