"""Envoy, a foreign proxy with BoringSSL, at either end of mutual TLS: it verifies the chain and one exact SPIFFE ID.

`calls` makes it a caller: plain HTTP in, TLS out. `serves` makes it a peer: TLS in, plain HTTP out, and the backend is
told whom it has verified (`x-forwarded-client-cert`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bench.peers import envoy as bench_envoy
from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, free_port, listens

if TYPE_CHECKING:
    from tests.support.processes import Site

_EXTENSIONS = "type.googleapis.com/envoy.extensions."


def calls(site: Site, name: str, to: int, *, peer: str) -> int:
    """Starts it with the identity of that name, to call ``peer`` at a port; returns the port where it takes plain HTTP."""
    port = free_port()
    tls = _transport("UpstreamTlsContext", {"common_tls_context": _tls(name, peer)})
    _start(site, f"{name}-calls", port, to, manager={}, dial=tls)
    return port


def serves(site: Site, name: str, upstream: int, *, caller: str, port: int) -> None:
    """Starts it with the identity of that name, for one caller alone, taking TLS at the port."""
    tls = _transport(
        "DownstreamTlsContext", {"require_client_certificate": True, "common_tls_context": _tls(name, caller)}
    )
    forward = {"forward_client_cert_details": "SANITIZE_SET", "set_current_client_cert_details": {"uri": True}}
    _start(site, f"{name}-serves", port, upstream, manager=forward, listen=tls)


def _typed(name: str, kind: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": _EXTENSIONS + kind} | config}


def _transport(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    return _typed("tls", f"transport_sockets.tls.v3.{kind}", config)


def _tls(name: str, other: str) -> dict[str, Any]:
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [
            {"certificate_chain": {"filename": f"{name}.crt"}, "private_key": {"filename": f"{name}.key"}}
        ],
        "validation_context": {
            "trusted_ca": {"filename": "ca.crt"},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": other}}],
        },
        "alpn_protocols": ["http/1.1"],
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": LOOPBACK, "port_value": port}}


def _manager(more: dict[str, Any]) -> dict[str, Any]:
    route = {"match": {"prefix": "/"}, "route": {"cluster": "up"}}
    config = {
        "stat_prefix": "in",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [_typed("router", "filters.http.router.v3.Router", {})],
    }
    return _typed("http", "filters.network.http_connection_manager.v3.HttpConnectionManager", config | more)


def _start(
    site: Site,
    name: str,
    port: int,
    to: int,
    *,
    manager: dict[str, Any],
    listen: dict[str, Any] | None = None,
    dial: dict[str, Any] | None = None,
) -> None:
    chain = {"filters": [_manager(manager)]} | ({"transport_socket": listen} if listen else {})
    endpoint = {"endpoint": {"address": _address(to)}}
    cluster = {
        "name": "up",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": "up", "endpoints": [{"lb_endpoints": [endpoint]}]},
    } | ({"transport_socket": dial} if dial else {})
    resources = {
        "listeners": [{"name": "in", "address": _address(port), "filter_chains": [chain]}],
        "clusters": [cluster],
    }
    site.path(f"{name}.json").write_text(json.dumps({"static_resources": resources}))
    program, said = bench_envoy._program(), site.path(f"{name}.envoy")
    assert program is not None, "asked for by a test that does not need it"
    options = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "error")
    with said.open("wb") as out:
        process = site.process(program, "-c", f"{name}.json", *options, stdout=out, stderr=out)
    eventually(lambda: process.poll() is not None or listens(port), "envoy to listen")
    assert process.poll() is None, said.read_text()
