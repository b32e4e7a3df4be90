"""Outbound entries that share a listener: each has names of its own, and all say the same about the listener itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.config.entries import CONNECT, HOSTS, OUTBOUND_LISTEN, SERVER_NAME
from sidecar.config.faults import ConfigCode, Refused, quote
from sidecar.config.outbound_listen import UIDS, UNSAFE_LISTEN
from sidecar.config.outbound_public import TLS, authority
from sidecar.config.values import TcpAddress, Tls
from sidecar.policy.routes import spellings

if TYPE_CHECKING:
    from typing import Any

    from sidecar.config.schema import Key, Ledger, Spot, Values

#: Keys that are about the listener and not about the entry.
ABOUT_LISTENER: Final[tuple[Key[Any], ...]] = (UIDS, UNSAFE_LISTEN)


def check_shared(ledger: Ledger) -> None:
    """Adds a fault for each entry of a shared listener that could not be reached, or would not mean what it says."""
    shared: dict[Any, list[Values]] = {}
    for listen, values in ledger.outbound:
        shared.setdefault(listen, []).append(values)
    for group in shared.values():
        if len(group) > 1:
            _check_names(group)
            _check_agreement(group)


def _check_names(group: list[Values]) -> None:
    taken: dict[bytes, Spot] = {}
    for values in group:
        hosts = _names(values)
        if hosts == []:
            values.spots[OUTBOUND_LISTEN.name].refuse(
                Refused(
                    ConfigCode.NO_HOSTS,
                    "another entry listens here too, and this one has no hosts: nothing could reach it",
                    hint="add hosts: [NAME] with what the agent calls it, or choose another port",
                )
            )
        own: dict[bytes, Spot] = {}
        for host, place in hosts or []:
            others = [taken[spelling] for spelling in spellings(host) if spelling in taken]
            if others:
                place.refuse(
                    Refused(
                        ConfigCode.DUPLICATE_HOST,
                        f"{quote(host.decode())} is {others[0].key} on line {others[0].line} already, on the same listen",
                        hint="name each host in one entry, or choose another port",
                    )
                )
            own |= dict.fromkeys(spellings(host), place)
        taken = own | taken


def _names(values: Values) -> list[tuple[bytes, Spot]] | None:
    """Returns by what an entry is reached, each with its place; None where that cannot be known."""
    hosts, connect = values.get(HOSTS), values.get(CONNECT)
    if hosts is None:
        return None
    if hosts:
        return list(zip(hosts, values.spots[HOSTS.name].items(), strict=True))
    if values.get(TLS) is Tls.MUTUAL:
        return []
    if not isinstance(connect, TcpAddress):
        return None
    return [(authority(connect, values.get(SERVER_NAME)), values.spots[CONNECT.name])]


def _check_agreement(group: list[Values]) -> None:
    first = group[0]
    other = first.spots[OUTBOUND_LISTEN.name]
    for values in group[1:]:
        for key in ABOUT_LISTENER:
            said, wanted = _meaning(values, key), _meaning(first, key)
            if said is not None and wanted is not None and said != wanted:
                place = values.spots.get(key.name, values.spots[OUTBOUND_LISTEN.name])
                place.refuse(
                    Refused(
                        ConfigCode.LISTEN_DISAGREES,
                        f"{key.name} is not what {other.key} on line {other.line} says of the same listener",
                        hint=f"give all entries of this listen the same {key.name}",
                    )
                )


def _meaning(values: Values, key: Key[Any]) -> object:
    """Returns what an entry says, in whatever order; None where it is faulty."""
    value = values.get(key)
    return frozenset(value) if isinstance(value, tuple) else value
