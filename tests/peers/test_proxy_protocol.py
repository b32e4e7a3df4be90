"""Servers of others behind a tunnel read the header that we write: who the caller is, and which decision let it in."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, PLANNER, free_port, listens
from tests.support.raw import agent, into, planner, read_all, tools

if TYPE_CHECKING:
    from tests.support.processes import Sidecar, Site

NGINX = """
    daemon off;
    worker_processes 1;
    pid {folder}/nginx.pid;
    error_log {folder}/nginx.err;
    events {{ worker_connections 64; }}
    http {{
        access_log off;
        client_body_temp_path {folder}/nginx-tmp;
        proxy_temp_path {folder}/nginx-tmp;
        fastcgi_temp_path {folder}/nginx-tmp;
        uwsgi_temp_path {folder}/nginx-tmp;
        scgi_temp_path {folder}/nginx-tmp;
        server {{
            listen {address} proxy_protocol;
            return 200 "$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_addr:$proxy_protocol_server_port";
        }}
    }}
"""
HAPROXY = """
    global
        maxconn 64
    defaults
        mode http
        timeout client 20s
    frontend told
        bind {address} accept-proxy
        http-request return status 200 content-type text/plain lf-string "%[src]:%[src_port] %[dst]:%[dst_port] %[fc_pp_unique_id] %[fc_pp_authority]"
"""


def started(site: Site, program: str, text: str, *options: str) -> int:
    """Starts a server; returns its port."""
    port = free_port()
    path = site.path(f"{program}.conf")
    path.write_text(text.format(folder=site.folder, address=f"{LOOPBACK}:{port}"))
    with site.path(f"{program}.out").open("wb") as out:
        site.process(program, *options, str(path), stdout=out, stderr=out)
    eventually(lambda: listens(port), f"{program} to listen: {site.path(f'{program}.out').read_text()}")
    return port


def asked(site: Site, port: int) -> tuple[str, dict[str, Any], Sidecar]:
    """Asks a server through a pair; returns what it says, the line about it, and the sidecar that told it."""
    entry = into("tools", port, PLANNER) | {"proxy_protocol": "v2"}
    called = tools(site, port, inbound=[entry]).start()
    calling = planner(site, called)
    calling.config["outbound"][0]["server_name"] = "tools.internal"
    sock = agent(site, calling.start())
    sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head, _, body = read_all(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    sock.shutdown(socket.SHUT_WR)
    (line,) = called.await_log(event="tunnel")
    return body.decode(), line, called


@pytest.mark.needs("nginx")
def test_nginx_reads_the_callers_address(site: Site) -> None:
    body, line, called = asked(site, started(site, "nginx", NGINX, "-e", "stderr", "-c"))
    assert body == f"{line['src.addr']} {LOOPBACK}:{called.port()}"


@pytest.mark.needs("haproxy")
def test_haproxy_reads_address_decision_and_name(site: Site) -> None:
    body, line, called = asked(site, started(site, "haproxy", HAPROXY, "-db", "-f"))
    assert body == f"{line['src.addr']} {LOOPBACK}:{called.port()} {line['decision.id']} tools.internal"
