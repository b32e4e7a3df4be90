"""The one way to issuers, for tokens, metadata, key sets and revocation: requests that never hold up the event loop.

Each request has a connection of its own in one of a few daemon threads. It is made at most once, follows nothing, and
ends, whatever the issuer does, within twice the time limit of one step.
"""

from __future__ import annotations

import asyncio
import re
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from sidecar.threads import Job
from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.issuer import failures
from sidecar.tokens.issuer.answer import Answer
from sidecar.tokens.issuer.exchange import Contexts, Exchange, Request
from sidecar.tokens.issuer.url import endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sidecar.threads import Workers
    from sidecar.tls.contexts import Credentials
    from sidecar.tokens.issuer.url import Endpoint
    from sidecar.tokens.settings import Reach

__all__ = ["Answer", "IssuerClient"]

#: The whole exchange has this many times the limit of one step.
STEPS: Final = 2
#: RFC 9110 5.1 and 5.5, without what is obsolete there: visible ASCII, and blanks within.
_FIELD_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_FIELD_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_FRAMING: Final = frozenset({"content-length", "transfer-encoding", "te", "trailer", "upgrade", "expect", "cookie"})
_FORM: Final = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
_NO_FIELDS: Final[Mapping[str, str]] = MappingProxyType({})


class IssuerClient:
    """A client for one way to reach an issuer; it keeps TLS contexts, and no connection.

    ``files`` holds the contents of ``reach.ca``. ``credentials`` are shown where ``mutual`` is said, and nowhere else.
    """

    def __init__(
        self, reach: Reach, files: Mapping[Path, bytes], workers: Workers, credentials: Credentials | None = None
    ) -> None:
        self._reach = reach
        self._workers = workers
        self._contexts = Contexts(None if reach.ca is None else files[reach.ca], credentials)

    async def get(self, url: str, *, accept: str = "application/json") -> Answer:
        """Asks for what is at a URL, and returns whatever answer comes, of any status.

        Raises SourceError: METADATA for a URL that may not be used, UNREACHABLE, TIMEOUT, TLS, BAD_ANSWER, TOO_LARGE (over
        256 KiB), and BUSY where it was not even begun.
        """
        where = endpoint(url, plaintext=self._reach.unsafe_plaintext)
        return await self._exchange(Request(where, _fields(where, {"Accept": accept})))

    async def post(
        self,
        url: str,
        form: Sequence[tuple[str, str]],
        *,
        mutual: bool = False,
        headers: Mapping[str, str] = _NO_FIELDS,
    ) -> Answer:
        """Sends a form (RFC 6749 B) with these ``headers`` beside our own, and returns whatever answer comes.

        ``mutual``: our certificate is shown to whoever asks for it, over TLS 1.3. Raises as `get`; also SIGNING where our
        own key fails, and BAD_TOKEN for a value that cannot be sent.
        """
        where = endpoint(url, plaintext=self._reach.unsafe_plaintext)
        if mutual and not where.secure:
            raise SourceError(
                SourceCode.METADATA, f"our certificate is to be shown to {where}, but not over TLS", hint="use https"
            )
        if mutual and self._contexts.credentials is None:
            raise SourceError(SourceCode.SIGNING, f"there is no certificate of ours to show to {where}")
        fields = _fields(where, _FORM, headers)
        return await self._exchange(Request(where, fields, _encoded(form), mutual))

    async def _exchange(self, request: Request) -> Answer:
        seconds = STEPS * self._reach.timeout
        exchange = Exchange(request, self._contexts, self._reach.timeout, time.monotonic() + seconds)
        ended: asyncio.Future[Answer | BaseException] = asyncio.get_running_loop().create_future()
        job = Job(exchange.run, ended.set_result)
        if not self._workers.submit(job):
            raise _busy(request, "too many requests to issuers wait already")
        try:
            await asyncio.wait([ended], timeout=seconds)
        finally:
            # Also where we are cancelled: the thread is woken, and finds that it has nothing more to do.
            job.give_up()
            exchange.stop()
        if not ended.done():
            if job.started is None:
                raise _busy(request, "no thread was free for it in time")
            raise failures.late(exchange.stage, exchange.where)
        outcome = ended.result()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def _fields(where: Endpoint, ours: Mapping[str, str], given: Mapping[str, str] = _NO_FIELDS) -> dict[str, str]:
    """Returns all fields of a request. Raises SourceError (BAD_TOKEN) for what is no field, or one that is ours to set."""
    fields = {
        "Host": where.host_field,
        "Accept-Encoding": "identity",
        "User-Agent": "sidecar",
        "Connection": "close",
        **ours,
    }
    taken = {name.lower() for name in fields} | _FRAMING
    for name, value in given.items():
        if _FIELD_NAME.fullmatch(name) is None or name.lower() in taken:
            raise SourceError(
                SourceCode.BAD_TOKEN, f"a field of the request to {where} has a name that it may not have"
            )
        fields[name] = value
    if any(_FIELD_VALUE.fullmatch(value) is None for value in fields.values()):
        raise SourceError(
            SourceCode.BAD_TOKEN,
            f"a field of the request to {where} has a value that is not one line of visible ASCII",
            hint="look for line breaks and other letters than ASCII's in what is sent to this issuer",
        )
    return fields


def _encoded(form: Sequence[tuple[str, str]]) -> bytes:
    try:
        body = urlencode(form).encode("ascii")
    except UnicodeEncodeError:  # bytes of the environment that were no UTF-8; it holds the value, and stays here
        body = None
    if body is None:
        raise SourceError(SourceCode.BAD_TOKEN, "a value of the form for an issuer is no text (UTF-8)")
    return body


def _busy(request: Request, what: str) -> SourceError:
    return SourceError(
        SourceCode.BUSY,
        f"the issuer at {request.endpoint} was not asked: {what}",
        hint="an issuer that hangs holds the threads: see what the others wait for",
    )
