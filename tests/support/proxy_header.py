"""Reads PROXY protocol headers, version 2, by the letter of HAProxy's proxy-protocol.txt: nothing of it is shared with ours."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Header:
    """``family`` is the 14th byte, ``tlvs`` and ``ssl_tlvs`` are in their order."""

    family: int
    source: tuple[str, int] | None
    destination: tuple[str, int] | None
    tlvs: list[tuple[int, bytes]]
    flags: int
    verify: int
    ssl_tlvs: list[tuple[int, bytes]]

    def __getitem__(self, kind: int) -> bytes:
        (value,) = (value for found, value in self.tlvs if found == kind)
        return value

    def __contains__(self, kind: int) -> bool:
        return any(found == kind for found, _ in self.tlvs)


def split(data: bytes) -> tuple[Header, bytes]:
    """Returns the header, and what stands behind it; anything that is no header fails."""
    size = 16 + int.from_bytes(data[14:16], "big")
    assert len(data) >= size, "cut short"
    return _header(data[:size]), data[size:]


def receive(read: Callable[[int], bytes]) -> Header:
    """Reads a header, and not a byte more."""
    start = read(16)
    return _header(start + read(int.from_bytes(start[14:16], "big")))


def _header(data: bytes) -> Header:
    assert data[:12].hex() == "0d0a0d0a000d0a515549540a"
    assert data[12] == 0x21, "version 2, command PROXY"
    family, rest = data[13], data[16:]
    width, kind = {0x00: (0, 0), 0x11: (4, socket.AF_INET), 0x21: (16, socket.AF_INET6)}[family]
    source = destination = None
    if width:
        ports = rest[2 * width : 2 * width + 4]
        source = socket.inet_ntop(kind, rest[:width]), int.from_bytes(ports[:2], "big")
        destination = socket.inet_ntop(kind, rest[width : 2 * width]), int.from_bytes(ports[2:], "big")
        rest = rest[2 * width + 4 :]
    tlvs = _tlvs(rest)
    (ssl,) = (value for found, value in tlvs if found == 0x20)
    return Header(family, source, destination, tlvs, ssl[0], int.from_bytes(ssl[1:5], "big"), _tlvs(ssl[5:]))


def _tlvs(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        size = int.from_bytes(data[1:3], "big")
        assert len(data) >= 3 + size, "a TLV that is cut short"
        found.append((data[0], data[3 : 3 + size]))
        data = data[3 + size :]
    return found
