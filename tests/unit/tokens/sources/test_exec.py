from __future__ import annotations

import base64
import json
import os
import sys
from typing import TYPE_CHECKING

import pytest

from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.settings import ExecSource, Keeping
from sidecar.tokens.sources.exec import Exec
from tests.support.clock import Shifted
from tests.support.token_sources import lasting
from tests.support.tokens import means

if TYPE_CHECKING:
    from sidecar.tokens.token import Token


async def fetch(program: str, *arguments: str, clock: Shifted | None = None, timeout: float = 20) -> Token:  # noqa: ASYNC109 - a setting
    settings = ExecSource("x", (sys.executable, "-c", program, *arguments), timeout, Keeping())
    return await Exec(settings, means(clock=(clock or Shifted()).clock)).fetch()


async def test_our_environment_and_what_plugins_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_OURS", "abc")
    monkeypatch.setenv("KUBERNETES_EXEC_INFO", "of somebody else")
    shown = "import base64, json, os; print(base64.urlsafe_b64encode(json.dumps(dict(os.environ)).encode()).decode().rstrip('='))"
    value = (await fetch(shown)).value
    environ = json.loads(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)))
    assert json.loads(environ.pop("KUBERNETES_EXEC_INFO"))["kind"] == "ExecCredential"
    ours = dict(os.environ)
    del ours["KUBERNETES_EXEC_INFO"]
    assert ours.items() <= environ.items()
    assert os.environ["KUBERNETES_EXEC_INFO"] == "of somebody else"


async def test_the_earlier_of_both_ends_counts() -> None:
    status = {"token": lasting(200), "expirationTimestamp": "2200-01-01T00:00:00Z"}
    text = json.dumps({"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1", "status": status})
    token = await fetch("import sys; print(sys.argv[1])", text)
    assert token.lifetime is not None
    assert token.lifetime <= 200
    assert not token.bound
    past = text.replace("2200", "2000")
    with pytest.raises(SourceError) as caught:
        await fetch("import sys; print(sys.argv[1])", past)
    assert caught.value.code is SourceCode.EXPIRED


async def test_a_bare_jwt_says_when_it_ends() -> None:
    clock = Shifted()
    token = await fetch("import sys; print(sys.argv[1])", lasting(200), clock=clock)
    assert token.lifetime is not None
    assert 100 < token.lifetime <= 200
    clock.wall = 201
    with pytest.raises(SourceError) as caught:
        await fetch("import sys; print(sys.argv[1])", lasting(200), clock=clock)
    assert caught.value.code is SourceCode.EXPIRED
    assert "cache" in caught.value.hint


async def test_the_time_limit_is_that_of_the_settings() -> None:
    with pytest.raises(SourceError, match=r"0\.3 s") as caught:
        await fetch("import time; time.sleep(60)", timeout=0.3)
    assert caught.value.code is SourceCode.COMMAND_TIMEOUT
