"""``sidecar check FILE``: every fault of a configuration at once, or what it means."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.cli.times import count, moment, span
from sidecar.clock import Clock
from sidecar.config.effective import policy_version
from sidecar.config.effective_tokens import token_header
from sidecar.config.faults import printable
from sidecar.config.load import load
from sidecar.config.urls import plaintext
from sidecar.config.values import Protocol, TcpAddress, Tls
from sidecar.keys.spec import RemoteKey, TpmKey
from sidecar.keys.uri import Pkcs11Key
from sidecar.tokens.settings import ExecSource, FileSource, OAuth2Source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.config.load import Loaded
    from sidecar.config.values import Address, Config, Inbound, Outbound
    from sidecar.policy.paths import PathPattern
    from sidecar.policy.rules import Rule
    from sidecar.tokens.requirement import Requirement
    from sidecar.tokens.settings import SourceSettings

#: Rules of one entry that the summary lists.
_SHOWN: Final = 20
#: A certificate with less than this to live is pointed out.
_SOON: Final = 24 * 3600.0
_DEVICES: Final = {TpmKey: "TPM", Pkcs11Key: "token", RemoteKey: "signer service"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line of ``sidecar check``."""
    parser.description = (
        "Checks a configuration file and the certificates, keys and bundles it names. Prints every fault at once, with\n"
        "file, line, key and what to do; without faults, what the file means. Opens no socket, TPM or HSM."
    )
    parser.epilog = (
        "examples:\n  sidecar check planner.yaml\n  sidecar check --schema\n\nexit codes: 0 no fault, 2 at least one"
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the configuration file (YAML)")
    parser.add_argument(
        "--schema",
        action=_PrintSchema,
        nargs=0,
        help="print the JSON Schema of the configuration, for editors, and exit",
    )


class _PrintSchema(argparse.Action):
    """Prints the schema in place of everything else, as ``--help`` does."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from sidecar.config.json_schema import shipped  # noqa: PLC0415 - loads every section

        print(shipped(), end="")
        parser.exit()


def run(args: argparse.Namespace) -> int:
    """Checks the file and prints what it means; raises InvalidConfiguration with every fault."""
    now = Clock().wall()
    print(*summary(load(args.file, now=now), now), sep="\n")
    return 0


def summary(loaded: Loaded, now: float) -> Iterator[str]:
    """Yields the lines that say what a configuration means: who we are, who may call, whom we call, what is unsafe."""
    config, material = loaded.config, loaded.material
    yield f"{printable(str(config.source))}: no faults"
    yield f"  identity  {material.svid.id}"
    yield f"            pin {material.svid.pin}, key protection {material.protection}"
    yield f"            valid until {moment(material.svid.not_after)} ({span(material.svid.not_after - now)} left)"
    for domain, bundle in material.bundles.items():
        yield f"  trust     {domain}: {count(len(bundle.authorities), 'authority', 'authorities')}"
    for inbound in config.inbound:
        tcp = ", any bytes" if inbound.forward.protocol is Protocol.TCP else ""
        header = f" (PROXY protocol {inbound.proxy_protocol})" if inbound.proxy_protocol else ""
        yield f"  inbound   {inbound.name}: {inbound.listen} (mutual TLS{tcp}) -> {inbound.forward}{header}"
        yield from _rules(inbound)
    for outbound in config.outbound:
        yield from _outbound(outbound)
    for source in config.tokens:
        yield f"  token     {source.name}: {_origin(source)}"
    for issuer in config.issuers:
        yield f"  issuer    {issuer.name}: {issuer.issuer}, {' '.join(issuer.algorithms)}"
    yield f"  admin     {printable(str(config.admin.listen))}"
    if config.health:
        yield f"  health    {config.health.listen}"
    yield f"  log       {printable(str(config.access_log or 'stdout'))}"
    yield f"  policy    version {policy_version(config)}"
    yield from _label("unsafe", _unsafe(loaded) or ["nothing"])
    yield from _label("known gap", _gaps(loaded.config))
    yield from _label("note", _notes(loaded, now))


def _rules(entry: Inbound) -> Iterator[str]:
    for rule in entry.allow[:_SHOWN]:
        yield f"              allow {rule.caller}{_conditions(rule)}"
    if len(entry.allow) > _SHOWN:
        yield f"              and {len(entry.allow) - _SHOWN} rules more"


def _conditions(rule: Rule) -> str:
    found = [
        count(len(rule.pins), "pin", "pins") if rule.pins else "",
        _asks(rule.methods, rule.paths),
        _asked(rule.token) if rule.token else "",
    ]
    return "".join(f", {each}" for each in found if each)


def _asks(methods: frozenset[bytes], paths: tuple[PathPattern, ...]) -> str:
    """Returns what requests may ask for; nothing where that is anything."""
    found = [
        "methods " + " ".join(sorted(method.decode("ascii") for method in methods)) if methods else "",
        "paths " + " ".join(map(str, paths)) if paths else "",
    ]
    return ", ".join(each for each in found if each)


def _asked(token: Requirement) -> str:
    scopes = f" with {' '.join(sorted(token.scopes))}" if token.scopes else ""
    return f"a {'' if token.bound else 'bearer '}token of {token.issuer}{scopes}"


def _origin(source: SourceSettings) -> str:
    """Returns where a source's tokens come from."""
    if isinstance(source, OAuth2Source):
        return f"{source.kind} of {source.issuer} by {source.client_auth}, {'bound' if source.bound else 'not bound'}"
    if isinstance(source, FileSource):
        return f"{source.kind} {printable(str(source.path))}, not bound"
    if isinstance(source, ExecSource):
        return f"{source.kind} {printable(source.command[0])}, not bound"
    return f"{source.kind} for {source.audience}, bound"


def _outbound(entry: Outbound) -> Iterator[str]:
    tcp = ", any bytes" if entry.protocol is Protocol.TCP else ""
    pins = f", {count(len(entry.pins), 'pin', 'pins')}" if entry.pins else ""
    if entry.tls is Tls.MUTUAL:
        yield f"  outbound  {entry.name}: {entry.listen} -> {entry.connect} (mutual TLS{tcp})"
        yield f"              peer {entry.peer}{pins}"
    elif entry.passthrough:
        yield f"  outbound  {entry.name}: {entry.listen} -> {entry.connect} (the agent's own TLS, any bytes in it)"
    else:
        yield f"  outbound  {entry.name}: {entry.listen} -> {entry.connect} (TLS)"
        yield f"              service {entry.server_name or entry.service.host}, by the system's roots{pins}"
    if entry.uids:
        yield f"              for our own user and uid {' '.join(map(str, sorted(entry.uids)))}"
    if asked := _asks(entry.methods, entry.paths):
        yield f"              {asked}"
    if entry.hosts:
        yield f"              called {' '.join(sorted(host.decode('ascii') for host in entry.hosts))}"
    if entry.token:
        yield f"              token {entry.token} as {token_header(entry)}"


def _unsafe(loaded: Loaded) -> list[str]:
    found = [
        f"inbound {entry.name}: {_carried(entry)} cross the network to {entry.forward.address} in clear"
        for entry in loaded.config.inbound
        if _far(entry.forward.address)
    ]
    found += [
        f"outbound {entry.name}: whoever reaches {entry.listen} speaks with our identity"
        for entry in loaded.config.outbound
        if _far(entry.listen)
    ]
    found += [
        f"outbound {entry.name}: the name {entry.service.host} may lead to private addresses"
        for entry in loaded.config.outbound
        if entry.unsafe_private_addresses
    ]
    found += [
        f"tokens {source.name}: its issuer is reached in clear"
        for source in loaded.config.tokens
        if isinstance(source, OAuth2Source) and plaintext(source.issuer)
    ]
    found += [
        f"issuers {issuer.name}: its keys are fetched in clear"
        for issuer in loaded.config.issuers
        if plaintext(issuer.jwks)
    ]
    spec = loaded.material.key.spec
    if isinstance(spec, (TpmKey, Pkcs11Key)) and spec.copyable:
        found.append("identity: a key that can be copied out of its device is taken all the same (unsafe-copyable)")
    return found


def _gaps(config: Config) -> list[str]:
    return [
        f"tokens {source.name}: a static secret ({printable(str(source.client_secret))}): whoever copies it can be us"
        for source in config.tokens
        if isinstance(source, OAuth2Source) and source.client_secret
    ]


def _far(address: Address) -> bool:
    """Says whether what is sent there, or comes from there, may leave this machine."""
    return isinstance(address, TcpAddress) and not address.loopback


def _carried(entry: Inbound) -> str:
    return "bytes" if entry.forward.protocol is Protocol.TCP else "requests"


def _notes(loaded: Loaded, now: float) -> list[str]:
    found = []
    if loaded.material.svid.not_after - now < _SOON:
        found.append("the certificate expires soon; afterwards nothing is let through")
    found += [
        f"tokens {source.name}: `sidecar token` gives one to whoever may use the administration socket"
        for source in loaded.config.tokens
        if source.keeping.helper
    ]
    if loaded.config.health and _far(loaded.config.health.listen):
        found.append("health and metrics can be read from the network")
    if loaded.material.key.software is not None:
        found.append("a software key can be copied by whoever can read its file: for development")
    elif loaded.material.key.public_key is None:
        device = _DEVICES[type(loaded.material.key.spec)]
        found.append(f"no {device} was opened: `run` sees whether its key is the certificate's")
    return found


def _label(label: str, lines: list[str]) -> Iterator[str]:
    for n, line in enumerate(lines):
        yield f"  {label if n == 0 else '':9} {line}"
