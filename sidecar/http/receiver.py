"""Cuts a stream into messages and tells a sink about them, synchronously, as the bytes arrive.

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
from sidecar.http.errors import HttpCode, HttpError, ResponseError
from sidecar.http.grammar import CRLF, END_OF_HEAD
from sidecar.http.messages import Field, Framing, RequestHead, ResponseHead
from sidecar.http.parsers import ParserFactory, best_parser
from sidecar.http.repeat import RequestMemory, ResponseMemory
from sidecar.http.scanner import request_rules, response_rules
from sidecar.http.watch import Watch, WatchRules
from sidecar.http.websocket import SWITCHING, check_agreed

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.http.limits import HttpLimits


class RequestSink(Protocol):
    """Whoever takes requests."""

    def on_request(self, head: RequestHead) -> None:
        """A request was accepted; its body, if any, follows."""

    def on_data(self, data: bytes) -> None:
        """Bytes of the body, as they arrive; never empty."""

    def on_end(self, trailers: list[Field]) -> None:
        """The request is complete. Nothing more comes until ``next`` is called, which may be done here."""


class ResponseSink(Protocol):
    """Whoever takes responses."""

    def on_informational(self, head: ResponseHead) -> None:
        """An interim response (1xx, never 101); the final one is still to come."""

    def on_response(self, head: ResponseHead) -> None:
        """The final response's head was accepted; its body, if any, follows."""

    def on_data(self, data: bytes) -> None:
        """Bytes of the body, as they arrive; never empty."""

    def on_end(self, trailers: list[Field]) -> None:
        """The response is complete. Only if ``receiver.reusable`` says so may the connection serve another request."""


# The phases, in this order; plain numbers, since they are compared several times for each message.
_HEAD: Final = 0
_BODY: Final = 1
_PAUSE: Final = 2
_DEAD: Final = 3

_NONE, _LENGTH, _CHUNKED, _UNTIL_CLOSE = Framing.NONE, Framing.LENGTH, Framing.CHUNKED, Framing.CLOSE
_CARRIAGE_RETURN = 0x0D
_NO_BODY: BodyReader = CloseReader()


class RequestTaker(RequestSink, Protocol):
    """A sink that is told of a request which arrived in one piece by one call."""

    def on_whole(self, head: RequestHead, body: bytes) -> None:
        """What ``on_request``, ``on_data`` unless the body is empty, and ``on_end`` without trailers would say."""


class ResponseTaker(ResponseSink, Protocol):
    """A sink that is told of a response which arrived in one piece by one call."""

    def on_whole(self, head: ResponseHead, body: bytes) -> None:
        """What ``on_response``, ``on_data`` unless the body is empty, and ``on_end`` without trailers would say."""

    def on_upgrade(self, head: ResponseHead, behind: bytes) -> None:
        """The other side agrees to the WebSocket that was asked for: HTTP is over, and the receiver dead.

        ``behind`` are the bytes behind the head that were fed with it.
        """


