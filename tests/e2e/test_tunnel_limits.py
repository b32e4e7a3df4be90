"""Ensures that no tunnel lives for ever: one that is silent, and one that has lived for long enough, is cut and counted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.support.raw import agent, pair, planner, server, talks, tools, was_reset

if TYPE_CHECKING:
    import socket

    from tests.support.processes import Site


def test_a_silent_tunnel_is_cut(site: Site) -> None:
    called = tools(site, server(site), limits={"tunnel_idle_timeout": "1s"}).start()
    calling = planner(site, called).start()
    sock = agent(site, calling)
    talks(sock)
    begun = time.monotonic()
    assert was_reset(sock)
    assert 0.7 < time.monotonic() - begun < 10
    assert called.await_log(event="tunnel")[0]["error"] == "limit_tunnel_idle_timeout"
    assert called.metric("limit_hits_total", limit="tunnel_idle_timeout") == 1
    assert calling.await_log(event="tunnel")[0]["error"] == "upstream_reset"


def talk_for(sock: socket.socket, seconds: float) -> None:
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        talks(sock, b"x")


def test_a_tunnel_that_talks_on_is_cut_by_its_lifetime(site: Site) -> None:
    limits = {"tunnel_idle_timeout": "1s", "tunnel_lifetime": "2s"}
    calling, called = pair(site, server(site), limits=limits)
    sock = agent(site, calling)
    begun = time.monotonic()
    with pytest.raises(ConnectionError):
        talk_for(sock, 20)
    assert 1.5 < time.monotonic() - begun < 10
    errors = {sidecar.await_log(event="tunnel")[0]["error"] for sidecar in (calling, called)}
    assert "limit_tunnel_lifetime" in errors
    hits = sum(sidecar.metric("limit_hits_total", limit="tunnel_lifetime") for sidecar in (calling, called))
    assert hits >= 1
