"""A whole file: text to a `Config`, or every fault that shows without opening another file."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.config import sections
from sidecar.config.addresses import unix_address
from sidecar.config.entries import CONNECT
from sidecar.config.faults import ConfigCode, Refused
from sidecar.config.schema import Ledger, Spot, Values, missing, read_table
from sidecar.config.shared import check_shared
from sidecar.config.values import Admin, Config, Sources, TcpAddress, TokenRefs, UnixAddress
from sidecar.config.yaml import Mapping, Scalar, Sequence, compose
from sidecar.identity.peer import Role
from sidecar.keys.spec import RemoteKey

if TYPE_CHECKING:
    from collections.abc import Mapping as MappingOf

    from sidecar.config.faults import Faults
    from sidecar.config.values import Address


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a file says.

    ``config`` is None when there are faults. ``sources`` are the files that hold the identity, ``lines`` (key path ->
    line) where they are named and where rules stand, and ``token_refs`` what sections about tokens name. ``roles`` are those in which our
    certificate is presented: to callers as a server, to peers as a client.
    """

    config: Config | None = None
    sources: Sources = field(default_factory=Sources)
    lines: MappingOf[str, int] = field(default_factory=dict)
    roles: tuple[Role, ...] = ()
    token_refs: TokenRefs = field(default_factory=TokenRefs)


def parse(data: bytes, source: Path, environ: MappingOf[str, str], faults: Faults) -> Parsed:
    """Parses the bytes of the file ``source`` (absolute). Faults go to ``faults``; nothing is raised."""
    root = compose(data, faults)
    if root is None:
        return Parsed()
    ledger = Ledger()
    top = Spot(root, "", 1, faults, source.parent, environ, ledger)
    if not isinstance(root, Mapping):
        faults.add(ConfigCode.WRONG_TYPE, "the file is not a mapping of keys", line=1, hint="begin with: version: 1")
        return Parsed()
    if _other_version(root, top):
        return Parsed()
    values = read_table(top, sections.TOP)
    _check_across(top, values)
    admin = _admin(top, values)
    if admin is not None:
        _check_sockets(ledger, admin.listen)
    config = None if faults.found or admin is None else _config(values, source, admin)
    return Parsed(config, ledger.sources, ledger.lines, _roles(root), ledger.token_refs)


def _config(values: Values, source: Path, admin: Admin) -> Config:
    return Config(
        source=source,
        version=values[sections.VERSION],
        identity=values[sections.IDENTITY_KEY],
        inbound=values[sections.INBOUND_KEY],
        outbound=values[sections.OUTBOUND_KEY],
        admin=admin,
        health=values[sections.HEALTH_KEY],
        access_log=values[sections.ACCESS_LOG],
        log_full=values[sections.LOG_FULL],
        drain_timeout=values[sections.DRAIN_TIMEOUT],
        resumption=values[sections.RESUMPTION],
        workers=values[sections.WORKERS],
        limits=values[sections.LIMITS_KEY],
        tokens=values[sections.TOKENS_KEY],
        issuers=values[sections.ISSUERS_KEY],
    )


def _roles(root: Mapping) -> tuple[Role, ...]:
    used = {entry.key for entry in root.entries if isinstance(entry.value, Sequence) and entry.value.items}
    return tuple(role for key, role in (("inbound", Role.SERVER), ("outbound", Role.CLIENT)) if key in used)


def _other_version(root: Mapping, top: Spot) -> bool:
    """Says whether the file is of another version, and adds that one fault: its other keys mean something else."""
    for entry in root.entries:
        if entry.key == "version" and isinstance(entry.value, Scalar):
            try:
                sections.VERSION.kind.read(top.below(entry.key, entry.value, entry.line))
            except Refused as error:
                top.below(entry.key, entry.value, entry.line).refuse(error)
                return True
    return False


def _admin(top: Spot, values: Values) -> Admin | None:
    """Returns the administration socket, by default in the folder that the system has for such sockets."""
    found = values.get(sections.ADMIN_KEY)
    if found is None:
        return None
    listen, uids = found
    try:
        return Admin(listen or _default_socket(top), uids)
    except Refused as error:
        top.faults.refuse(error, key="admin.listen")
        return None


def _default_socket(top: Spot) -> UnixAddress:
    # The XDG base directory specification: a relative value is to be ignored.
    folder = Path(top.environ.get("XDG_RUNTIME_DIR", ""))
    folder = folder if folder.is_absolute() else Path("/run")
    return unix_address(folder / "sidecar" / f"{top.faults.file.stem}.sock")


