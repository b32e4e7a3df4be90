from __future__ import annotations

import pytest

from sidecar import __version__
from sidecar.config.faults import ConfigCode
from sidecar.config.unserved import NOT_SERVED
from tests.support.configuration import Workspace, edit

#: row of the table -> (a file that asks for it, the key that is named)
CASES = {
    "inbound.forward https": (edit("http://127.0.0.1:8080", "https://127.0.0.1:1"), "inbound[0].forward"),
    "inbound.protocol": (edit("    forward:", "    protocol: tcp\n    forward:"), "inbound[0].protocol"),
}


def test_every_row_has_a_case() -> None:
    assert set(CASES) == set(NOT_SERVED)


@pytest.mark.parametrize("feature", NOT_SERVED)
def test_what_is_not_served_is_refused_by_name(workspace: Workspace, feature: str) -> None:
    text, key = CASES[feature]
    fault = workspace.fault(text)
    assert (fault.code, fault.key) == (ConfigCode.NOT_SERVED, key)
    assert fault.message == f"not served yet: {NOT_SERVED[feature]}"
    assert fault.hint == f"remove it; this is sidecar {__version__}, a later version may serve it"


def test_what_is_served_can_be_said(workspace: Workspace) -> None:
    assert workspace.load(edit("    hosts:", "    protocol: http\n    hosts:"))
