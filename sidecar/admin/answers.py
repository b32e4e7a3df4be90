"""What can be asked, and the answers. Two tables: the administration socket's, and the few of the health listener."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeAlias

from sidecar.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Connections listed by one answer of /connections; more are left out, and the answer says so.
SHOWN_CONNECTIONS = 10_000

JSON = "application/json"


class StatusSource(Protocol):
    """What the process knows about itself. No value may hold a secret: all of it is shown to operators."""

    def ready(self) -> str | None:
        """Why the process is not ready; None when it is."""

    def metrics(self) -> bytes:
        """All metrics, as `Metrics.render` gives them."""

    def config(self) -> Mapping[str, object]:
        """The effective configuration, with secrets redacted, as JSON values."""

    def certs(self) -> Sequence[Mapping[str, object]]:
        """Our identities: SPIFFE ID, expiry, pin, key protection."""

    def connections(self) -> Iterable[Mapping[str, object]]:
        """The live connections."""

    def drain(self) -> None:
        """Begins to drain; returns at once, and does nothing the second time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: ``body`` is sent as ``content_type``."""

    status: int
    body: bytes
    content_type: str = JSON

    @classmethod
    def of(cls, content: Mapping[str, object], status: int = 200) -> Answer:
        """An answer in JSON, indented for whoever reads it with curl."""
        return cls(status, json.dumps(content, indent=2, default=str).encode("ascii") + b"\n")


#: path -> method -> what makes the answer
Routes: TypeAlias = Mapping[bytes, Mapping[bytes, Callable[[], Answer]]]


def health_routes(source: StatusSource) -> Routes:
    """What any process on the machine, or the cluster's kubelet, may know: it changes nothing."""
    return {
        b"/live": _reading(lambda: Answer.of({"live": True})),
        b"/ready": _reading(lambda: _ready(source)),
        b"/metrics": _reading(lambda: Answer(200, source.metrics(), Metrics.content_type())),
    }


def admin_routes(source: StatusSource) -> Routes:
    """Everything, for the operator."""
    return {
        **health_routes(source),
        b"/config": _reading(lambda: Answer.of(source.config())),
        b"/certs": _reading(lambda: Answer.of({"certs": source.certs()})),
        b"/connections": _reading(lambda: _connections(source)),
        b"/drain": {b"POST": lambda: _drain(source)},
    }


def answer(routes: Routes, method: bytes, path: bytes) -> tuple[Answer, bytes]:
    """Returns the answer and, where the method was wrong, the value of ``Allow`` (RFC 9110 15.5.6)."""
    methods = routes.get(path)
    if methods is None:
        return Answer.of({"error": "not_found"}, 404), b""
    make = methods.get(method)
    if make is None:
        return Answer.of({"error": "method_not_allowed"}, 405), b", ".join(sorted(methods))
    return make(), b""


def _reading(make: Callable[[], Answer]) -> dict[bytes, Callable[[], Answer]]:
    return {b"GET": make, b"HEAD": make}


def _ready(source: StatusSource) -> Answer:
    reason = source.ready()
    if reason is None:
        return Answer.of({"ready": True})
    return Answer.of({"ready": False, "reason": reason}, 503)


def _connections(source: StatusSource) -> Answer:
    connections = source.connections()
    listed = list(islice(connections, SHOWN_CONNECTIONS + 1))
    return Answer.of(
        {"connections": listed[:SHOWN_CONNECTIONS], "truncated": len(listed) > SHOWN_CONNECTIONS},
    )


def _drain(source: StatusSource) -> Answer:
    source.drain()
    return Answer.of({"draining": True}, 202)