def _check_across(top: Spot, values: Values) -> None:
    """Finds what only shows when sections are compared."""
    inbound, outbound = values.get(sections.INBOUND_KEY), values.get(sections.OUTBOUND_KEY)
    if inbound == () and outbound == ():
        top.faults.add(
            ConfigCode.NO_ENTRY,
            "the file has neither an inbound nor an outbound entry",
            line=1,
            hint="add an entry under inbound or outbound; docs/configuration.md has an example",
        )
    if top.ledger.no_trust and top.ledger.proves_peers:
        place, path = top.ledger.no_trust
        missing(place, sections.TRUST, path)
    _check_names(top.ledger)
    if top.ledger.sources_used or top.ledger.issuers_used:
        from sidecar.config.token_names import check_tokens  # noqa: PLC0415 - for files with tokens alone

        check_tokens(top.ledger, values)
    _check_listens(top.ledger)
    check_shared(top.ledger)
    _check_forwards(top.ledger)
    _check_connects(top.ledger)
    if top.ledger.sources.trust_sound:
        for pattern, spot in top.ledger.patterns:
            if pattern.trust_domain not in top.ledger.sources.trust:
                spot.refuse(
                    Refused(
                        ConfigCode.UNKNOWN_TRUST_DOMAIN,
                        f"identity.trust names no bundle for the trust domain {pattern.trust_domain}",
                        hint=f"add it below identity.trust, {pattern.trust_domain}: PATH, or correct the name",
                    )
                )


def _check_names(ledger: Ledger) -> None:
    names = [(f"another {direction} entry", name, spot) for direction, name, spot in ledger.names]
    names += [("another rule", name, spot) for name, spot in ledger.rule_names]
    names += [("another source", name, spot) for name, spot in ledger.source_names]
    names += [("another issuer", name, spot) for name, spot in ledger.issuer_names]
    first: dict[tuple[str, str], Spot] = {}
    for what, name, spot in names:
        other = first.setdefault((what, name), spot)
        if other is not spot:  # the line may be the same: a file in JSON has one
            text = f"{what} has this name, on line {other.line}"
            spot.refuse(Refused(ConfigCode.DUPLICATE_NAME, text, hint="choose another name"))


def _check_listens(ledger: Ledger) -> None:
    earlier: dict[int | str, list[tuple[str, Address, Spot]]] = defaultdict(list)
    for direction, address, spot in ledger.listens:
        place = address.port if isinstance(address, TcpAddress) else address.path
        overlapping = [known for known in earlier[place] if _overlap(address, known[1])]
        if overlapping:
            other_direction, other, other_spot = overlapping[0]
            if address != other or not direction == other_direction == "outbound":
                spot.refuse(
                    Refused(
                        ConfigCode.DUPLICATE_LISTEN,
                        f"{other_spot.key} on line {other_spot.line} listens on {other} already",
                        hint=f"choose another {'port' if isinstance(address, TcpAddress) else 'path'}",
                    )
                )
        earlier[place].append((direction, address, spot))


def _check_forwards(ledger: Ledger) -> None:
    """Refuses to forward to our own listeners.

    A caller that reached one of our outbound listeners that way would speak with our identity.
    """
    for target, spot in ledger.forwards:
        for _, listen, other in ledger.listens:
            if _reaches(target, listen):
                spot.refuse(
                    Refused(
                        ConfigCode.FORWARD_TO_SELF,
                        f"{target} is this sidecar's own {other.key} (line {other.line})",
                        hint="name the address of the agent's or server's own port",
                    )
                )
                break


def _check_connects(ledger: Ledger) -> None:
    """Refuses an entry that leads to its own listener: a connection would make the next one, until a limit is met."""
    for listen, values in ledger.outbound:
        target = values.get(CONNECT)
        if target is not None and _reaches(target, listen):
            text, hint = f"{target} is where this entry itself listens", "name the address of the peer's sidecar"
            values.spots[CONNECT.name].refuse(Refused(ConfigCode.FORWARD_TO_SELF, text, hint=hint))


def _check_sockets(ledger: Ledger, admin: UnixAddress) -> None:
    """Keeps entries off the sockets that are not for agents and callers: whoever got there would be taken for us."""
    for _, listen, spot in ledger.listens:
        if listen == admin:
            spot.refuse(
                Refused(
                    ConfigCode.DUPLICATE_LISTEN,
                    f"the administration socket is {admin.path} already",
                    hint="choose another path, here or in admin.listen",
                )
            )
    key = ledger.sources.key
    private = {admin: "administration socket"}
    if isinstance(key, RemoteKey):
        private[UnixAddress(os.path.normpath(key.path))] = "signer service"
    for target, spot in ledger.forwards:
        if target in private:
            spot.refuse(
                Refused(
                    ConfigCode.FORWARD_TO_SELF,
                    f"{target} is this sidecar's own {private[target]}",
                    hint="name the socket of the agent or server",
                )
            )


def _overlap(one: Address, other: Address) -> bool:
    """Says whether two addresses cannot both be listened on: the same, or one of them all addresses of its family."""
    if isinstance(one, UnixAddress) or isinstance(other, UnixAddress):
        return one == other
    if one.port != other.port or one.ip is None or other.ip is None or one.ip.version != other.ip.version:
        return False
    return one == other or one.ip.is_unspecified or other.ip.is_unspecified


def _reaches(target: Address, listen: Address) -> bool:
    """Says whether a connection to ``target`` arrives at our own listener."""
    if isinstance(target, UnixAddress) or isinstance(listen, UnixAddress):
        return target == listen
    if target.port != listen.port or listen.ip is None:
        return False
    if target.host == "localhost":
        return listen.loopback or listen.ip.is_unspecified
    return target == listen or (target.loopback and listen.ip.is_unspecified)
