"""What a head says, as values. Only the scanner makes them, so that whoever holds one holds an accepted head."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

Field = tuple[bytes, bytes, bytes]
"""A field: lower-case name, name as received, value without surrounding blanks."""


class Framing(Enum):
    """How the end of a message is found (RFC 9112 section 6.3)."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"
    """A response that ends with its connection."""


class TargetForm(Enum):
    """The four forms of a request target (RFC 9112 section 3.2)."""

    ORIGIN = "origin"
    ABSOLUTE = "absolute"
    AUTHORITY = "authority"
    ASTERISK = "asterisk"


class Derived:
    """What follows from a head's fields, their framing and trace aside; shared by the heads of a connection that repeat them.

    ``start`` is the beginning of the head that goes on instead, with what it was made of beside the fields; ``owner`` is
    whatever the owner of the connection makes of them.
    """

    __slots__ = ("owner", "start")

    def __init__(self) -> None:
        self.start: tuple[object, bytes] = (None, b"")
        self.owner: object = None


@dataclass(slots=True)
class RequestHead:
    """An accepted request head.

    ``target`` is as received. ``scheme`` (``http`` or ``https``) is the absolute form's, lower-cased, else empty;
    ``authority`` is the absolute or authority form's ``host[:port]``, lower-cased, else empty. ``path`` is the path as
    it is sent in origin-form, without the query (``*`` for the asterisk form, empty for CONNECT); ``query`` is empty or
    begins with ``?``. ``minor`` is 0 or 1. ``host`` is the Host value, lower-cased; an HTTP/1.0 request without one has
    its authority here, or nothing. ``length`` is the Content-Length, 0 where there is none. ``connection`` are the
    lower-case options of Connection. ``keep_alive`` says that the client expects the connection to live on
    (RFC 9112 section 9.3). ``expect_continue`` says that an HTTP/1.1 client waits for ``100 Continue``. ``trace`` is the
    value of ``traceparent``, empty where it is missing, invalid or there twice (W3C Trace Context 3.2).
    """

    method: bytes
    target: bytes
    form: TargetForm
    authority: bytes
    path: bytes
    query: bytes
    minor: int
    fields: list[Field]
    host: bytes
    framing: Framing
    length: int
    keep_alive: bool
    connection: frozenset[bytes]
    expect_continue: bool
    scheme: bytes = b""
    trace: bytes = b""
    derived: Derived = field(default_factory=Derived, compare=False, repr=False)


@dataclass(slots=True)
class ResponseHead:
    """An accepted response head.

    ``length`` is the announced Content-Length, or -1 where none is; it can be announced without a body to follow (an
    answer to HEAD, and 304). ``keep_alive`` says that the connection may serve another request after this response.
    """

    status: int
    reason: bytes
    minor: int
    fields: list[Field]
    framing: Framing
    length: int
    keep_alive: bool
    connection: frozenset[bytes]
    derived: Derived = field(default_factory=Derived, compare=False, repr=False)
