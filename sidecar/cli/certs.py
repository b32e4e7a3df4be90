"""``sidecar certs init``: an authority and identities for development, in one folder."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.cli.key import CREATE_SECONDS, within
from sidecar.cli.signer import read_secrets
from sidecar.cli.times import moment
from sidecar.clock import Clock
from sidecar.config.faults import printable
from sidecar.devcerts.devices import parse_device
from sidecar.devcerts.generate import generate
from sidecar.devcerts.layout import (
    AUTHORITY_CERTIFICATE,
    AUTHORITY_KEY,
    DEFAULT_INSTANCE,
    DEFAULT_TRUST_DOMAIN,
    Order,
)
from sidecar.keys.create import in_software
from sidecar.keys.protection import Protection
from sidecar.keys.spec import TpmKey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.devcerts.generate import Made
    from sidecar.devcerts.identities import Identity

_EXAMPLE = """\
example:
  sidecar certs init certs-dev --agent planner --agent tools
  sidecar certs init certs-dev --agent planner --key tpm
  sidecar certs init certs-dev --agent planner --key 'pkcs11:token=dev?module-path=/path/to.so&pin-source=file:pin'

exit codes: 0 fine, 1 the folder cannot be written or the device cannot be used now, 2 a name or the PIN is wrong, or the
folder holds files that are not ours
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line of ``sidecar certs``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    init = actions.add_parser(
        "init",
        help="make a development authority and identities, or renew them",
        description=(
            "Makes a development authority and an identity for each agent, valid for 7 days. Run again it renews the\n"
            "certificates and keeps the keys, so that pins stay. Nothing in the folder that is not ours is replaced."
        ),
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    init.add_argument("directory", metavar="DIR", type=Path, help="the folder; made with mode 0700 if it is missing")
    init.add_argument(
        "--agent", metavar="NAME", action="append", required=True, help="the name of an agent; once for each agent"
    )
    init.add_argument(
        "--trust-domain", metavar="NAME", default=DEFAULT_TRUST_DOMAIN, help="the trust domain (default %(default)s)"
    )
    init.add_argument(
        "--instance",
        metavar="NAME",
        default=DEFAULT_INSTANCE,
        help="the instance of each named agent (default %(default)s); others lie in DIR/<agent>/<instance>/",
    )
    init.add_argument(
        "--key",
        metavar="KIND",
        help="where the agents' keys are: tpm, tpm:tcti=…;pin-source=file:PATH, or a pkcs11: URI without object and id "
        "(default: in files, DIR/<agent>/tls.key); the authority's is always in a file",
    )
    init.add_argument(
        "--new-keys",
        action="store_true",
        help="make new keys for the named agents: their pins change; the authority keeps its key",
    )


def run(args: argparse.Namespace) -> int:
    """Fills the folder and prints what is in it, never a key."""
    device = None if args.key is None else parse_device(args.key, Path.cwd())
    order = Order.parse(
        args.directory,
        args.agent,
        trust_domain=args.trust_domain,
        instance=args.instance,
        new_keys=args.new_keys,
        device=device,
    )
    now = Clock().wall()
    if device is None:
        lines = list(report(generate(order, now)))
    else:
        making = partial(_generate, order, now, read_secrets(device).pin)
        lines = within(making, len(order.places) * CREATE_SECONDS, "the device of the keys")
    print(*lines, sep="\n")
    return 0


def _generate(order: Order, now: float, pin: bytes | None) -> list[str]:
    made = generate(order, now, pin)
    return list(report(made, software=in_software(made.identities[0].key.spec)))


def report(made: Made, *, software: bool = False) -> Iterator[str]:
    """Yields the lines that say what was made: identities with pins, ends, files and how keys are protected.

    ``software`` is what `in_software` says of the keys' device.
    """
    directory = made.order.directory
    yield f"authority of {made.order.trust_domain} ({made.authority_news})"
    yield f"  certificate  {_shown(directory / AUTHORITY_CERTIFICATE)}"
    yield f"  key          {_shown(directory / AUTHORITY_KEY)}"
    yield f"  valid until  {moment(made.authority_not_after)}"
    for identity in made.identities:
        yield ""
        yield from _identity(identity)
    yield ""
    yield from _closing(made, software=software)
    if made.foreign_gitignore:
        yield f"note: {_shown(directory / '.gitignore')} has rules of its own and was left alone; it must ignore the keys"


def _closing(made: Made, *, software: bool) -> Iterator[str]:
    if made.order.device is None:
        yield "These are development identities: the keys are files, which whoever can read them can copy."
        return
    device = "TPM" if isinstance(made.order.device, TpmKey) else "token"
    if any(identity.protection is Protection.SOFTWARE for identity in made.identities):
        said = f"not all of their keys are kept from being copied out of the {device}."
    elif software:
        said = f"their keys are in a software {device}, and whoever can read the files of that program can copy them."
    else:
        said = f"their keys cannot leave the {device}."
    yield f"These are development identities: {said}"
    yield "The authority's key is a file: whoever can read it can make such identities."


def _identity(identity: Identity) -> Iterator[str]:
    yield f"{identity.id} ({identity.news})"
    yield f"  pin          {identity.pin}"
    yield f"  valid until  {moment(identity.not_after)}"
    yield f"  certificate  {_shown(identity.place.certificate)}"
    yield f"  key          {printable(str(identity.key.spec))}"
    yield f"  protection   {identity.protection}"
    for unused in identity.unused:
        yield f"  not used     {printable(unused)} any more: the certificate is for the new key"


def _shown(path: Path) -> str:
    return printable(str(path))
