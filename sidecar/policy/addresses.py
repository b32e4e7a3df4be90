"""Which IP addresses the name of a public service may lead to: global unicast ones, whatever they are wrapped in.

Whoever can change a DNS answer can point a name at this machine, at its network, or at the cloud's metadata service. So
what a name resolves to is looked at here, and what was looked at is what is dialled. An IPv4 address inside an IPv6 one is
taken out and judged first: a translator or a tunnel at hand would take us to it.
"""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from sidecar.errors import UpstreamError
from sidecar.policy.special_addresses import IPV4, IPV6, IPV6_GLOBAL, METADATA

if TYPE_CHECKING:
    from collections.abc import Iterator

#: RFC 4291 2.5.5.2 and RFC 6052 2.1: an address here is the IPv4 address, for whoever has nothing but IPv6.
_SAME: Final = (
    (ipaddress.IPv6Network("::ffff:0:0/96"), "IPv4-mapped"),
    (ipaddress.IPv6Network("64:ff9b::/96"), "NAT64"),
)
#: RFC 4291 2.5.5.1, deprecated there.
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
_6TO4: Final = ipaddress.IPv6Network("2002::/16")
_TEREDO: Final = ipaddress.IPv6Network("2001::/32")
#: RFC 5214 6.1: the upper half of an ISATAP interface identifier, for private and for global IPv4 addresses.
_ISATAP: Final = frozenset((0x00005EFE, 0x02005EFE))
_LOW: Final = 0xFFFFFFFF


class AddressCode(StrEnum):
    """Why an address is not dialled."""

    MALFORMED = "address_malformed"
    SCOPED = "address_scoped"
    METADATA = "address_metadata"
    SPECIAL = "address_special_purpose"
    NOT_GLOBAL = "address_not_global"


class AddressError(UpstreamError):
    """A name leads to an address that may not be dialled."""

    def __init__(self, code: AddressCode, message: str) -> None:
        hint = "if the service is on a private network, say unsafe_private_addresses: true at its entry"
        super().__init__(code, message, hint=hint)
        self.code: AddressCode = code


def check_address(text: str) -> None:
    """Lets an address pass that any host of the internet could have; raises `AddressError` for every other.

    ``text`` is a numeric address as a resolver gives it. One with a zone (RFC 4007 11) is for this machine's links alone.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise AddressError(AddressCode.MALFORMED, "the name leads to something that is no IP address") from None
    if isinstance(address, ipaddress.IPv4Address):
        _check(address, str(address))
        return
    if address.scope_id is not None:
        raise AddressError(AddressCode.SCOPED, f"{address} is an address of one link")
    for network, form in _SAME:
        if address in network:
            inner = ipaddress.IPv4Address(int(address) & _LOW)
            _check(inner, f"{address} is {inner} as {form} address, which")
            return
    for inner, form in _embedded(address):
        _check(inner, f"{address} holds {inner} ({form}), which")
    _check(address, str(address))
    if address not in IPV6_GLOBAL:
        raise AddressError(AddressCode.NOT_GLOBAL, f"{address} is no global unicast address (RFC 4291 2.4)")


def _check(address: ipaddress.IPv4Address | ipaddress.IPv6Address, what: str) -> None:
    whose = METADATA.get(address)
    if whose is not None:
        raise AddressError(AddressCode.METADATA, f"{what} is a metadata service ({whose})")
    for block in IPV4 if address.version == 4 else IPV6:
        if address in block.network:
            why = f"{what} is in {block.network}: {block.purpose} ({block.source})"
            raise AddressError(AddressCode.SPECIAL, why)


def _embedded(address: ipaddress.IPv6Address) -> Iterator[tuple[ipaddress.IPv4Address, str]]:
    """Gives every IPv4 address that packets for this one may end at."""
    number = int(address)
    if address in _COMPATIBLE and number > 1:
        yield ipaddress.IPv4Address(number), "IPv4-compatible"
    elif address in _6TO4:  # RFC 3056 2
        yield ipaddress.IPv4Address(number >> 80 & _LOW), "6to4"
    elif address in _TEREDO:  # RFC 4380 4: the server, and the client with every bit inverted
        yield ipaddress.IPv4Address(number >> 64 & _LOW), "Teredo server"
        yield ipaddress.IPv4Address(~number & _LOW), "Teredo client"
    if number >> 32 & _LOW in _ISATAP:
        yield ipaddress.IPv4Address(number & _LOW), "ISATAP"
