"""One request and its answer, as a call that blocks: `http.client` over a `Wire`, and nothing that it would add.

`http.client` follows no redirect, knows no cookies and reads no variable of the environment. Its errors quote what was
sent and received, so none of them leaves: `Exchange.run` *returns* how it failed, and whoever raises that has neither
the error in its context nor the form in a frame of its traceback.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import ssl
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sidecar.tls.web import web_context
from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.issuer import failures
from sidecar.tokens.issuer.answer import Answer
from sidecar.tokens.issuer.failures import Circumstances
from sidecar.tokens.issuer.wire import MAX_BODY, Stage, Wire

if TYPE_CHECKING:
    from sidecar.tls.contexts import BareContext, Credentials
    from sidecar.tokens.issuer.url import Endpoint

#: A media type without its parameters (RFC 6838 4.2).
_MEDIA_TYPE: Final = re.compile(r"\s*([A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127})\s*(?:;.*)?", re.DOTALL)
#: How a write fails when the other side has ended.
_CUT: Final = (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError)


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent. ``body`` None: a GET; else a POST. Fields and body may be secrets, and never appear in ``repr``.

    ``mutual``: our certificate is shown.
    """

    endpoint: Endpoint
    fields: dict[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)
    mutual: bool = False


class Contexts:
    """The TLS contexts of one client, each made when it is first needed, in the thread that needs it.

    ``authorities``: PEM of what is trusted, None for the system's roots.
    """

    def __init__(self, authorities: bytes | None, credentials: Credentials | None) -> None:
        self.authorities = authorities
        self.credentials = credentials
        self._made: dict[bool, BareContext] = {}
        self._lock = threading.Lock()

    def context(self, *, mutual: bool) -> BareContext:
        """Returns the one that shows our certificate, or the other. Raises as `web_context`."""
        with self._lock:
            if mutual not in self._made:
                self._made[mutual] = web_context(self.authorities, self.credentials if mutual else None)
            return self._made[mutual]


class Exchange:
    """One request on a connection of its own. ``step`` and ``deadline`` are as in `Wire`."""

    def __init__(self, request: Request, contexts: Contexts, step: float, deadline: float) -> None:
        self.where = Circumstances(request.endpoint, request.mutual, contexts.authorities is not None)
        self._request = request
        self._contexts = contexts
        self._wire = Wire(step, deadline)

    @property
    def stage(self) -> Stage:
        """What is under way; for any thread."""
        return self._wire.stage

    def stop(self) -> None:
        """Ends it; for any thread."""
        self._wire.stop()

    def run(self) -> Answer | SourceError:
        """Sends, waits, and returns the answer, or why there is none."""
        try:
            return self._run()
        except Exception as error:  # noqa: BLE001 - http.client raises of all kinds, and quotes; none of it may get out
            return self._unsigned() or failures.of(error, self._wire.stage, self.where)
        finally:
            self._wire.end()

    def _run(self) -> Answer:
        request = self._request
        context = self._contexts.context(mutual=request.mutual) if request.endpoint.secure else None
        self._take_failure()  # of another handshake in this thread
        self._wire.open(request.endpoint, context)
        connection = http.client.HTTPConnection(request.endpoint.host, request.endpoint.port)
        connection.auto_open = 0  # no connection but ours
        connection.sock = self._wire
        method = "GET" if request.body is None else "POST"
        with contextlib.suppress(*_CUT):  # it may have said why it takes no more: an alert, an early answer
            connection.request(method, request.endpoint.target, request.body, request.fields)
        self._wire.stage = Stage.WAIT
        with connection.getresponse() as response:
            self._wire.stage = Stage.READ
            return self._answer(response)

    def _answer(self, response: http.client.HTTPResponse) -> Answer:
        coding = response.getheader("Content-Encoding", "identity")
        if coding.strip().lower() not in {"", "identity"}:
            raise failures.bad_answer("is compressed, although we ask for it as it is", self.where)
        if not response.chunked and response.getheader("Transfer-Encoding") is not None:
            raise failures.bad_answer("has a transfer coding other than chunked", self.where)
        if response.length is not None and response.length > MAX_BODY:
            raise self._too_large()
        body = response.read(MAX_BODY + 1)
        if len(body) > MAX_BODY:
            raise self._too_large()
        if response.length:  # so much of it is missing; http.client says nothing when it is asked for a number of bytes
            raise failures.bad_answer("ends before its time", self.where)
        media_type = _MEDIA_TYPE.fullmatch(response.getheader("Content-Type", ""))
        return Answer(response.status, media_type[1].lower() if media_type else "", body)

    def _too_large(self) -> SourceError:
        return SourceError(SourceCode.TOO_LARGE, f"the answer of {self.where.issuer} is longer than {MAX_BODY} bytes")

    def _unsigned(self) -> SourceError | None:
        failure = self._take_failure()
        return None if failure is None else failures.unsigned(failure)

    def _take_failure(self) -> BaseException | None:
        credentials = self._contexts.credentials
        return credentials.key.take_failure() if self._request.mutual and credentials is not None else None
