"""The PROXY protocol, version 2 (HAProxy's proxy-protocol.txt, section 2.2): who the caller of a tunnel is, in front of it.

One header, written in one piece before any byte of the caller's: signature, version and command, addresses as the caller's
socket and ours have them, then TLVs: type (1 byte), length (2 bytes), value.

| type | value |
| --- | --- |
| 0x01 ALPN | what was negotiated; left out where nothing was |
| 0x02 AUTHORITY | the SNI that the caller sent; left out where there is none, or one that no host name is |
| 0x05 UNIQUE_ID | the id of the decision, as in the access log |
| 0x20 SSL | flags, then ``verify`` 0: the certificate was verified; then 0x21 the TLS version, 0x23 the cipher suite |
| 0xE0 | the caller's SPIFFE ID: the first type of the range for applications (2.2.8) |

The flag CERT_CONN says that the certificate came over this very connection, CERT_SESS that it came over its session: a
resumed handshake has the second alone (2.2.6). No checksum (0x03): the header never leaves a checksummed stream.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

from sidecar.policy.decision import Permit
from sidecar.proxy.tls_stream import TlsStream

if TYPE_CHECKING:
    from sidecar.proxy.tunnel import Tunnel

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_VERSION_2_PROXY: Final = 0x21
_UNSPEC, _TCP4, _TCP6 = 0x00, 0x11, 0x21
_ALPN, _AUTHORITY, _UNIQUE_ID, _SSL, _SPIFFE_ID = 0x01, 0x02, 0x05, 0x20, 0xE0
_SSL_VERSION, _SSL_CIPHER = 0x21, 0x23
_CLIENT_SSL, _CERT_CONN, _CERT_SESS = 0x01, 0x02, 0x04
_VERIFIED: Final = 0
#: What a host name in SNI may be made of (RFC 6066 3), by length at least; anything else a stranger could use to confuse.
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,255}")


@dataclass(frozen=True, slots=True)
class Origin:
    """What is told of a caller. ``source`` is its socket address as asyncio gives it, ``destination`` our own.

    ``presented``: it sent its certificate over this connection, and not over one whose session this one resumes.
    """

    source: object
    destination: object
    unique_id: str
    spiffe_id: str
    tls_version: str
    cipher: str
    presented: bool
    alpn: str | None = None
    authority: str | None = None


def encode(origin: Origin) -> bytes:
    """Returns the header."""
    family, addresses = _addresses(origin.source, origin.destination)
    tlvs = [_tlv(_ALPN, origin.alpn)] if origin.alpn else []
    if origin.authority and _HOST_NAME.fullmatch(origin.authority):
        tlvs.append(_tlv(_AUTHORITY, origin.authority))
    flags = _CLIENT_SSL | _CERT_SESS | (_CERT_CONN if origin.presented else 0)
    tlvs += [
        _tlv(_UNIQUE_ID, origin.unique_id),
        _tlv(
            _SSL,
            struct.pack("!BI", flags, _VERIFIED)
            + _tlv(_SSL_VERSION, origin.tls_version)
            + _tlv(_SSL_CIPHER, origin.cipher),
        ),
        _tlv(_SPIFFE_ID, origin.spiffe_id),
    ]
    body = addresses + b"".join(tlvs)
    return _SIGNATURE + struct.pack("!BBH", _VERSION_2_PROXY, family, len(body)) + body


def preface(tunnel: Tunnel) -> bytes:
    """Returns the header of an inbound tunnel that is permitted and about to be joined."""
    stream, peer, permit = tunnel.stream, tunnel.peer, tunnel.verdict
    if peer is None or not isinstance(stream, TlsStream) or not isinstance(permit, Permit):
        raise RuntimeError("a header for a tunnel whose caller was not proven and permitted")
    engine = stream.engine
    source, destination = stream.ends
    return encode(
        Origin(
            source=source,
            destination=destination,
            unique_id=permit.decision_id,
            spiffe_id=str(peer.id),
            tls_version=engine.version or "",
            cipher=engine.cipher or "",
            presented=not engine.resumed,
            alpn=engine.alpn,
            authority=engine.server_name_received,
        )
    )


def _tlv(kind: int, value: str | bytes) -> bytes:
    data = value.encode("ascii") if isinstance(value, str) else value
    return struct.pack("!BH", kind, len(data)) + data


def _addresses(source: object, destination: object) -> tuple[int, bytes]:
    """Returns the family, and the addresses and ports in its form; UNSPEC and nothing where a socket has none."""
    ends = _end(source), _end(destination)
    if ends[0] is None or ends[1] is None:
        return _UNSPEC, b""
    (one, port), (two, to) = ends[0], ends[1]
    if isinstance(one, IPv4Address) and isinstance(two, IPv4Address):
        return _TCP4, one.packed + two.packed + struct.pack("!HH", port, to)
    return _TCP6, _sixteen(one) + _sixteen(two) + struct.pack("!HH", port, to)


def _end(address: object) -> tuple[IPv4Address | IPv6Address, int] | None:
    """Reads a socket address; an IPv4 address in IPv6 clothes is that IPv4 address (RFC 4291 2.5.5.2)."""
    if not isinstance(address, tuple) or len(address) < 2:
        return None
    try:
        ip = ip_address(address[0])
    except ValueError:
        return None
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return mapped or ip, address[1]


def _sixteen(ip: IPv4Address | IPv6Address) -> bytes:
    return ip.packed if isinstance(ip, IPv6Address) else b"\0" * 10 + b"\xff\xff" + ip.packed
