"""Ensures that the metrics are what Prometheus reads, and that every counter moves by what happened and no more.

One served request, one denied, one malformed, one refused handshake, one upstream that does not answer, one failed and one
good reload: the differences of two scrapes say exactly that.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.support.ca import Ca
from tests.support.processes import ask, free_port, inbound, now, replace_file

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Site


def test_counters_move_by_what_happened(site: Site, backend: Backend) -> None:
    tools = site.tools(backend)
    tools.config["inbound"].append(inbound("dead", free_port(), tools.config["inbound"][0]["allow"]))
    tools.start()
    site.identity("forged", "/agent/planner/1", ca=Ca(key="stranger", now=now()))
    before = tools.metrics()
    caller = site.caller(tools.port())
    assert ask(caller, "GET", "/served").status == 200
    assert ask(site.caller(tools.port(), "other"), "GET", "/denied").status == 403
    assert ask(site.caller(tools.port(entry=1)), "GET", "/dead").status == 502
    broken = site.caller(tools.port())
    broken.connect()
    broken.sock.sendall(b"GET /broken HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    assert broken.sock.recv(65536).startswith(b"HTTP/1.1 400 ")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(site.caller(tools.port(), "forged"), "GET", "/forged")
    with socket.create_connection(("127.0.0.1", tools.port())) as plain, suppress(ConnectionError):
        plain.sendall(b"GET /plain HTTP/1.1\r\nHost: a\r\n\r\n")
        while plain.recv(100):
            pass
    tools.await_log(2, event="refused")
    replace_file(site.path("ca.crt"), b"")
    tools.reload(result="failed")
    replace_file(site.path("ca.crt"), site.ca.pem)
    tools.reload()
    after = tools.metrics()
    moved: dict[tuple[str, ...], float] = {}
    for (name, labels), value in after.items():
        change = value - before.get((name, labels), 0)
        if change and name.endswith(("_total", "_count")):
            moved[name.removeprefix("sidecar_"), *(text for _, text in sorted(labels))] = change
    served = ("requests_total", "allow", "inbound", "tools", "2xx")
    # labels in the order of their names: decision, direction, listener, status_class
    assert moved.pop(served) == 1
    assert moved.pop(("requests_total", "deny", "inbound", "tools", "4xx")) == 2
    assert moved.pop(("requests_total", "allow", "inbound", "dead", "5xx")) == 1
    assert moved.pop(("denied_total", "caller_not_named")) == 1
    assert moved.pop(("refused_total", "authority_unknown")) == 1
    assert moved.pop(("refused_total", "http_on_tls")) == 1
    assert moved.pop(("handshakes_total", "ok", "false", "server")) == 4
    assert moved.pop(("reloads_total", "failed")) == moved.pop(("reloads_total", "ok")) == 1
    assert moved.pop(("request_duration_seconds_count", "inbound", "tools")) >= 2
    assert not [key for key in moved if key[0] == "requests_total"]
    assert not [key for key in moved if key[0] in {"log_dropped_total", "internal_errors_total"}]


def test_gauges_say_what_is(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    expiry = site.identity("tools").leaf.not_valid_after_utc.timestamp()
    assert tools.metric("connections", direction="inbound") == 0
    caller = site.caller(tools.port())
    assert ask(caller, "GET", "/x").status == 200
    assert tools.metric("connections", direction="inbound") == 1
    tools.reload()
    assert tools.metric("certificate_expiry_timestamp_seconds") == expiry
    version = tools.ask("/config").json["policy_version"]
    assert tools.metric("policy_info", version=version) == 1
    assert tools.metric("policy_info") == 1, "only the policy in force is named"


@pytest.mark.threat(44)
def test_threat_44_nothing_from_the_wire_becomes_a_label(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    caller = site.caller(tools.port())
    assert ask(caller, "BREW", "/wire-path?wire-query=1", headers={"X-Wire": "wire-value"}).status == 200
    assert ask(site.caller(tools.port(), "wire-name"), "GET", "/wire-path").status == 403
    text = tools.ask("/metrics").body
    assert b"wire" not in text
    assert b"BREW" not in text
