"""Ensures that a certificate that expires while its connection lives lets nothing further through.

The caller's: answers say that the connection closes, a stream is cut, and whoever comes again is refused. Our own: the
process says that it is not ready any more.
"""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.processes import ask, now, replace_file

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Site

SECONDS = 3.0
LOST = (OSError, http.client.HTTPException)


@pytest.mark.threat(12, 53)
def test_threat_12_53_expired_certificates_are_worth_nothing(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    brief = site.ca.leaf("/agent/tools/1", now=now(), lifetime=SECONDS)
    replace_file(site.path("tools.crt"), brief.chain_pem)
    tools.reload()
    callers = site.ca.leaf("/agent/planner/1", now=now(), lifetime=SECONDS)
    replace_file(site.path("planner.crt"), callers.chain_pem)
    replace_file(site.path("planner.key"), callers.key_pem)
    end = max(callers.leaf.not_valid_after_utc.timestamp(), brief.leaf.not_valid_after_utc.timestamp())
    caller, reader = site.caller(tools.port()), site.caller(tools.port())
    reader.request("GET", "/events")
    events = reader.getresponse()
    eventually(lambda: backend.streams == 1, "a stream of events")
    backend.emit("one")
    assert events.readline() == b"data: one\n"
    first = ask(caller, "GET", "/valid")
    assert (first.status, first.fields["connection"]) == (200, None)
    assert tools.ready
    eventually(lambda: ask(caller, "GET", "/polled").fields["connection"] == "close", "the last tenth of its time")
    with pytest.raises(http.client.IncompleteRead):
        events.read()
    assert now() >= min(callers.leaf.not_valid_after_utc.timestamp(), brief.leaf.not_valid_after_utc.timestamp())
    (line,) = tools.await_log(event="request", error="certificate_expired")
    assert (line["http.path"], line["decision"]) == ("/events", "allow")
    assert tools.metric("limit_hits_total", limit="certificate_expired") == 1
    eventually(lambda: now() > end and not tools.ready, "not to be ready any more")
    assert tools.ask("/ready").json == {"ready": False, "reason": "identity_expired"}
    served = len(backend.requests)
    for connection in (caller, site.caller(tools.port())):
        with pytest.raises(LOST):
            ask(connection, "GET", "/late")
    (refused, *_) = tools.await_log(event="refused")
    assert refused["error"].endswith("certificate_expired"), "ours by the caller, or the caller's by us"
    assert len(backend.requests) == served
