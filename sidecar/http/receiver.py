"""Cuts a stream into messages and tells a sink about them, synchronously, as the bytes arrive.

Here is what both directions share, and the one for requests; that for responses is `sidecar.http.response_receiver`.

A receiver is in one phase at a time:

* ``HEAD``: a head is awaited, or partly there;
* ``BODY``: a body is being read;
* ``PAUSE``: nothing may arrive. A request receiver keeps what does for :meth:`RequestReceiver.next`; for a response
  receiver it is an error;
* ``DEAD``: stopped, or failed. Whatever is fed is dropped.

A sink may call back into the receiver from within each of its methods: ``stop``, ``next`` and ``expect``, even ``feed``.
That only changes what the running loop finds when the call returns; nothing nests, so a thousand pipelined requests need
no deeper stack than one. The error of bytes that are worked off in such a call surfaces from the outermost one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, Protocol

from sidecar.http.bodies import BodyReader, CloseReader, LengthReader
from sidecar.http.chunked import ChunkedReader
from sidecar.http.errors import HttpCode, HttpError
from sidecar.http.grammar import CRLF, END_OF_HEAD
from sidecar.http.messages import Field, Framing, RequestHead
from sidecar.http.parsers import ParserFactory, best_parser
from sidecar.http.repeat import RequestMemory
from sidecar.http.scanner import request_rules
from sidecar.http.watch import Watch, WatchRules

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.http.limits import HttpLimits


class Sink(Protocol):
    """Whoever takes messages of either kind."""

    def on_data(self, data: bytes) -> None:
        """Bytes of the body, as they arrive; never empty."""

    def on_end(self, trailers: list[Field]) -> None:
        """The message is complete."""


class RequestSink(Sink, Protocol):
    """Whoever takes requests."""

    def on_request(self, head: RequestHead) -> None:
        """A request was accepted; its body, if any, follows."""

    def on_end(self, trailers: list[Field]) -> None:
        """The request is complete. Nothing more comes until ``next`` is called, which may be done here."""


# The phases, in this order; plain numbers, since they are compared several times for each message.
HEAD: Final = 0
BODY: Final = 1
PAUSE: Final = 2
DEAD: Final = 3

_NONE, _LENGTH, _CHUNKED, _UNTIL_CLOSE = Framing.NONE, Framing.LENGTH, Framing.CHUNKED, Framing.CLOSE
_CARRIAGE_RETURN = 0x0D
NO_BODY: BodyReader = CloseReader()


class RequestTaker(RequestSink, Protocol):
    """A sink that is told of a request which arrived in one piece by one call."""

    def on_whole(self, head: RequestHead, body: bytes) -> None:
        """What ``on_request``, ``on_data`` unless the body is empty, and ``on_end`` without trailers would say."""


class Receiver(ABC):
    """What both directions share: the loop, the gathering of a head, the body."""

    __slots__ = (
        "_busy", "_data", "_head", "_limits", "_parser", "_phase", "_pos", "_reader", "_sink_data", "_sink_end", "_watch",
    )  # fmt: skip

    def __init__(self, sink: Sink, limits: HttpLimits, parser: ParserFactory) -> None:
        self._limits = limits
        self._parser = parser
        self._sink_data = sink.on_data
        self._sink_end = sink.on_end
        self._phase = PAUSE
        self._busy = False  # the loop runs, further up the stack
        self._data = b""  # what was fed; all before _pos is done with
        self._pos = 0
        self._head = bytearray()  # an unfinished head
        self._watch: Watch | None = None
        self._reader = NO_BODY

    # --- what every owner asks ---------------------------------------------------------------------------------------

    @property
    def in_head(self) -> bool:
        """Whether the first bytes of a head are there and its end is not."""
        return self._phase == HEAD and bool(self._head)

    @property
    def in_body(self) -> bool:
        """Whether a head was accepted and its body is not complete."""
        return self._phase == BODY

    @property
    def dead(self) -> bool:
        """Whether it was stopped, or has raised; it will not call the sink any more."""
        return self._phase == DEAD

    @property
    def held(self) -> int:
        """How many bytes were fed and have not been looked at."""
        return len(self._data) - self._pos

    @property
    def ahead(self) -> bytes:
        """What was fed and has not been looked at; a head that has begun does not count."""
        return self._data[self._pos :]

    def stop(self) -> None:
        """Drops what is there and what will be fed; may be called from within the sink."""
        self._phase = DEAD
        self._data, self._pos = b"", 0
        self._head, self._watch, self._reader = bytearray(), None, NO_BODY

    def release(self) -> None:
        """Stops for good and forgets the sink, so that neither keeps the other alive."""
        self.stop()
        self._sink_data = self._sink_end = NOWHERE

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the stream and calls the sink with what they complete.

        Raises ``HttpError`` when they may not stand there. Then the receiver is dead; the sink has been told of all that
        came before the defect.
        """
        if self._phase == DEAD:
            return
        if self._pos < len(self._data):
            data = self._data[self._pos :] + data
        self._data, self._pos = data, 0
        if not self._busy:
            self._run()

    # --- the loop ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Works off what was fed. Each round reads the state afresh, since a sink's method may have changed it."""
        self._busy = True
        try:
            while (phase := self._phase) < PAUSE and (pos := self._pos) < len(data := self._data):
                if phase == BODY:
                    self._take_body(data, pos)
                elif not self._head and data[pos] != _CARRIAGE_RETURN and (end := data.find(END_OF_HEAD, pos)) >= 0:
                    self._pos = end = end + 4
                    self._open(data[pos:end])  # no copy where the head is all there is
                else:
                    self._gather(data, pos)
            if self._pos < len(self._data):
                self._keep()
            else:
                self._data, self._pos = b"", 0
        except HttpError as error:
            self.stop()
            raise self._blame(error) from None
        except BaseException:  # the sink's own failure: what it was told is no longer what was read
            self.stop()
            raise
        finally:
            self._busy = False

    def _gather(self, data: bytes, pos: int) -> None:
        """Adds to an unfinished head, and refuses it as soon as nothing can heal it."""
        head = self._head
        seen = max(len(head) - 3, 0)
        head += data[pos:]
        self._pos = len(data)
        if seen == 0:
            self._trim(head)
            if not head:
                return
        end = head.find(END_OF_HEAD, seen)
        if end < 0:
            if self._watch is None:
                self._watch = Watch(self._rules())
            self._watch.look(head)
            return
        end += 4
        self._pos -= len(head) - end
        block = bytes(head[:end])
        self._head, self._watch = bytearray(), None
        self._open(block)

    def _take_body(self, data: bytes, pos: int) -> None:
        reader = self._reader
        body, self._pos = reader.feed(data, pos)
        if body:
            self._sink_data(body)
            if self._phase != BODY:  # the sink has stopped it
                return
        if reader.defect is not None:
            raise HttpError(*reader.defect)
        if reader.done:
            self._close(reader.trailers)

    def _begin_body(self, framing: Framing, length: int) -> bool:
        """Chooses the reader; returns whether there is anything to read."""
        self._phase = BODY
        if framing is _LENGTH and length:
            self._reader = LengthReader(length)
        elif framing is _CHUNKED:
            self._reader = ChunkedReader(self._limits, self._parser)
        else:
            self._reader = NO_BODY
            return framing is _UNTIL_CLOSE
        return True

    def _close(self, trailers: list[Field]) -> None:
        self._phase = PAUSE
        self._reader = NO_BODY
        self._sink_end(trailers)

    # --- what differs by direction -----------------------------------------------------------------------------------

    @abstractmethod
    def _open(self, block: bytes) -> None:
        """Scans a head and begins its message."""

    @abstractmethod
    def _rules(self) -> WatchRules:
        """What an unfinished head is watched for."""

    @abstractmethod
    def _trim(self, head: bytearray) -> None:
        """Cuts off what may stand before a head."""

    @abstractmethod
    def _keep(self) -> None:
        """Called with bytes left over that no message awaits."""

    def _blame(self, error: HttpError) -> HttpError:
        """The error as it is about this direction."""
        return error


