"""Whose a TCP socket of this machine is, by the kernel's word: Linux, sock_diag(7).

One request names the two ends of one connection, and the kernel answers at once, within the call that asks: there is no
list to search, and nothing that another process could hold up. The structures are those of <linux/netlink.h>,
<linux/sock_diag.h> and <linux/inet_diag.h>: numbers in the machine's order, addresses and ports in the network's.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from typing import Final, NamedTuple

#: <linux/netlink.h>, <linux/sock_diag.h>.
_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLMSG_ERROR: Final = 2
_NLM_F_REQUEST: Final = 1
#: struct nlmsghdr: length, type, flags, sequence, port.
_HEADER: Final = struct.Struct("=IHHII")
#: struct inet_diag_req_v2: family, protocol, extensions, padding, states.
_ASKED: Final = struct.Struct("=BBBBI")
#: struct inet_diag_sockid: ports of both ends, their addresses, the interface, the cookie.
_ID: Final = struct.Struct("!HH16s16s12s")
#: Any interface, any cookie (INET_DIAG_NOCOOKIE).
_ANY: Final = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
_ANY_STATE: Final = 0xFFFFFFFF
#: struct inet_diag_msg: family, state, timer, retransmissions; the id; expiry, two queues, uid, inode.
_FOUND: Final = struct.Struct("=BBBB48sIIIII")
_ERROR: Final = struct.Struct("=i")
#: More than any answer without extensions has.
_ANSWER_BYTES: Final = 4096
_ENOENT: Final = 2
#: Left over answers to read past before giving up.
_STALE: Final = 16
#: ::ffff:0:0/96
_MAPPED: Final = b"\0" * 10 + b"\xff\xff"

#: <net/tcp_states.h>: those of a client that has connected. It may have said that it sends no more, but not vanished:
#: what is left of a connection whose process is gone belongs to nobody, and the kernel shows it as root's.
ESTABLISHED: Final = 1
CONNECTED: Final = frozenset({ESTABLISHED, 4, 5})  # the others: FIN_WAIT1, FIN_WAIT2
LISTEN: Final = 10

#: IP address and port, as an event loop shows them; what may follow is ignored.
End = tuple[str, int]


class Found(NamedTuple):
    """A socket as the kernel has it. ``inode`` is 0 when no process has it open any more."""

    state: int
    uid: int
    inode: int


class NotFoundError(OSError):
    """The kernel knows no such socket: it is closed, in another network namespace, or bound to an interface."""


class SockDiag:
    """One netlink socket, opened when it is first needed. Not for several threads."""

    def __init__(self) -> None:
        self._sock: socket.socket | None = None
        self._sequence = 0

    def find(self, own: End, other: End) -> Found:
        """Returns the socket whose own end and other end these are; raises OSError, `NotFoundError` among them.

        Both are IPv4, or both IPv6; a socket of the other family that speaks IPv4 in IPv6 clothes is found too.
        """
        try:
            return self._find(own, other)
        except NotFoundError:
            raise
        except (OSError, ValueError, struct.error) as error:
            self.close()  # whatever it was, it shall not be there for the next one
            if isinstance(error, OSError):
                raise
            raise OSError(f"sock_diag: {error}") from error

    def close(self) -> None:
        """Lets go of the netlink socket; another is opened when it is needed."""
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    def _find(self, own: End, other: End) -> Found:
        sock = self._sock
        if sock is None:
            sock = self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
            sock.setblocking(False)
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        sock.send(request(self._sequence, own, other))
        for _ in range(_STALE):
            data, (sender, _groups) = sock.recvfrom(_ANSWER_BYTES)
            if sender != 0:
                continue  # not the kernel
            found = answer(data, self._sequence, own, other)
            if found is not None:
                return found
        raise OSError("sock_diag: no answer to the question")


def request(sequence: int, own: End, other: End) -> bytes:
    """Returns the message that asks for one socket. Raises OSError where an address is none."""
    family = socket.AF_INET6 if ":" in own[0] else socket.AF_INET
    asked = _ASKED.pack(family, socket.IPPROTO_TCP, 0, 0, _ANY_STATE)
    ends = _ID.pack(own[1], other[1], _packed(family, own[0]), _packed(family, other[0]), _ANY)
    length = _HEADER.size + len(asked) + len(ends)
    return _HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, sequence, 0) + asked + ends


def answer(data: bytes, sequence: int, own: End, other: End) -> Found | None:
    """Reads an answer; None for one to another question.

    Raises `NotFoundError`, OSError for another refusal of the kernel, ValueError or struct.error for what is no answer.
    """
    length, kind, _, answered, _ = _HEADER.unpack_from(data)
    if answered != sequence:
        return None
    if length > len(data):
        raise ValueError("a message was cut short")
    if kind == _NLMSG_ERROR:
        raise _refused(-_ERROR.unpack_from(data, _HEADER.size)[0])
    if kind != _SOCK_DIAG_BY_FAMILY or length < _HEADER.size + _FOUND.size:
        raise ValueError("a message of another kind")
    family, state, _, _, ends, _, _, _, uid, inode = _FOUND.unpack_from(data, _HEADER.size)
    own_port, other_port, own_address, other_address, _ = _ID.unpack(ends)
    if state == LISTEN:
        other_address, other_port = _packed(family, other[0]), other[1]  # it has none
    if (own_port, other_port) != (own[1], other[1]) or not (
        _same(family, own_address, own[0]) and _same(family, other_address, other[0])
    ):
        raise ValueError("another socket than the one that was asked for")
    return Found(state, uid, inode)


def _refused(number: int) -> OSError:
    text = os.strerror(number) if number > 0 else "an error without a number"
    return NotFoundError(number, text) if number == _ENOENT else OSError(number, text)


def _packed(family: int, address: str) -> bytes:
    with suppress(OSError):
        return socket.inet_pton(family, address.partition("%")[0]).ljust(16, b"\0")
    raise OSError(f"{address!r} is no address of this family")


def _same(family: int, found: bytes, address: str) -> bool:
    if family == socket.AF_INET6 and ":" not in address:
        return found == _MAPPED + socket.inet_pton(socket.AF_INET, address)
    return found == _packed(family, address)
