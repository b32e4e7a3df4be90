"""Ensures that a certificate that expires while its connection lives lets no further request through.

The caller's on its open connection: 403, and the log says why. Our own: the process says that it is not ready any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.processes import ask, now, replace_file

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Site

SECONDS = 3.0


@pytest.mark.threat(12, 53)
def test_threat_12_53_expired_certificates_are_worth_nothing(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    brief = site.ca.leaf("/agent/tools/1", now=now(), lifetime=SECONDS)
    replace_file(site.path("tools.crt"), brief.chain_pem)
    tools.reload()
    callers = site.ca.leaf("/agent/planner/1", now=now(), lifetime=SECONDS)
    replace_file(site.path("planner.crt"), callers.chain_pem)
    replace_file(site.path("planner.key"), callers.key_pem)
    caller = site.caller(tools.port())
    assert ask(caller, "GET", "/valid").status == 200
    assert tools.ready
    eventually(lambda: ask(caller, "GET", "/polled").status == 403, "the certificate to expire")
    assert caller.sock is None, "denied and closed: nothing on this connection could be allowed any more"
    end = max(callers.leaf.not_valid_after_utc.timestamp(), brief.leaf.not_valid_after_utc.timestamp())
    assert now() >= callers.leaf.not_valid_after_utc.timestamp()
    (line, *_) = tools.await_log(decision="deny")
    assert line["decision.reason"] == "certificate_expired"
    served = len(backend.requests)
    eventually(lambda: now() > end and not tools.ready, "not to be ready any more")
    assert tools.ask("/ready").json == {"ready": False, "reason": "identity_expired"}
    with pytest.raises(OSError):
        ask(caller, "GET", "/late")
    assert len(backend.requests) == served
