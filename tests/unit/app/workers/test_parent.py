from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.app.workers.parent import Parent


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({}, None),
        ({"fleet": "identity_expired"}, "identity_expired"),
        ({"keeper": "signer_unavailable"}, "signer_unavailable"),
        ({"keeper": "signer_unavailable", "started": False}, "starting"),
        ({"keeper": "signer_unavailable", "draining": True}, "draining"),
    ],
)
def test_it_is_ready_when_its_workers_and_its_signer_process_are(state: dict[str, Any], reason: str | None) -> None:
    parent: Any = SimpleNamespace(
        draining=state.get("draining", False),
        _started=state.get("started", True),
        keeper=SimpleNamespace(trouble=state.get("keeper")),
        fleet=SimpleNamespace(reason=state.get("fleet")),
    )
    assert Parent.reason.fget(parent) == reason  # type: ignore[attr-defined] - the property of a parent in that state
