"""Addresses as the file writes them: where we listen, whom we connect to. Nothing is ever resolved here."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.config import forms
from sidecar.config.faults import ConfigCode, Refused, quote
from sidecar.config.kinds import check_path
from sidecar.config.schema import Kind, text
from sidecar.config.unserved import NOT_SERVED, not_served
from sidecar.config.values import Forward, Protocol, TcpAddress, UnixAddress
from sidecar.policy.routes import parse_host, parse_origin

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.config.schema import Spot
    from sidecar.config.values import Address

_UNIX: Final = "unix:"
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BRACKETED: Final = re.compile(r"\[([^\[\]]*)\](?::(.*))?")
_PORT: Final = re.compile(r"0|[1-9][0-9]{0,4}")
#: RFC 1123 2.1 with the underscore that private zones use.
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")

#: Bytes of a UNIX socket's path that fit into ``sockaddr_un.sun_path`` with its final NUL.
SOCKET_PATH_BYTES: Final = 103 if sys.platform == "darwin" else 107

_SHAPE: Final = (
    'write host:port, an IPv6 address in quotes and brackets: 127.0.0.1:8443, tools.internal:8443, "[::1]:8443"'
)


def tcp_address(value: str) -> TcpAddress:
    """Parses ``host:port``. Raises Refused."""
    if _SCHEME.match(value):
        raise Refused(ConfigCode.BAD_ADDRESS, f"{quote(value)} is a URL, expected an address", hint=_SHAPE)
    bracketed = _BRACKETED.fullmatch(value)
    if bracketed:
        host, port = bracketed[1], bracketed[2]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise Refused(ConfigCode.BAD_ADDRESS, f"{quote(host)} is not an IPv6 address", hint=_SHAPE) from None
        if port is None:
            raise Refused(ConfigCode.BAD_ADDRESS, f"{quote(value)} lacks its port", hint=_SHAPE)
    else:
        host, colon, port = value.rpartition(":")
        if not colon or not host:
            lacking = "host" if colon else "port"
            raise Refused(ConfigCode.BAD_ADDRESS, f"{quote(value)} lacks its {lacking}", hint=_SHAPE)
        if ":" in host:
            raise Refused(ConfigCode.BAD_ADDRESS, f"{quote(value)} has too many colons", hint=_SHAPE)
    return TcpAddress(_host(host), _port(port))


def _port(value: str) -> int:
    if _PORT.fullmatch(value) is None or int(value) > 65535:
        raise Refused(ConfigCode.BAD_ADDRESS, f"{quote(value)} is not a port", hint="a port is 1 to 65535")
    if value == "0":
        raise Refused(
            ConfigCode.BAD_ADDRESS,
            "port 0 means a port that nobody knows beforehand",
            hint="choose a port from 1 to 65535",
        )
    return int(value)


def _host(value: str) -> str:
    """Returns an IP address in its one canonical spelling, or a DNS name in lower case."""
    try:
        ip = ipaddress.ip_address(value)
    except ValueError:
        return dns_name(value)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            raise Refused(
                ConfigCode.BAD_ADDRESS, f"{quote(value)} has a zone, which is not supported", hint="use another address"
            )
        # An IPv4 address in IPv6 clothes is that IPv4 address, or two spellings would make two listeners of one.
        return str(ip.ipv4_mapped or ip)
    return str(ip)


def dns_name(value: str) -> str:
    """Parses a DNS name; raises Refused. What the system would read as a number is refused: ``127.1`` is no name."""
    name = value.lower()
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        hint = "a name is letters, digits, - and dots, without a dot at its end; write names beyond ASCII as xn--…"
        raise Refused(ConfigCode.BAD_ADDRESS, f"{quote(value)} is neither an IP address nor a DNS name", hint=hint)
    if _NUMERIC.fullmatch(labels[-1]):
        raise Refused(
            ConfigCode.BAD_ADDRESS,
            f"{quote(value)} is not an IP address",
            hint="write an IPv4 address as four numbers from 0 to 255, without leading zeros",
        )
    return name


def _inbound_listen(value: str) -> TcpAddress:
    if value.startswith(_UNIX):
        raise Refused(
            ConfigCode.BAD_ADDRESS,
            f"{quote(value)} is a UNIX socket, and callers come from other machines, over TCP",
            hint="write IP:port; a server on this machine that only this machine shall reach needs no mutual TLS",
        )
    return _listen(value)


def _listen(value: str) -> TcpAddress:
    if value.startswith(("*:", ":")) and value.count(":") == 1:
        raise Refused(
            ConfigCode.BAD_ADDRESS,
            f"{quote(value)} names no address",
            hint='write 0.0.0.0:PORT for every IPv4 address of this machine, "[::]:PORT" for every IPv6 address',
        )
    address = tcp_address(value)
    if address.host == "localhost":
        return TcpAddress("127.0.0.1", address.port)
    if address.ip is None:
        raise Refused(
            ConfigCode.BAD_ADDRESS,
            f"{quote(value)} is a name, and one listens on an IP address",
            hint="write the IP address: 127.0.0.1 for this machine alone, 0.0.0.0 for all networks",
        )
    return address


def _or_unix(parse: Callable[[str], TcpAddress], says: str) -> Kind[Address]:
    """Returns the kind of an address that may be ``unix:PATH`` too."""

    def read(spot: Spot) -> Address:
        value = spot.text()
        return _socket(spot, value.removeprefix(_UNIX)) if value.startswith(_UNIX) else parse(value)

    return Kind(read, says, forms.TEXT)


def _target(address: TcpAddress) -> TcpAddress:
    if address.ip is not None and address.ip.is_unspecified:
        raise Refused(
            ConfigCode.BAD_ADDRESS,
            f"{address.host} is an address to listen on, not one to connect to",
            hint="write 127.0.0.1 for this machine",
        )
    return address


def _forward(spot: Spot) -> Forward:
    value = spot.text()
    scheme, colon, rest = value.partition(":")
    feature = f"inbound.forward {scheme.lower()}"
    if colon and feature in NOT_SERVED:
        raise not_served(feature)
    protocol = scheme.removesuffix("+unix")
    if not colon or protocol not in set(Protocol) or (protocol == scheme and not rest.startswith("//")):
        raise Refused(
            ConfigCode.BAD_URL,
            f"{quote(value)} is not an http or tcp URL",
            hint="write http://127.0.0.1:PORT, or tcp://127.0.0.1:PORT for bytes that are not looked into; a UNIX socket "
            "is http+unix:PATH or tcp+unix:PATH",
        )
    return Forward(_authority(value, rest[2:]) if protocol == scheme else _socket(spot, rest), Protocol(protocol))


def _authority(value: str, rest: str) -> TcpAddress:
    authority = rest.removesuffix("/")
    if "@" in authority:
        raise Refused(
            ConfigCode.SECRET, "the URL holds a user name or password", hint="remove it; no secret stands in this file"
        )
    if set(authority) & set("/?#"):
        raise Refused(
            ConfigCode.BAD_URL,
            f"{quote(value)} has a path or query",
            hint="end it after the port: requests keep their own path and query",
        )
    return _target(tcp_address(authority))


def _admin(spot: Spot) -> UnixAddress:
    value = spot.text()
    if not value.startswith(_UNIX):
        raise Refused(
            ConfigCode.ADMIN_ON_TCP,
            f"{quote(value)} is not a UNIX socket, and administration is on nothing else",
            hint="write unix:PATH; the agent can reach every TCP port of this machine. Probes and metrics: health.listen",
        )
    return _socket(spot, value.removeprefix(_UNIX))


def _socket(spot: Spot, name: str) -> UnixAddress:
    """Reads the path behind ``unix:``; raises Refused."""
    check_path(name)
    if name.startswith("//"):
        # One reader would take what follows for a host. It is not quoted: it might hold a password.
        raise Refused(
            ConfigCode.BAD_ADDRESS,
            "two slashes follow unix:, as in a URL with a host",
            hint="write one slash: unix:/run/agent/http.sock",
        )
    if name.startswith("@") or name.endswith("/"):
        raise Refused(
            ConfigCode.BAD_ADDRESS,
            f"{quote(spot.text())} names no socket file",
            hint="write unix:PATH, a file in a folder",
        )
    # Two spellings of one path would hide that one listens where the other leads.
    return unix_address(Path(os.path.normpath(spot.base / name)), spot.key)


def unix_address(path: Path, key: str = "admin.listen") -> UnixAddress:
    """Returns the address of a UNIX socket; raises Refused when the system could not take it."""
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_BYTES:
        raise Refused(
            ConfigCode.SOCKET_PATH_TOO_LONG,
            f"the socket's path is {length} bytes long, the system takes {SOCKET_PATH_BYTES}: {quote(str(path))}",
            hint=f"set {key} to a shorter absolute path",
        )
    return UnixAddress(str(path))


def _server_name(value: str) -> str:
    if value.startswith("[") or TcpAddress(value, 1).ip is not None:
        raise Refused(
            ConfigCode.BAD_ADDRESS,
            f"{quote(value)} is an IP address, which SNI never holds (RFC 6066 3)",
            hint="write a DNS name, or remove the key to send no SNI",
        )
    return dns_name(value)


INBOUND_LISTEN: Final = text(_inbound_listen, "address to listen on")
LISTEN: Final = _or_unix(_listen, "address to listen on, or unix:PATH")
CONNECT: Final = _or_unix(lambda value: _target(tcp_address(value)), "host:port, or unix:PATH")
FORWARD: Final = Kind(_forward, "http://HOST:PORT, tcp://HOST:PORT, http+unix:PATH or tcp+unix:PATH", forms.TEXT)
UNIX: Final = Kind(_admin, "unix:PATH", forms.starting("unix:"))
HOST: Final = text(parse_host, "name or name:port")
ORIGIN: Final = text(parse_origin, "web origin")
SERVER_NAME: Final = text(_server_name, "DNS name")
