"""Cuts a stream into responses: the client's side of what `sidecar.http.receiver` says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sidecar.http.errors import HttpCode, HttpError, ResponseError
from sidecar.http.messages import Framing
from sidecar.http.parsers import best_parser
from sidecar.http.receiver import BODY, DEAD, HEAD, NO_BODY, NOWHERE, PAUSE, Receiver, Sink
from sidecar.http.repeat import ResponseMemory
from sidecar.http.scanner import response_rules
from sidecar.http.websocket import SWITCHING, check_agreed

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.http.limits import HttpLimits
    from sidecar.http.messages import Field, ResponseHead
    from sidecar.http.parsers import ParserFactory
    from sidecar.http.watch import WatchRules

_NONE, _LENGTH = Framing.NONE, Framing.LENGTH


class ResponseSink(Sink, Protocol):
    """Whoever takes responses."""

    def on_informational(self, head: ResponseHead) -> None:
        """An interim response (1xx, never 101); the final one is still to come."""

    def on_response(self, head: ResponseHead) -> None:
        """The final response's head was accepted; its body, if any, follows."""

    def on_end(self, trailers: list[Field]) -> None:
        """The response is complete. Only if ``receiver.reusable`` says so may the connection serve another request."""


class ResponseTaker(ResponseSink, Protocol):
    """A sink that is told of a response which arrived in one piece by one call."""

    def on_whole(self, head: ResponseHead, body: bytes) -> None:
        """What ``on_response``, ``on_data`` unless the body is empty, and ``on_end`` without trailers would say."""

    def on_upgrade(self, head: ResponseHead, behind: bytes) -> None:
        """The other side agrees to the WebSocket that was asked for: HTTP is over, and the receiver dead.

        ``behind`` are the bytes behind the head that were fed with it.
        """


class ResponseReceiver(Receiver):
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
        self._sink_upgrade: Callable[[ResponseHead, bytes], None] = getattr(sink, "on_upgrade", NOWHERE)
        self._memory = ResponseMemory(limits)
        self._method = b""
        self._key: bytes | None = None
        self._keep_alive = True
        self._informational = 0

    def release(self) -> None:
        """See above."""
        super().release()
        self._sink_head = self._sink_informational = self._sink_whole = self._sink_upgrade = NOWHERE

    @property
    def reusable(self) -> bool:
        """Whether nothing that was received forbids another request on this connection.

        The last response is complete, it did not end with the connection or ask to, and not one byte came after it.
        """
        return self._phase == PAUSE and self._keep_alive and self._pos >= len(self._data)

    def expect(self, method: bytes, key: bytes | None = None) -> None:
        """Awaits the response to a request of that method; before its first byte is sent.

        ``key`` is that of a request for a WebSocket, to which the answer may be 101.

        ``RuntimeError`` if one is awaited already, or the receiver is dead.
        """
        if self._phase != PAUSE:
            raise RuntimeError("a response is awaited already, or none can come any more")
        self._phase = HEAD
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
        if phase == BODY and clean and reader is NO_BODY:
            self._close([])
        elif phase == BODY:
            self.stop()
            raise ResponseError(HttpCode.TRUNCATED_BODY, "the connection ended within a response's body")
        elif phase == HEAD:
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
                self._phase, self._pos = PAUSE, end
                self._sink_whole(head, data[start:end])
                if end < len(data) and self._phase != DEAD:
                    raise _unsolicited()
                return
        has_body = self._begin_body(framing, head.length)
        self._sink_head(head)
        if not has_body and self._phase == BODY:
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
        if surplus and self._phase != DEAD:
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
