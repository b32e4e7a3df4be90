"""What operators ask of a proxy with several workers: asked of each, answered for all."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from sidecar.admin.answers import GivenToken, Listing, NoToken
from sidecar.app.workers import sums
from sidecar.app.workers.wire import Ask, WorkerCode
from sidecar.config.effective import effective, policy_version
from sidecar.errors import SidecarError
from sidecar.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.app.workers.channel import Content
    from sidecar.app.workers.child import Child
    from sidecar.app.workers.parent import Parent

T = TypeVar("T")

#: How long an answer for all waits for one worker, in seconds: then it is given without, and names it.
SECONDS: Final = 2.0
#: A token may have to be fetched first. After a while another worker is asked too: the first one may hang.
_TOKEN_SECONDS: Final = 29.0
_TOKEN_PATIENCE: Final = 1.0


class Console:
    """A `sidecar.admin.answers.StatusSource`."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent

    # -- what the parent knows ----------------------------------------------------------------------------------------

    def ready(self) -> str | None:
        """Returns None when the proxy can serve, else a stable reason."""
        return self._parent.reason

    def config(self) -> dict[str, Any]:
        """Returns the effective configuration, of all workers together."""
        config = self._parent.loaded.config
        return effective(config) | {"policy_version": policy_version(config)}

    def certs(self) -> list[dict[str, Any]]:
        """Returns our own identity."""
        svid = self._parent.loaded.material.svid
        return [
            {
                "identity": str(svid.id),
                "serial": svid.serial,
                "not_before": svid.not_before,
                "not_after": svid.not_after,
                "pin": str(svid.pin),
                "key_protection": self._parent.protection,
            }
        ]

    def drain(self) -> None:
        """Begins the drain, as SIGTERM does."""
        self._parent.begin_drain()

    # -- what its workers know ----------------------------------------------------------------------------------------

    async def token(self, name: str) -> GivenToken | NoToken | None:
        """Returns what the first worker that answers has: one is asked, and the next one too where it takes long.

        Not all at once: each would fetch a token of its own.
        """
        answers: list[Content] = []

        async def ask(child: Child) -> None:
            with suppress(SidecarError):
                answers.append(await child.ask(Ask.TOKEN, {"name": name}, seconds=_TOKEN_SECONDS, patient=True))

        asking: set[asyncio.Task[None]] = set()
        left = list(self._parent.fleet.children)
        try:
            while not answers and (left or asking):
                if left:
                    asking.add(spawn(ask(left.pop(0)), name="worker-token"))
                patience = _TOKEN_PATIENCE if left else None
                _, asking = await asyncio.wait(asking, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in asking:
                task.cancel()
        answer = answers[0] if answers else {"error": WorkerCode.NONE.value}
        if "token" in answer:
            return GivenToken(str(answer["token"]))
        return NoToken(str(answer["error"])) if "error" in answer else None

    async def metrics(self) -> bytes:
        """Returns the sum of all workers' metrics and our own, as Prometheus text."""
        fleet = self._parent.fleet
        members = list(fleet.members.values())
        await asyncio.gather(*(fleet.ask(member, SECONDS, patient=True) for member in members))
        # Of one that does not answer, what it said last: a sum never goes back.
        parts = [member.metrics for member in members]
        found = sums.total([*parts, sums.dump(self._parent.metrics)], sums.dump(fleet.counted))
        return found.render()

    async def connections(self) -> Listing:
        """Returns the live downstream connections of all workers, each with the pid of its own."""
        answers, silent = await self._ask_all(Ask.CONNECTIONS, lambda answer: _objects(answer["connections"]))
        return Listing([each for listed in answers.values() for each in listed], _silent(silent))

    async def tokens(self) -> dict[str, Any]:
        """Returns the token sources and the issuers, with what each worker has of them; never a token."""
        answers, silent = await self._ask_all(Ask.TOKENS, _held)
        sources: dict[str, dict[str, Any]] = {}
        issuers: list[dict[str, Any]] = []
        for child, held in answers.items():
            for source in held.sources:
                known = sources.setdefault(source["name"], source | {"tokens": []})
                known["tokens"] += [{"worker": child.pid, **token} for token in source["tokens"]]
            issuers += [{"worker": child.pid, **issuer} for issuer in held.issuers]
        return {"tokens": list(sources.values()), "issuers": issuers, **_silent(silent)}

    async def _ask_all(self, kind: Ask, read: Callable[[Content], T]) -> tuple[dict[Child, T], list[Child]]:
        """Returns what each has answered, and who has not. One whose answer nobody understands is killed."""
        children = self._parent.fleet.children
        asking = (child.ask(kind, seconds=SECONDS, patient=True) for child in children)
        answers: dict[Child, T] = {}
        for child, answer in zip(children, await asyncio.gather(*asking, return_exceptions=True), strict=True):
            if isinstance(answer, BaseException):
                continue
            try:
                answers[child] = read(answer)
            except (KeyError, TypeError):
                child.end(f"answered what nobody understands ({kind})")
        return answers, [child for child in children if child not in answers]


class _Held(NamedTuple):
    """What one worker has of tokens and keys."""

    sources: list[Content]
    issuers: list[Content]


def _held(answer: Content) -> _Held:
    held = _Held(_objects(answer["tokens"]), _objects(answer["issuers"]))
    for source in held.sources:
        hash(source["name"])
        _objects(source["tokens"])
    return held


def _objects(listed: object) -> list[Content]:
    """Raises TypeError for what is no list of objects."""
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise TypeError("no list of objects")
    return listed


def _silent(children: Sequence[Child]) -> dict[str, list[int]]:
    """Names the workers that did not answer; nothing where all did."""
    return {"silent_workers": [child.pid for child in children]} if children else {}
