"""Bodies: one reader a framing.

A Content-Length body, and one that ends with the connection, needs no parser: the head scanner has turned the length into
a number already, and what remains is to count. Chunked is in ``chunked``, and is the only framing with a syntax.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sidecar.http.errors import HttpCode
    from sidecar.http.messages import Field


class BodyReader(Protocol):
    """Reads one body."""

    done: bool
    """Whether the body is complete; what follows belongs to somebody else."""

    trailers: list[Field]
    """The accepted trailer fields, once ``done``."""

    defect: tuple[HttpCode, str] | None
    """What stands behind the bytes that ``feed`` returned and may not; nothing can be read any more.

    The code and the sentence of the error to raise; not the error, which would refer to the reader by its traceback."""

    def feed(self, data: bytes, start: int) -> tuple[bytes, int]:
        """Reads ``data`` from ``start`` on.

        Returns the body's bytes in it, which may be none, and where the body's part of ``data`` ends. Everything that has
        arrived before a defect is returned at once, be its chunk complete or not.
        """


class LengthReader:
    """So many bytes; at least one."""

    __slots__ = ("_left", "defect", "done", "trailers")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = False
        self.trailers: list[Field] = []
        self.defect: tuple[HttpCode, str] | None = None

    def feed(self, data: bytes, start: int) -> tuple[bytes, int]:
        """See :class:`BodyReader`."""
        end = start + self._left
        if end > len(data):
            self._left = end - len(data)
            return data[start:], len(data)
        self.done = True
        return data[start:end], end


class CloseReader:
    """Everything until the connection ends; never ``done`` by itself."""

    __slots__ = ("defect", "done", "trailers")

    def __init__(self) -> None:
        self.done = False
        self.trailers: list[Field] = []
        self.defect: tuple[HttpCode, str] | None = None

    def feed(self, data: bytes, start: int) -> tuple[bytes, int]:
        """See :class:`BodyReader`."""
        return data[start:], len(data)
