"""``sidecar signer --listen unix:PATH --key KEY``: the signer service."""

from __future__ import annotations

import argparse
import asyncio
import re
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.clock import Clock
from sidecar.config.faults import printable
from sidecar.config.files import Look
from sidecar.config.key_material import KeyReader
from sidecar.errors import ConfigurationError, SidecarError
from sidecar.identity.spiffe import SpiffeId, SpiffeIdError
from sidecar.keys.errors import KeyCode, PrivateKeyError
from sidecar.keys.serial import SIGN_SECONDS
from sidecar.keys.spec import parse
from sidecar.keys.token_messages import ASSERTION_SECONDS, MAX_NAME, SELF_SIGNED_SECONDS, Client, Mandate, is_name
from sidecar.keys.uri import SOCKET_PATH_BYTES
from sidecar.signer.limits import SignerLimits
from sidecar.signer.process import Order, serve
from sidecar.signer.service import Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.config.key_material import Named
    from sidecar.keys.open import Secrets
    from sidecar.keys.spec import KeySpec

#: No handshake waits for longer.
_MOST_SECONDS: Final = 60.0
#: uid_t, less the value that means nobody (chown(2)).
_UIDS: Final = range(2**32 - 1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line of ``sidecar signer``."""
    parser.description = (
        "Holds one private key and signs for other processes of this machine, over a UNIX socket: for one TPM and several\n"
        "proxies, or to give a proxy the use of a key without the key. A proxy names it as identity.key:\n"
        "signer:unix:PATH. It signs TLS 1.3 handshakes and self-tests, the tokens that --spiffe-id and --client-assertion\n"
        "allow, and nothing else: no certificate requests. Each use is one JSON line on standard output. Served are\n"
        "processes of our own uid and of those that --uid names."
    )
    parser.epilog = (
        "example:\n"
        "  sidecar signer --listen unix:/run/sidecar/signer.sock --key tpm:handle=0x81000002 --uid 1000 \\\n"
        "    --spiffe-id spiffe://example.org/agent/planner/1\n\n"
        "exit codes: 0 told to end, 1 the socket or the device cannot be used, 2 the command line or the key is wrong"
    )
    parser.add_argument(
        "--listen",
        metavar="unix:PATH",
        type=_socket_path,
        required=True,
        help="the socket; its folder is made if missing",
    )
    parser.add_argument(
        "--key",
        metavar="KEY",
        required=True,
        help="where the key is, as in identity.key: a PEM file, tpm:… or pkcs11:…; a PIN is named by pin-source",
    )
    parser.add_argument(
        "--uid",
        metavar="N",
        type=_uid,
        action="append",
        default=[],
        help="serve processes of this uid too; once for each. The socket is then open to all, and the uid decides",
    )
    parser.add_argument(
        "--spiffe-id",
        metavar="ID",
        type=_spiffe_id,
        help="sign self-signed tokens of this identity too: the one in the certificates for the key. They live for at most "
        f"{SELF_SIGNED_SECONDS} s, and name any audience but those of --client-assertion",
    )
    parser.add_argument(
        "--client-assertion",
        metavar=("AUDIENCE", "CLIENT"),
        type=_name,
        nargs=2,
        action="append",
        default=[],
        help="sign assertions (RFC 7523) with which that client proves to that audience who it is; once for each pair. They "
        f"live for at most {ASSERTION_SECONDS} s. The audience is the issuer's identifier, byte for byte; the client is the "
        "client_id at the issuer, which for a token source is our SPIFFE ID unless it says otherwise",
    )
    parser.add_argument(
        "--time-limit",
        metavar="SECONDS",
        type=_seconds,
        default=SIGN_SECONDS,
        help="for one signature (default %(default)g); the client is told when it is over",
    )


def run(args: argparse.Namespace) -> int:
    """Serves until a signal ends it. Raises SidecarError where it cannot."""
    spec = _spec(args.key)
    limits = SignerLimits(sign=args.time_limit)
    mandate = Mandate(args.spiffe_id, frozenset(starmap(Client, args.client_assertion)))
    order = Order(Place(args.listen, frozenset(args.uid)), spec, read_secrets(spec), limits, mandate)
    return asyncio.run(serve(order, Clock()))


def _spec(text: str) -> KeySpec:
    if not text:
        raise PrivateKeyError(KeyCode.BAD_PLACE, "--key is empty", hint="name a PEM file, tpm:… or pkcs11:…")
    return parse(text, Path.cwd())


def read_secrets(spec: KeySpec) -> Secrets:
    """Reads the files that a key's place names, each once; all are held to be ours and closed. Raises ConfigurationError."""
    material = KeyReader(Look(), _check).read(spec)
    assert material is not None  # noqa: S101 - what is wrong with a file was raised
    return material.secrets


def _check(named: Named, check: Callable[[], object]) -> None:
    try:
        check()
    except SidecarError as error:
        raise ConfigurationError(error.code, f"{printable(str(named.path))}: {error}", hint=error.hint) from None


def _socket_path(text: str) -> Path:
    kind, _, path = text.partition(":")
    if kind != "unix" or not path:
        raise argparse.ArgumentTypeError("write unix:PATH")
    found = Path.cwd() / path
    if len(str(found).encode(errors="surrogateescape")) > SOCKET_PATH_BYTES:
        raise argparse.ArgumentTypeError(f"the path of a UNIX socket has at most {SOCKET_PATH_BYTES} bytes")
    return found


def _uid(text: str) -> int:
    # A number alone: names may be looked up in places that others write to.
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) not in _UIDS:
        raise argparse.ArgumentTypeError(f"{text[:20]!a} is not the number of a user")
    return int(text)


def _spiffe_id(text: str) -> SpiffeId:
    try:
        found = SpiffeId.parse(text)
    except SpiffeIdError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not found.path:
        raise argparse.ArgumentTypeError("this names a trust domain; name the identity in the certificates for the key")
    return found


def _name(text: str) -> str:
    if not is_name(text):
        raise argparse.ArgumentTypeError(f"write AUDIENCE CLIENT, each 1 to {MAX_NAME} printable characters")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _MOST_SECONDS:  # NaN is neither
        raise argparse.ArgumentTypeError(f"write a number of seconds, more than 0 and at most {_MOST_SECONDS:g}")
    return seconds
