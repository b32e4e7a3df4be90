"""The keys of an outbound entry for an ordinary HTTPS service, and those that mean nothing beside them."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from sidecar.config import kinds
from sidecar.config.faults import ConfigCode, Refused
from sidecar.config.schema import Key
from sidecar.config.values import Protocol, TcpAddress, Tls

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.config.schema import Values

#: RFC 9110 4.2.2: the port that `Host` leaves out.
HTTPS_PORT: Final = 443

TLS: Final = Key(
    "tls",
    kinds.choice(Tls),
    Tls.MUTUAL,
    "`mutual`: a peer with a SPIFFE ID, proven on both sides. `public`: an ordinary HTTPS service, see below.",
)
PASSTHROUGH: Final = Key(
    "passthrough",
    kinds.FLAG,
    False,
    "With `tls: public`: the agent does TLS itself, through `CONNECT`, and nobody here sees what it says.",
)
UNSAFE_ADDRESSES: Final = Key(
    "unsafe_private_addresses",
    kinds.FLAG,
    False,
    "With `tls: public`: lets the name lead to addresses that are not on the internet, this machine's included.",
)

#: For the JSON Schema: an entry for a peer names it.
RULES: Final = {
    "if": {"properties": {TLS.name: {"const": Tls.PUBLIC.value}}, "required": [TLS.name]},
    "then": {"properties": {"peer": False}},
    "else": {"required": ["peer"]},
}

_NOT_PUBLIC: Final = {
    "peer": "an ordinary HTTPS service has no SPIFFE ID, what is proven is its host name",
    "resumption": "its TLS sessions are never resumed, so that every connection is verified",
}
_NOT_TCP: Final = {"protocol": "tls: public is for requests, and tcp does not look for any"}
_NOT_UNIX: Final = {"connect": "an ordinary HTTPS service has no UNIX socket"}
_COMPARED: Final = "passthrough compares the name that the agent begins TLS for, and an address is none"
_NO_NAME: Final = {"connect": _COMPARED}
#: What is about requests, or about TLS of our own, where there is neither.
_NOT_SEEN: Final = dict.fromkeys(
    ("pins", "server_name", "host", "origins", "methods", "paths", "token", "token_header"),
    "with passthrough only ciphertext passes, and nobody here sees requests or does TLS",
)


def check(
    values: Values,
    connect: object,
    protocol: Protocol | None,
    token: str | None,
    hosts: tuple[bytes, ...] | None,
) -> None:
    """Refuses keys that nobody would look at, and an address that would be refused when it is dialled.

    Beside ``values`` stands what the entry says elsewhere, None where that is missing or wrong.
    """
    tls = values.get(TLS)
    if tls is Tls.MUTUAL:
        reason = "it is about ordinary HTTPS services, and this entry leads to a peer with a SPIFFE ID"
        only_for = {key.name: reason for key in (PASSTHROUGH, UNSAFE_ADDRESSES)}
        _refuse(values, ConfigCode.ONLY_FOR_PUBLIC, only_for, "remove it, or say tls: public")
    elif tls is Tls.PUBLIC:
        _refuse(values, ConfigCode.NOT_FOR_PUBLIC, _NOT_PUBLIC, "remove it, or tls: public")
        if protocol is Protocol.TCP:
            _refuse(
                values, ConfigCode.NOT_FOR_PUBLIC, _NOT_TCP, "remove it; for TLS of the agent's own: passthrough: true"
            )
        if isinstance(connect, TcpAddress):
            _check_address(values, connect)
        elif connect is not None:
            _refuse(values, ConfigCode.NOT_FOR_PUBLIC, _NOT_UNIX, "name its host and port, such as api.example.com:443")
        if values.get(PASSTHROUGH):
            if hosts == () and isinstance(connect, TcpAddress) and connect.ip is not None:
                hint = "add hosts: with the name that the agent calls the service"
                _refuse(values, ConfigCode.NOT_FOR_PASSTHROUGH, _NO_NAME, hint)
            _check_hosts(values, hosts or ())
            hint = "remove it; or remove passthrough and let the agent use an http:// URL: sidecar does the TLS then"
            _refuse(values, ConfigCode.NOT_FOR_PASSTHROUGH, _NOT_SEEN, hint)
        elif token:
            place = values.spots["token"]
            place.ledger.public_tokens.append((token, place))


def authority(connect: TcpAddress, server_name: str | None) -> bytes:
    """Returns what a service is called in URLs and in ``Host``: its name, and its port unless that is 443."""
    text = str(TcpAddress(server_name or connect.host, connect.port))
    return text.removesuffix(f":{HTTPS_PORT}").encode("ascii")


def _check_hosts(values: Values, hosts: tuple[bytes, ...]) -> None:
    """Refuses addresses among the names that the agent may begin TLS for: no CONNECT to one could go on."""
    for host, place in zip(hosts, values.spots["hosts"].items() if hosts else (), strict=True):
        text = host.decode("ascii")
        name = text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0]
        try:
            ip_address(name)
        except ValueError:
            continue
        place.refuse(
            Refused(ConfigCode.NOT_FOR_PASSTHROUGH, _COMPARED, hint="name the service as its certificate does")
        )
        values.complete = False


def _check_address(values: Values, connect: TcpAddress) -> None:
    """Refuses what can be seen to be no address of the internet, without resolving anything."""
    if values.get(UNSAFE_ADDRESSES) is not False:
        return
    from sidecar.policy.addresses import AddressError, check_address  # noqa: PLC0415 - for such entries alone

    reason = f"{connect.host} is this machine" if connect.loopback else ""
    try:
        if connect.ip is not None:
            check_address(connect.host)
    except AddressError as error:
        reason = str(error)
    if reason:
        hint = "name a service of the internet, or accept it with unsafe_private_addresses: true"
        _refuse_at(values, "connect", Refused(ConfigCode.PRIVATE_ADDRESS, reason, hint=hint))


def _refuse(values: Values, code: ConfigCode, reasons: Mapping[str, str], hint: str) -> None:
    for name, reason in reasons.items():
        if name in values.spots:
            _refuse_at(values, name, Refused(code, f"{name} is not for this entry: {reason}", hint=hint))


def _refuse_at(values: Values, name: str, error: Refused) -> None:
    values.spots[name].refuse(error)
    values.complete = False
