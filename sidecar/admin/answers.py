"""What can be asked, and the answers. Two tables: the administration socket's, and the few of the health listener."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias, TypeVar

from sidecar.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

T = TypeVar("T")
U = TypeVar("U")

#: Connections listed by one answer of /connections; more are left out, and the answer says so.
SHOWN_CONNECTIONS = 10_000

JSON = "application/json"

#: What stands before the name of a token source, and such a name.
_TOKENS: Final = b"/tokens/"
_NAME: Final = re.compile(rb"[a-z0-9-]{1,63}")


@dataclass(frozen=True, slots=True)
class GivenToken:
    """A token for whoever asked for it."""

    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class NoToken:
    """A source that gives tokens has none now; ``code`` is stable."""

    code: str


class Listing(NamedTuple):
    """Connections, and what else is to be said of them, by its key."""

    connections: Iterable[Mapping[str, object]]
    more: Mapping[str, object] = {}


class StatusSource(Protocol):
    """What the process knows about itself; what it has to ask others first is awaited. All of it is shown to operators: no value but `GivenToken` holds a secret."""

    def ready(self) -> str | None:
        """Why the process is not ready; None when it is."""

    def metrics(self) -> bytes | Awaitable[bytes]:
        """All metrics, as `Metrics.render` gives them."""

    def config(self) -> Mapping[str, object]:
        """The effective configuration, with secrets redacted, as JSON values."""

    def certs(self) -> Sequence[Mapping[str, object]]:
        """Our identities: SPIFFE ID, expiry, pin, key protection."""

    def connections(self) -> Iterable[Mapping[str, object]] | Awaitable[Listing]:
        """The live connections."""

    def tokens(self) -> Mapping[str, object] | Awaitable[Mapping[str, object]]:
        """The token sources, and the issuers whose tokens we check."""

    async def token(self, name: str) -> GivenToken | NoToken | None:
        """A fresh token of that source; None where there is none of that name that gives tokens to others."""

    def drain(self) -> None:
        """Begins to drain; returns at once, and does nothing the second time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: ``body`` is sent as ``content_type``. One holds a token, so no ``repr`` shows it."""

    status: int
    body: bytes = field(repr=False)
    content_type: str = JSON

    @classmethod
    def of(cls, content: Mapping[str, object], status: int = 200) -> Answer:
        """An answer in JSON, indented for whoever reads it with curl."""
        return cls(status, json.dumps(content, indent=2, default=str).encode("ascii") + b"\n")


@dataclass(frozen=True, slots=True)
class Later:
    """An answer that takes a while: ``make`` begins with it, and may be cancelled."""

    make: Callable[[], Awaitable[Answer]]


#: method -> what makes the answer
Methods: TypeAlias = Mapping[bytes, Callable[[], Answer | Later]]


@dataclass(frozen=True, slots=True)
class Routes:
    """What is where: ``fixed`` by path; ``token`` makes the methods of ``/tokens/NAME``, None where that is not served."""

    fixed: Mapping[bytes, Methods]
    token: Callable[[str], Methods] | None = None

    def methods(self, path: bytes) -> Methods | None:
        """What can be done with a path; None: there is nothing."""
        found = self.fixed.get(path)
        if found is None and self.token is not None and path.startswith(_TOKENS):
            name = path.removeprefix(_TOKENS)
            return self.token(name.decode("ascii")) if _NAME.fullmatch(name) else None
        return found


def health_routes(source: StatusSource) -> Routes:
    """What any process on the machine, or the cluster's kubelet, may know: it changes nothing."""
    return Routes(
        {
            b"/live": _reading(lambda: Answer.of({"live": True})),
            b"/ready": _reading(lambda: _ready(source)),
            b"/metrics": _reading(lambda: _made(source.metrics(), _metrics)),
        }
    )


def admin_routes(source: StatusSource) -> Routes:
    """Everything, for the operator."""
    return Routes(
        {
            **health_routes(source).fixed,
            b"/config": _reading(lambda: Answer.of(source.config())),
            b"/certs": _reading(lambda: Answer.of({"certs": source.certs()})),
            b"/connections": _reading(lambda: _made(source.connections(), _connections)),
            b"/tokens": _reading(lambda: _made(source.tokens(), Answer.of)),
            b"/drain": {b"POST": lambda: _drain(source)},
        },
        # By POST alone: whoever just looks around makes no token.
        token=lambda name: {b"POST": lambda: Later(partial(_token, source, name))},
    )


def answer(routes: Routes, method: bytes, path: bytes) -> tuple[Answer | Later, bytes]:
    """Returns the answer and, where the method was wrong, the value of ``Allow`` (RFC 9110 15.5.6)."""
    methods = routes.methods(path)
    if methods is None:
        return _not_found(), b""
    make = methods.get(method)
    if make is None:
        return Answer.of({"error": "method_not_allowed"}, 405), b", ".join(sorted(methods))
    return make(), b""


def _not_found() -> Answer:
    return Answer.of({"error": "not_found"}, 404)


def _reading(make: Callable[[], Answer | Later]) -> Methods:
    return {b"GET": make, b"HEAD": make}


def _ready(source: StatusSource) -> Answer:
    reason = source.ready()
    if reason is None:
        return Answer.of({"ready": True})
    return Answer.of({"ready": False, "reason": reason}, 503)


def _made(found: T | Awaitable[U], make: Callable[[T | U], Answer]) -> Answer | Later:
    """Makes an answer of what was asked for, at once where it is there."""
    if not isinstance(found, Awaitable):
        return make(found)

    async def later() -> Answer:
        return make(await found)

    return Later(later)


def _metrics(text: bytes) -> Answer:
    return Answer(200, text, Metrics.content_type())


def _connections(found: Iterable[Mapping[str, object]] | Listing) -> Answer:
    connections, more = found if isinstance(found, Listing) else (found, {})
    listed = list(islice(connections, SHOWN_CONNECTIONS + 1))
    shown = {"connections": listed[:SHOWN_CONNECTIONS], "truncated": len(listed) > SHOWN_CONNECTIONS}
    return Answer.of(shown | dict(more))


def _drain(source: StatusSource) -> Answer:
    source.drain()
    return Answer.of({"draining": True}, 202)


async def _token(source: StatusSource, name: str) -> Answer:
    found = await source.token(name)
    if found is None:
        return _not_found()
    if isinstance(found, NoToken):
        return Answer.of({"error": found.code}, 503)
    return Answer.of({"token": found.value})
