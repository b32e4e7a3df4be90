from __future__ import annotations

import pytest

from sidecar import __version__
from sidecar.config.faults import ConfigCode
from sidecar.config.unserved import NOT_SERVED
from tests.support.configuration import Workspace, edit

SECOND = """\
  - name: second
    listen: 127.0.0.1:14001
    connect: 127.0.0.1:1
    peer: spiffe://example.org/agent/x
admin:
"""

#: row of the table -> (a file that asks for it, the key that is named)
CASES = {
    "inbound.listen unix": (edit("127.0.0.1:8443", "unix:/run/x.sock"), "inbound[0].listen"),
    "inbound.forward tcp+unix": (edit("http://127.0.0.1:8080", "tcp+unix:/run/x"), "inbound[0].forward"),
    "inbound.forward http+unix": (edit("http://127.0.0.1:8080", "http+unix:/run/x"), "inbound[0].forward"),
    "inbound.forward https": (edit("http://127.0.0.1:8080", "https://127.0.0.1:1"), "inbound[0].forward"),
    "inbound.protocol": (edit("    forward:", "    protocol: tcp\n    forward:"), "inbound[0].protocol"),
    "inbound.uids": (edit("    forward:", "    uids: [1]\n    forward:"), "inbound[0].uids"),
    "outbound.listen unix": (edit("127.0.0.1:14001", "unix:/run/x.sock"), "outbound[0].listen"),
    "outbound.listen shared": (edit("admin:\n", SECOND), "outbound[1].listen"),
    "outbound.connect unix": (edit("tools.example.org:8443", "unix:/run/x.sock"), "outbound[0].connect"),
    "outbound.uids": (edit("    hosts:", "    uids: [1]\n    hosts:"), "outbound[0].uids"),
    "health.listen unix": (edit("127.0.0.1:14021", "unix:/run/x.sock"), "health.listen"),
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
