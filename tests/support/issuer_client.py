"""A client of issuers with threads of its own, and what its failures may never hold."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidecar.threads import Workers
from sidecar.tokens.codes import SourceError
from sidecar.tokens.issuer.client import IssuerClient
from sidecar.tokens.settings import Reach
from tests.support.web import AUTHORITY, OURS

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from sidecar.tokens.issuer.answer import Answer

CA_FILE = Path("/etc/idp/ca.pem")
SECRET = "hush-hush"
FORM = [("grant_type", "client_credentials"), ("client_secret", SECRET), ("scope", "a b&c=d ü")]


class Rig:
    """A client with threads of its own."""

    def __init__(self, *, threads: int = 2, waiting: int = 4, step: float = 10, plaintext: bool = False) -> None:
        self.workers = Workers("test", threads, waiting)
        reach = Reach(CA_FILE, step, plaintext)
        self.client = IssuerClient(reach, {CA_FILE: AUTHORITY.pem}, self.workers, OURS)

    @property
    def idle(self) -> bool:
        """No thread of it is at anything."""
        return not self.workers._running and not self.workers.waiting


async def failure(call: Coroutine[object, object, Answer]) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await call
    told = "".join(traceback.format_exception(caught.value)) + caught.value.hint + repr(caught.value)
    assert SECRET not in told
    assert "tenant" not in told
    seen: BaseException | None = caught.value
    while seen is not None:  # not even where nothing prints it
        assert SECRET not in repr(seen) + repr(vars(seen))
        seen = seen.__cause__ or seen.__context__
    return caught.value