def _dropped(*_: object) -> None:
    """Takes what a receiver that was released cannot tell anybody."""


NOWHERE: Any = _dropped


class RequestReceiver(Receiver):
    """Receives requests, one at a time.

    After ``on_end`` what follows is held until :meth:`next`: at most what one ``feed`` brought, if its caller stops reading
    while ``held`` is not 0. ``secure`` says that the requests come by TLS. ``parser`` makes the body parsers.
    """

    __slots__ = ("_ended", "_memory", "_secure", "_sink_head", "_sink_whole", "_skipped")

    def __init__(
        self,
        sink: RequestSink | RequestTaker,
        limits: HttpLimits,
        parser: ParserFactory | None = None,
        *,
        secure: bool = False,
    ) -> None:
        super().__init__(sink, limits, parser or best_parser())
        self._sink_head = sink.on_request
        self._sink_whole: Callable[[RequestHead, bytes], None] | None = getattr(sink, "on_whole", None)
        self._secure = secure
        self._memory = RequestMemory(limits, secure=secure)
        self._ended = False  # nothing more will be fed
        self._skipped = False  # the one empty line before a request line
        self._phase = HEAD

    def release(self) -> None:
        """See above."""
        super().release()
        self._sink_head = self._sink_whole = NOWHERE

    @property
    def idle(self) -> bool:
        """Whether a request is awaited and nothing of it is there."""
        return self._phase == HEAD and not self._head and self._pos >= len(self._data)

    def surrender(self) -> bytes:
        """Stops for good, and hands out what was fed behind the request and never looked at."""
        held = self._data[self._pos :]
        self.release()
        return held

    def next(self) -> None:
        """Lets the next request come; may call the sink at once, and raises ``HttpError`` as :meth:`feed` does.

        Does nothing once the receiver is dead. ``RuntimeError`` before the request is complete.
        """
        if self._phase == DEAD:
            return
        if self._phase != PAUSE:
            raise RuntimeError("the request before is not complete")
        self._phase = HEAD
        if not self._busy and (self._ended or self._pos < len(self._data)):
            self._run()
            if self._ended:
                self.eof()

    def eof(self) -> None:
        """Nothing more will be fed. Raises ``HttpError`` if that cuts a request off: TRUNCATED_HEAD, TRUNCATED_BODY.

        With a request complete and others held behind it the verdict waits for :meth:`next`.
        """
        self._ended = True
        if self._phase == BODY:
            self.stop()
            raise HttpError(HttpCode.TRUNCATED_BODY, "the connection ended within a request's body")
        if self.in_head:
            self.stop()
            raise HttpError(HttpCode.TRUNCATED_HEAD, "the connection ended within a request's head")

    def _open(self, block: bytes) -> None:
        head = self._memory.scan(block)
        self._skipped = False
        framing = head.framing
        if self._sink_whole is not None and (framing is _NONE or framing is _LENGTH):
            data, start = self._data, self._pos
            end = start + head.length
            if end <= len(data):
                self._phase, self._pos = PAUSE, end
                self._sink_whole(head, data[start:end])
                return
        has_body = self._begin_body(framing, head.length)
        self._sink_head(head)
        if not has_body and self._phase == BODY:
            self._close([])

    def _rules(self) -> WatchRules:
        return request_rules(self._limits, secure=self._secure)

    def _keep(self) -> None:
        """It stays where it is until ``next``."""

    def _trim(self, head: bytearray) -> None:
        """RFC 9112 section 2.2: at least one empty line before a request line is to be ignored; we ignore one."""
        if not self._skipped and head.startswith(CRLF):
            self._skipped = True
            del head[:2]
