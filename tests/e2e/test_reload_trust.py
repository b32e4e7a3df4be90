"""Ensures that a changed trust bundle reaches open connections, and that an unchanged one does not disturb them.

A caller that was proven by the old bundle finishes what is in flight, is told ``connection: close``, and gets no further
request through; idle ones are closed at once. Afterwards the new bundle alone says who may connect.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from tests.support.bundles import JWT_KEY, bundle_json
from tests.support.ca import Ca
from tests.support.eventually import eventually
from tests.support.processes import Pending, ask, now, replace_file

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Site


@pytest.mark.threat(11)
def test_threat_11_a_changed_bundle_retires_connections(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    busy, idle = site.caller(tools.port()), site.caller(tools.port())
    assert ask(busy, "GET", "/1").status == ask(idle, "GET", "/1").status == 200
    pending = Pending(busy, "GET", "/hold")
    backend.await_held()
    successor = Ca(key="successor", now=now())
    replace_file(site.path("ca.crt"), successor.pem)
    replace_file(site.path("tools.crt"), site.identity("renewed", "/agent/tools/1", ca=successor).chain_pem)
    replace_file(site.path("tools.key"), site.path("renewed.key").read_bytes())
    tools.reload()
    assert idle.sock is not None
    assert idle.sock.recv(1) == b""
    backend.release()
    answer = pending.answer()
    assert (answer.status, answer.fields["connection"]) == (200, "close")
    eventually(lambda: tools.ask("/connections").json["connections"] == [], "both connections to be gone")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(site.caller(tools.port()), "GET", "/old")
    site.identity("planner", ca=successor)
    site.ca = successor
    assert ask(site.caller(tools.port()), "GET", "/new").status == 200
    assert [request.path for request in backend.requests] == ["/1", "/1", "/hold", "/new"]


def test_the_same_bundle_written_otherwise_disturbs_nobody(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    caller = site.caller(tools.port())
    assert ask(caller, "GET", "/1").status == 200
    before = caller.sock
    replace_file(site.path("ca.crt"), b"the authority of the tests\n" + site.ca.pem + site.ca.pem)
    tools.reload()
    assert ask(caller, "GET", "/2").status == 200
    assert caller.sock is before


@pytest.mark.threat(11)
def test_threat_11_a_changed_bundle_in_json_retires_connections(site: Site, backend: Backend) -> None:
    """The same authority in JSON disturbs nobody; another one does."""
    tools = site.tools(backend).start()
    caller = site.caller(tools.port())
    assert ask(caller, "GET", "/1").status == 200
    before = caller.sock
    replace_file(site.path("ca.crt"), bundle_json(JWT_KEY, site.ca.certificate, spiffe_sequence=7))
    tools.reload()
    assert ask(caller, "GET", "/2").status == 200
    assert caller.sock is before
    successor = Ca(key="successor", now=now())
    replace_file(site.path("ca.crt"), bundle_json(successor.certificate, spiffe_sequence=8))
    replace_file(site.path("tools.crt"), site.identity("renewed", "/agent/tools/1", ca=successor).chain_pem)
    replace_file(site.path("tools.key"), site.path("renewed.key").read_bytes())
    tools.reload()
    eventually(lambda: tools.ask("/connections").json["connections"] == [], "the connection to be gone")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(site.caller(tools.port()), "GET", "/old")
    assert [request.path for request in backend.requests] == ["/1", "/2"]


@pytest.mark.threat(2)
@pytest.mark.parametrize("content", [b'{"keys": []}', b'{"keys": [{}]}', b'{"keys"', b"{}"])
def test_threat_2_a_bundle_in_json_that_names_nobody_is_not_taken(site: Site, backend: Backend, content: bytes) -> None:
    replace_file(site.path("ca.crt"), bundle_json(site.ca.certificate))
    tools = site.tools(backend).start()
    replace_file(site.path("ca.crt"), content)
    tools.reload(result="failed")
    assert ask(site.caller(tools.port()), "GET", "/1").status == 200
    assert "ca.crt: " in tools.stderr[tools.stderr.rindex("reload refused") :]
    stranger = Ca(key="stranger", now=now())
    site.identity("planner", ca=stranger)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(site.caller(tools.port()), "GET", "/2")
    assert [request.path for request in backend.requests] == ["/1"]


def test_a_bundle_that_says_it_is_older_is_taken_and_told(site: Site, backend: Backend) -> None:
    replace_file(site.path("ca.crt"), bundle_json(site.ca.certificate, spiffe_sequence=7))
    tools = site.tools(backend).start()
    replace_file(site.path("ca.crt"), bundle_json(site.ca.certificate, spiffe_sequence=5))
    tools.reload()
    (line,) = (line for line in tools.stderr.splitlines() if "older" in line)
    assert "trust_domain=example.org" in line
    assert "before=7" in line
    assert "after=5" in line
