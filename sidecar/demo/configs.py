"""The two configuration files, as a user would write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.demo.stage import ANY_AGENT, AUDIENCE, TOOLS_HOST

if TYPE_CHECKING:
    from sidecar.demo.stage import Ports
    from sidecar.identity.pins import Pin


def planner(ports: Ports, tools_pin: Pin, key: str) -> str:
    """The planner's sidecar: one way out to the tools, one with a token, and one that an attacker has led astray.

    ``key`` is where its private key is; what is pinned is the other one's.
    """
    return f"""\
version: 1

identity:
  certificate: certs/planner/tls.crt
  key: {key}
  trust:
    example.org: certs/ca.crt

# Signed with the key above whenever one is needed; it lives five minutes, and the planner never sees it.
tokens:
  - name: for-tools
    kind: self-signed
    audience: {AUDIENCE}

outbound:
  - name: tools
    listen: 127.0.0.1:{ports.outbound}
    hosts: [{TOOLS_HOST}]
    connect: 127.0.0.1:{ports.inbound}
    peer: spiffe://example.org/agent/tools/*
    pins: ["{tools_pin}"]

  - name: tools-shared
    listen: 127.0.0.1:{ports.to_shared}
    hosts: [{TOOLS_HOST}]
    connect: 127.0.0.1:{ports.shared}
    peer: spiffe://example.org/agent/tools/*
    pins: ["{tools_pin}"]
    token: for-tools

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
    """The tools' sidecar: one way in for the planner alone, and one for every agent that brings a token of its own."""
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

  - name: shared
    listen: 127.0.0.1:{ports.shared}
    forward: http://127.0.0.1:{ports.server}
    allow:
      - name: any-agent-with-its-own-token
        caller: {ANY_AGENT}
        methods: [GET, POST, DELETE]
        paths: [/mcp]
        token:
          issuer: self-signed
          audience: {AUDIENCE}
          pass_token: true # the tools' server reads it too; by default it does not get that far

admin:
  listen: unix:tools.sock
access_log: tools.log
"""
