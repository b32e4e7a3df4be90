"""IP addresses that no public service has: IANA's special-purpose registries as a table of our own, and a few more.

A table of our own, since what Python calls global changes from one version to the next. The rows are those of the
registries in 2026: all of them, also those that are "globally reachable", because what is reached there is no
ordinary host (anycast of relays and of AS112, identifiers that are no locations).
"""

from __future__ import annotations

import ipaddress
from typing import Final, NamedTuple


class Block(NamedTuple):
    """One row: a prefix, what it is for, and where that stands."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    purpose: str
    source: str


def _blocks(*rows: tuple[str, str, str]) -> tuple[Block, ...]:
    return tuple(Block(ipaddress.ip_network(prefix), purpose, source) for prefix, purpose, source in rows)


#: https://www.iana.org/assignments/iana-ipv4-special-registry, and multicast, which has a registry of its own. What lies
#: within another row stands before it, so that the first that matches says most.
IPV4: Final = _blocks(
    ("0.0.0.0/32", "this host on this network", "RFC 1122 3.2.1.3"),
    ("0.0.0.0/8", "this network", "RFC 791 3.2"),
    ("10.0.0.0/8", "private use", "RFC 1918"),
    ("100.64.0.0/10", "shared address space", "RFC 6598"),
    ("127.0.0.0/8", "loopback", "RFC 1122 3.2.1.3"),
    ("169.254.0.0/16", "link local", "RFC 3927"),
    ("172.16.0.0/12", "private use", "RFC 1918"),
    ("192.0.0.0/29", "IPv4 service continuity", "RFC 7335"),
    ("192.0.0.8/32", "IPv4 dummy address", "RFC 7600"),
    ("192.0.0.9/32", "port control protocol anycast", "RFC 7723"),
    ("192.0.0.10/32", "TURN anycast", "RFC 8155"),
    ("192.0.0.170/32", "NAT64/DNS64 discovery", "RFC 8880"),
    ("192.0.0.171/32", "NAT64/DNS64 discovery", "RFC 7050 2.2"),
    ("192.0.0.0/24", "IETF protocol assignments", "RFC 6890 2.1"),
    ("192.0.2.0/24", "documentation", "RFC 5737"),
    ("192.31.196.0/24", "AS112", "RFC 7535"),
    ("192.52.193.0/24", "automatic multicast tunneling", "RFC 7450"),
    ("192.88.99.2/32", "6a44 relay anycast", "RFC 6751"),
    ("192.88.99.0/24", "6to4 relay anycast, deprecated", "RFC 7526"),
    ("192.168.0.0/16", "private use", "RFC 1918"),
    ("192.175.48.0/24", "AS112", "RFC 7534"),
    ("198.18.0.0/15", "benchmarking", "RFC 2544"),
    ("198.51.100.0/24", "documentation", "RFC 5737"),
    ("203.0.113.0/24", "documentation", "RFC 5737"),
    ("224.0.0.0/4", "multicast", "RFC 5771"),
    ("255.255.255.255/32", "limited broadcast", "RFC 919 7"),
    ("240.0.0.0/4", "reserved", "RFC 1112 4"),
)

#: https://www.iana.org/assignments/iana-ipv6-special-registry, and what is multicast or was site-local.
IPV6: Final = _blocks(
    ("::1/128", "loopback", "RFC 4291"),
    ("::/128", "unspecified", "RFC 4291"),
    ("::ffff:0:0/96", "IPv4-mapped", "RFC 4291"),
    ("64:ff9b::/96", "IPv4/IPv6 translation", "RFC 6052"),
    ("64:ff9b:1::/48", "local-use IPv4/IPv6 translation", "RFC 8215"),
    ("100::/64", "discard only", "RFC 6666"),
    ("100:0:0:1::/64", "dummy prefix", "RFC 9780"),
    ("2001::/32", "Teredo", "RFC 4380"),
    ("2001:1::1/128", "port control protocol anycast", "RFC 7723"),
    ("2001:1::2/128", "TURN anycast", "RFC 8155"),
    ("2001:1::3/128", "DNS-SD registration anycast", "RFC 9665"),
    ("2001:2::/48", "benchmarking", "RFC 5180"),
    ("2001:3::/32", "automatic multicast tunneling", "RFC 7450"),
    ("2001:4:112::/48", "AS112", "RFC 7535"),
    ("2001:10::/28", "ORCHID, deprecated", "RFC 4843"),
    ("2001:20::/28", "ORCHIDv2", "RFC 7343"),
    ("2001:30::/28", "drone remote ID", "RFC 9374"),
    ("2001::/23", "IETF protocol assignments", "RFC 2928"),
    ("2001:db8::/32", "documentation", "RFC 3849"),
    ("2002::/16", "6to4", "RFC 3056"),
    ("2620:4f:8000::/48", "AS112", "RFC 7534"),
    ("3fff::/20", "documentation", "RFC 9637"),
    ("5f00::/16", "segment routing", "RFC 9602"),
    ("fc00::/7", "unique local", "RFC 4193"),
    ("fe80::/10", "link local", "RFC 4291"),
    ("fec0::/10", "site local, deprecated", "RFC 3879"),
    ("ff00::/8", "multicast", "RFC 4291"),
)

#: All that IANA gives out as global unicast (RFC 4291 2.4 and the registry of IPv6 unicast assignments).
IPV6_GLOBAL: Final = ipaddress.IPv6Network("2000::/3")

#: Where clouds keep the credentials of their machines, each from its provider's documentation. Most are special anyway;
#: Azure's is an ordinary address of the internet to everybody but its own machines.
METADATA: Final = {
    ipaddress.ip_address(address): whose
    for address, whose in (
        ("169.254.169.254", "AWS, Azure, Google, Oracle and others"),
        ("169.254.170.2", "AWS ECS"),
        ("169.254.170.23", "AWS EKS"),
        ("169.254.42.42", "Scaleway"),
        ("fd00:ec2::254", "AWS"),
        ("fd00:ec2::23", "AWS EKS"),
        ("fd20:ce::254", "Google"),
        ("fd00:42::42", "Scaleway"),
        ("100.100.100.200", "Alibaba"),
        ("192.0.0.192", "Oracle"),
        ("168.63.129.16", "Azure"),
    )
}
