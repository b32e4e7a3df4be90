"""Frames of JSON, with descriptors beside them, over a UNIX stream socket between two processes of ours.

A frame: the length of its text (4 bytes, big-endian), the number of its descriptors (1 byte), the text: a JSON object in
ASCII. Descriptors leave with the first bytes of their frame (unix(7), SCM_RIGHTS) and arrive with them, those of one frame
at a time. A process that has no room for them gets the frame without any.
Nothing of a frame is ever shown: it may hold a key or a token.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sidecar.sockets import receive_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Content: TypeAlias = "dict[str, Any]"

_HEAD: Final = struct.Struct(">IB")
#: The largest frame is the one with the files of a configuration, in base64; each is at most 1 MiB.
MAX_BYTES: Final = 64 * 1024 * 1024
#: Descriptors of one frame; Linux passes up to 253 at once (SCM_MAX_FD).
MAX_DESCRIPTORS: Final = 200
_READ_BYTES: Final = 256 * 1024


class ChannelError(Exception):
    """What came is no frame. Says nothing of its content."""


@dataclass(slots=True)
class _Outgoing:
    data: memoryview = field(repr=False)
    descriptors: Sequence[int]


class Channel:
    """One end. ``on_frame`` gets the content and descriptors of each frame, which are its to close.

    It gets none of them where this process had no descriptor left for all.
    ``on_end`` is called once, when the other end is gone or sent what is no frame; the socket is closed by then.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_frame: Callable[[Content, list[int]], None],
        on_end: Callable[[str], None],
        *,
        most: int = MAX_BYTES,
    ) -> None:
        """Begins to read. ``most``: bytes of a frame that is taken."""
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._on_frame = on_frame
        self._on_end = on_end
        self._most = most
        self._data = bytearray()
        #: Those of each frame that is not whole yet, or lost.
        self._descriptors: deque[list[int]] = deque()
        self._outgoing: deque[_Outgoing] = deque()
        self.closed = False
        sock.setblocking(False)
        self._loop.add_reader(sock, self._read)

    def send(self, content: Content, descriptors: Sequence[int] = ()) -> None:
        """Sends a frame; what the socket does not take now leaves later. The descriptors must stay open until then.

        Does nothing on a channel that is closed: `on_end` was called.
        """
        if self.closed:
            return
        text = json.dumps(content, separators=(",", ":")).encode("ascii")
        frame = _HEAD.pack(len(text), len(descriptors)) + text
        self._outgoing.append(_Outgoing(memoryview(frame), descriptors))
        if len(self._outgoing) == 1:
            self._write()

    @property
    def sent(self) -> bool:
        """Whether everything has left."""
        return not self._outgoing

    def close(self) -> None:
        """Ends it from our side; `on_end` is not called."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        for descriptors in self._descriptors:
            _close(descriptors)
        self._outgoing.clear()

    # -- what the event loop calls ------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            data, descriptors, flags = receive_descriptors(self._sock, _READ_BYTES, MAX_DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError:
            self._end("is gone")
            return
        if flags & socket.MSG_CTRUNC:  # the kernel has dropped those for which there was no room
            _close(descriptors)
            self._descriptors.append([])
        elif descriptors:
            self._descriptors.append(descriptors)
        self._data += data
        if not data:
            self._end("is gone")
            return
        try:
            self._deliver()
        except ChannelError as error:
            self._end(str(error))

    def _deliver(self) -> None:
        while not self.closed and self._deliver_one():
            pass
        if len(self._descriptors) > 1:  # one frame may have begun
            raise ChannelError("sent descriptors that are of no frame")

    def _deliver_one(self) -> bool:
        """Delivers the first frame; False where it is not whole yet."""
        if len(self._data) < _HEAD.size:
            return False
        size, count = _HEAD.unpack_from(self._data)
        if size > self._most or count > MAX_DESCRIPTORS:
            raise ChannelError("sent a frame that is too large")
        end = _HEAD.size + size
        if len(self._data) < end:
            return False
        text = bytes(memoryview(self._data)[_HEAD.size : end])
        del self._data[:end]
        descriptors = self._descriptors_of_frame(count)
        self._on_frame(_object(text, descriptors), descriptors)
        return True

    def _descriptors_of_frame(self, count: int) -> list[int]:
        if not count:
            return []
        found = self._descriptors.popleft() if self._descriptors else None
        if found is None or len(found) not in {0, count}:
            _close(found or [])
            raise ChannelError("sent other descriptors than it says")
        return found

    def _write(self) -> None:
        try:
            while self._outgoing:
                first = self._outgoing[0]
                if first.descriptors:
                    taken = socket.send_fds(self._sock, [first.data], list(first.descriptors))
                    first.descriptors = ()
                else:
                    taken = self._sock.send(first.data)
                if taken < len(first.data):
                    first.data = first.data[taken:]
                else:
                    self._outgoing.popleft()
        except BlockingIOError:
            self._loop.add_writer(self._sock, self._write)
        except OSError:
            # Later: whoever sends does not expect to be told while it does.
            self._loop.remove_writer(self._sock)
            self._loop.call_soon(self._end, "is gone")
        else:
            self._loop.remove_writer(self._sock)

    def _end(self, why: str) -> None:
        if not self.closed:
            self.close()
            self._on_end(why)


def _object(text: bytes, descriptors: list[int]) -> Content:
    found = None
    with suppress(ValueError, RecursionError):
        found = json.loads(text)
    if not isinstance(found, dict):
        _close(descriptors)
        raise ChannelError("sent what is no JSON object")
    return found


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
