"""The byte path of a tunnel: two ends, each of which hands what arrives straight to the other's stream.

Nobody looks into the bytes. Per chunk there is no task, no future, no list and no copy of ours: a stream's
``data_received`` decrypts (or not), calls ``Leg.received``, and that writes to the other stream, which encrypts (or not).

Ends are passed on one direction at a time. A peer that says it sends no more (FIN in plaintext, close_notify over TLS) is
repeated to the other side by `Stream.finish`, and the other direction goes on. Anything else that ends a connection, a
reset, TLS without close_notify, a broken record, is no end of what was sent but a loss: then the other side is reset, so
that nobody takes half of something for the whole (RFC 8446 6.1).

What lies in between is bounded: an end whose stream takes no more (`HIGH_WATER`) stops the reading of the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.proxy.stream import Expiry, Stream


class Owner(Protocol):
    """Whose legs they are."""

    def broken(self, leg: Leg) -> None:
        """An end sent something that is no clean end; its own stream has been dealt with."""

    def lost(self, leg: Leg) -> None:
        """The connection of an end is gone, once."""

    def both_done(self) -> None:
        """Both ends have ended, cleanly, and were told so of each other."""

    def look(self) -> None:
        """A deadline of a stream has passed."""


class Leg:
    """One end of a tunnel: what its stream's user does once the stream is open."""

    stream: Stream

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.other: Leg | None = None
        #: Bytes that arrived from this end.
        self.taken = 0
        #: This end has said that it sends no more.
        self.done = False
        #: Its connection is gone.
        self.gone = False
        #: Where what arrives goes: the other stream, or aside as long as there is none.
        self.forward: Callable[[bytes], None] = self._hold
        self._held: list[bytes] = []

    def join(self, other: Leg) -> None:
        """Connects both ends; what each was holding goes first."""
        self.other, other.other = other, self
        self._start(other)
        other._start(self)

    def hold(self, data: bytes) -> None:
        """Keeps bytes that arrived, and what still does, until there is another end."""
        self.forward = self._hold
        self._hold(data)

    def part(self) -> None:
        """Lets go of everything: nothing is passed on any more, and nothing keeps the other alive."""
        self.other = None
        self.forward = _nowhere
        self._held.clear()

    def forget(self) -> None:
        """Lets go of the owner too: the connection is gone, and nothing is to keep the other alive."""
        self.part()
        del self.owner

    # -- what the stream calls ----------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Passes bytes on."""
        self.taken += len(data)
        self.forward(data)

    def ended(self, *, clean: bool) -> None:
        """Passes a clean end on; anything else ends the tunnel."""
        if self.done:
            return  # asyncio says so again after reading was paused and resumed
        if not clean:
            self.stream.cut()  # what TLS still has to say, an alert, may leave
            self.owner.broken(self)
            return
        self.done = True
        if self.other is not None:
            self._pass_end(self.other)

    def lost(self) -> None:
        """The connection is gone."""
        self.gone = True
        self.owner.lost(self)

    def writable(self, *, yes: bool) -> None:
        """Slows the other end down to what this one takes."""
        other = self.other
        if other is None:
            return
        if yes:
            other.stream.resume_reading()
        else:
            other.stream.pause_reading()

    def expired(self, which: Expiry) -> None:  # noqa: ARG002 - there is one deadline, the owner's
        """Lets the owner look at its limits."""
        self.owner.look()

    # -- inside -------------------------------------------------------------------------------------------------

    def _hold(self, data: bytes) -> None:
        """Keeps what one read brought, for reading stops here."""
        self._held.append(data)
        self.stream.pause_reading()

    def _start(self, other: Leg) -> None:
        self.forward = forward = other.stream.write
        held, self._held = self._held, []
        for piece in held:
            forward(piece)
        if self.done:
            self._pass_end(other)
        elif other.stream.writing_paused:
            self.stream.pause_reading()  # it was paused before there was anybody to tell, as by answers to requests
        else:
            self.stream.resume_reading()

    def _pass_end(self, other: Leg) -> None:
        other.stream.finish()
        if other.done:
            self.owner.both_done()


def _nowhere(data: bytes) -> None:
    """Takes what arrives behind the end of a tunnel."""