class _Receiver(ABC):
    """What both directions share: the loop, the gathering of a head, the body."""

    __slots__ = (
        "_busy", "_data", "_head", "_limits", "_parser", "_phase", "_pos", "_reader", "_sink_data", "_sink_end", "_watch",
    )  # fmt: skip

    def __init__(self, sink: RequestSink | ResponseSink, limits: HttpLimits, parser: ParserFactory) -> None:
        self._limits = limits
        self._parser = parser
        self._sink_data = sink.on_data
        self._sink_end = sink.on_end
        self._phase = _PAUSE
        self._busy = False  # the loop runs, further up the stack
        self._data = b""  # what was fed; all before _pos is done with
        self._pos = 0
        self._head = bytearray()  # an unfinished head
        self._watch: Watch | None = None
        self._reader = _NO_BODY

    # --- what every owner asks ---------------------------------------------------------------------------------------

    @property
    def in_head(self) -> bool:
        """Whether the first bytes of a head are there and its end is not."""
        return self._phase == _HEAD and bool(self._head)

    @property
    def in_body(self) -> bool:
        """Whether a head was accepted and its body is not complete."""
        return self._phase == _BODY

    @property
    def dead(self) -> bool:
        """Whether it was stopped, or has raised; it will not call the sink any more."""
        return self._phase == _DEAD

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
        self._phase = _DEAD
        self._data, self._pos = b"", 0
        self._head, self._watch, self._reader = bytearray(), None, _NO_BODY

    def release(self) -> None:
        """Stops for good and forgets the sink, so that neither keeps the other alive."""
        self.stop()
        self._sink_data = self._sink_end = _nowhere

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the stream and calls the sink with what they complete.

        Raises ``HttpError`` when they may not stand there. Then the receiver is dead; the sink has been told of all that
        came before the defect.
        """
        if self._phase == _DEAD:
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
            while (phase := self._phase) < _PAUSE and (pos := self._pos) < len(data := self._data):
                if phase == _BODY:
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
            if self._phase != _BODY:  # the sink has stopped it
                return
        if reader.defect is not None:
            raise HttpError(*reader.defect)
        if reader.done:
            self._close(reader.trailers)

    def _begin_body(self, framing: Framing, length: int) -> bool:
        """Chooses the reader; returns whether there is anything to read."""
        self._phase = _BODY
        if framing is _LENGTH and length:
            self._reader = LengthReader(length)
        elif framing is _CHUNKED:
            self._reader = ChunkedReader(self._limits, self._parser)
        else:
            self._reader = _NO_BODY
            return framing is _UNTIL_CLOSE
        return True

    def _close(self, trailers: list[Field]) -> None:
        self._phase = _PAUSE
        self._reader = _NO_BODY
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


_nowhere: Any = _dropped


class RequestReceiver(_Receiver):
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
        self._phase = _HEAD

    def release(self) -> None:
        """See above."""
        super().release()
        self._sink_head = self._sink_whole = _nowhere

    @property
    def idle(self) -> bool:
        """Whether a request is awaited and nothing of it is there."""
        return self._phase == _HEAD and not self._head and self._pos >= len(self._data)

    def surrender(self) -> bytes:
        """Stops for good, and hands out what was fed behind the request and never looked at."""
        held = self._data[self._pos :]
        self.release()
        return held

    def next(self) -> None:
        """Lets the next request come; may call the sink at once, and raises ``HttpError`` as :meth:`feed` does.

        Does nothing once the receiver is dead. ``RuntimeError`` before the request is complete.
        """
        if self._phase == _DEAD:
            return
        if self._phase != _PAUSE:
            raise RuntimeError("the request before is not complete")
        self._phase = _HEAD
        if not self._busy and (self._ended or self._pos < len(self._data)):
            self._run()
            if self._ended:
                self.eof()

    def eof(self) -> None:
        """Nothing more will be fed. Raises ``HttpError`` if that cuts a request off: TRUNCATED_HEAD, TRUNCATED_BODY.

        With a request complete and others held behind it the verdict waits for :meth:`next`.
        """
        self._ended = True
        if self._phase == _BODY:
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
                self._phase, self._pos = _PAUSE, end
                self._sink_whole(head, data[start:end])
                return
        has_body = self._begin_body(framing, head.length)
        self._sink_head(head)
        if not has_body and self._phase == _BODY:
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


class ResponseReceiver(_Receiver):
    """Receives responses, one for each call of :meth:`expect`; every ``HttpError`` is a ``ResponseError`` (502)."""

    __slots__ = (
        "_informational", "_keep_alive", "_key", "_memory", "_method", "_sink_head", "_sink_informational",
        "_sink_upgrade", "_sink_whole",
    )  # fmt: skip

    def __init__(
        self, sink: ResponseSink | ResponseTaker, limits: HttpLimits, parser: ParserFactory | None = None
    ) -> None:
        super().__init__(sink, limits, parser or best_parser())
        self._sink_head = sink.on_response
        self._sink_whole: Callable[[ResponseHead, bytes], None] | None = getattr(sink, "on_whole", None)
        self._sink_informational = sink.on_informational
        self._sink_upgrade: Callable[[ResponseHead, bytes], None] = getattr(sink, "on_upgrade", _nowhere)
        self._memory = ResponseMemory(limits)
        self._method = b""
        self._key: bytes | None = None
        self._keep_alive = True
        self._informational = 0

    def release(self) -> None:
        """See above."""
        super().release()
        self._sink_head = self._sink_informational = self._sink_whole = self._sink_upgrade = _nowhere

    @property
    def reusable(self) -> bool:
        """Whether nothing that was received forbids another request on this connection.

        The last response is complete, it did not end with the connection or ask to, and not one byte came after it.
        """
        return self._phase == _PAUSE and self._keep_alive and self._pos >= len(self._data)

    def expect(self, method: bytes, key: bytes | None = None) -> None:
        """Awaits the response to a request of that method; before its first byte is sent.

        ``key`` is that of a request for a WebSocket, to which the answer may be 101.

        ``RuntimeError`` if one is awaited already, or the receiver is dead.
        """
        if self._phase != _PAUSE:
            raise RuntimeError("a response is awaited already, or none can come any more")
        self._phase = _HEAD
        self._method = method
        self._key = key
        self._informational = 0

    def eof(self, *, clean: bool = True) -> None:
        """Nothing more will be fed; ``clean`` says that the peer ended it on purpose (with TLS: by close_notify).

        A body delimited by the end of the connection is complete by a clean one. Else raises ``ResponseError``:
        NO_RESPONSE (not one byte of the response came), TRUNCATED_HEAD, TRUNCATED_BODY.
        """
        phase, in_head, reader = self._phase, self.in_head, self._reader
        self._keep_alive = False
        if phase == _BODY and clean and reader is _NO_BODY:
            self._close([])
        elif phase == _BODY:
            self.stop()
            raise ResponseError(HttpCode.TRUNCATED_BODY, "the connection ended within a response's body")
        elif phase == _HEAD:
            self.stop()
            if in_head:
                raise ResponseError(HttpCode.TRUNCATED_HEAD, "the connection ended within a response's head")
            raise ResponseError(HttpCode.NO_RESPONSE, "the connection ended before a response came")

    def _open(self, block: bytes) -> None:
        head = self._memory.scan(block, self._method)
        status = head.status
        if status == SWITCHING and self._key is not None:
            self._switch(head, self._key)
            return
        # Nobody asked for another protocol: whatever comes behind these is nobody's.
        if status == SWITCHING or (self._method == b"CONNECT" and 200 <= status < 300):
            raise ResponseError(HttpCode.UNSOLICITED_UPGRADE, f"status {status} ends HTTP on this connection")
        if status < 200:
            self._informational += 1
            if self._informational > self._limits.informational:
                raise ResponseError(HttpCode.TOO_MANY_INFORMATIONAL, "too many interim responses")
            self._sink_informational(head)
            return
        self._keep_alive = head.keep_alive
        framing = head.framing
        if self._sink_whole is not None and (framing is _NONE or framing is _LENGTH):
            data, start = self._data, self._pos
            end = start if framing is _NONE else start + head.length  # a length may be announced without a body
            if end <= len(data):
                self._phase, self._pos = _PAUSE, end
                self._sink_whole(head, data[start:end])
                if end < len(data) and self._phase != _DEAD:
                    raise _unsolicited()
                return
        has_body = self._begin_body(framing, head.length)
        self._sink_head(head)
        if not has_body and self._phase == _BODY:
            self._close([])

    def _switch(self, head: ResponseHead, key: bytes) -> None:
        check_agreed(head, key)
        tell, behind = self._sink_upgrade, self._data[self._pos :]
        self.release()
        tell(head, behind)

    def _close(self, trailers: list[Field]) -> None:
        """Ends the response. What lies behind it is judged by the bytes fed with it, whatever the sink awaits by now."""
        surplus = self._pos < len(self._data)
        super()._close(trailers)
        if surplus and self._phase != _DEAD:
            raise _unsolicited()

    def _rules(self) -> WatchRules:
        return response_rules(self._limits)

    def _trim(self, head: bytearray) -> None:
        """Nothing may stand before a status line."""

    def _keep(self) -> None:
        raise _unsolicited()

    def _blame(self, error: HttpError) -> HttpError:
        return error if isinstance(error, ResponseError) else ResponseError(error.code, str(error))


def _unsolicited() -> ResponseError:
    return ResponseError(HttpCode.UNSOLICITED_BYTES, "bytes behind a response, or where none was awaited")
