"""The two configuration files, as a user would write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.demo.stage import TOOLS_HOST

if TYPE_CHECKING:
    from sidecar.demo.stage import Ports
    from sidecar.identity.pins import Pin


def planner(ports: Ports, tools_pin: Pin, key: str) -> str:
    """The planner's sidecar: one way out to the tools, and one that an attacker has led astray.

    ``key`` is where its private key is; what is pinned is the other one's.
    """
    return f"""\
version: 1

identity:
  certificate: certs/planner/tls.crt
  key: {key}
  trust:
    example.org: certs/ca.crt

outbound:
  - name: tools
    listen: 127.0.0.1:{ports.outbound}
    hosts: [{TOOLS_HOST}]
    connect: 127.0.0.1:{ports.inbound}
    peer: spiffe://example.org/agent/tools/*
    pins: ["{tools_pin}"]

  # The same peer, but the address leads to somebody else, as after an attack on DNS or routes.
  - name: tools-hijacked
    listen: 127.0.0.1:{ports.hijacked}
    hosts: [{TOOLS_HOST}]
    connect: 127.0.0.1:{ports.impostor}
    peer: spiffe://example.org/agent/tools/*
    pins: ["{tools_pin}"]

admin:
  listen: unix:planner.sock
access_log: planner.log
"""


def tools(ports: Ports, planner_pin: Pin, key: str) -> str:
    """The tools' sidecar: one way in, for the planner alone."""
    return f"""\
version: 1

identity:
  certificate: certs/tools/tls.crt
  key: {key}
  trust:
    example.org: certs/ca.crt

inbound:
  - name: mcp
    listen: 127.0.0.1:{ports.inbound}
    forward: http://127.0.0.1:{ports.server}
    allow:
      - name: planner-may-call
        caller: spiffe://example.org/agent/planner/*
        pins: ["{planner_pin}"]
        methods: [GET, POST, DELETE]
        paths: [/mcp, /headers]

admin:
  listen: unix:tools.sock
access_log: tools.log
"""
