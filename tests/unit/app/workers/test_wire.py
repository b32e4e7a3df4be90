from __future__ import annotations

import json

import pytest

from sidecar.app.workers.wire import Refusal, WorkerCode, WorkerError
from sidecar.errors import ConfigurationError, LocalError
from sidecar.proxy.failure import ReloadCode


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError(ReloadCode.NEEDS_RESTART, "it cannot change", hint="restart"),
        WorkerError(WorkerCode.VERSION, "another version"),
    ],
)
def test_an_error_goes_over_the_channel(error: LocalError) -> None:
    there = Refusal.parse(json.loads(json.dumps(Refusal.of(error).content()))).error()
    assert (str(there.code), str(there), there.hint) == (str(error.code), str(error), error.hint)
    assert isinstance(there, ConfigurationError) == isinstance(error, ConfigurationError)


@pytest.mark.parametrize(
    "content", [None, [], {}, {"code": 1, "message": "", "hint": ""}, {"code": "x", "message": "x"}]
)
def test_what_is_no_refusal(content: object) -> None:
    with pytest.raises(ValueError, match="no refusal"):
        Refusal.parse(content)
