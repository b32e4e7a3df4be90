"""Envoy: its HTTP connection manager, and its TCP proxy for tunnels.

Inbound an RBAC filter names the caller by SPIFFE ID, once a request or once a tunnel; outbound the peer's SPIFFE ID is
matched in the handshake.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench.certificates import CALLER, PEER, spiffe_prefix
from bench.peers.peer import Work
from bench.processes import ROOT
from bench.programs import find, first_line

if TYPE_CHECKING:
    from bench.site import Running, Site

#: Where `bench.install` puts it.
INSTALLED: Final = ROOT / ".bench/envoy/envoy/_bin/envoy"

_TYPE: Final = "type.googleapis.com/envoy.extensions."


@dataclass(frozen=True, slots=True)
class Envoy:
    """The proxy of the common service meshes, with the BoringSSL it is built with."""

    name: str = "envoy"

    def missing(self, work: Work) -> str | None:  # noqa: ARG002 - one program does both
        """Says that it is not there."""
        if _program() is not None:
            return None
        return "envoy is not installed: pip install -r bench/requirements.txt --target .bench/envoy, or ENVOY=path"

    def version(self) -> str:
        """As in ``…/1.40.0/Clean/RELEASE/BoringSSL``."""
        return first_line(str(_program()), "--version", holding="version").rpartition("version: ")[2]

    def inbound(self, site: Site, work: Work, upstream: int) -> Running:
        """Client certificates are demanded, verified, and matched against the one rule."""
        tls = _transport(
            "DownstreamTlsContext",
            {"require_client_certificate": True, "common_tls_context": _tls(site, PEER, work)},
        )
        return _start(site, work, upstream, filters=[_allow(work)], listen=tls)

    def outbound(self, site: Site, work: Work, inbound: int) -> Running:
        """The other side is verified by chain and SPIFFE ID."""
        tls = _transport("UpstreamTlsContext", {"common_tls_context": _tls(site, CALLER, work, peer=PEER)})
        return _start(site, work, inbound, filters=[], dial=tls)


def _program() -> str | None:
    given = os.environ.get("ENVOY", "")
    if given:
        return find(given)
    return str(INSTALLED) if INSTALLED.exists() else find("envoy")


def _typed(name: str, kind: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": _TYPE + kind} | config}


def _transport(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    return _typed("tls", f"transport_sockets.tls.v3.{kind}", config)


def _tls(site: Site, name: str, work: Work, peer: str | None = None) -> dict[str, Any]:
    files = site.certificates
    validation: dict[str, Any] = {"trusted_ca": {"filename": str(files.authority)}}
    if peer is not None:
        matcher = {"san_type": "URI", "matcher": {"prefix": spiffe_prefix(peer)}}
        validation["match_typed_subject_alt_names"] = [matcher]
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(files.certificate(name))},
                "private_key": {"filename": str(files.key(name))},
            }
        ],
        "validation_context": validation,
        "alpn_protocols": ["http/1.1"] if work is Work.HTTP else [],
    }


def _allow(work: Work) -> dict[str, Any]:
    principal = {"authenticated": {"principal_name": {"prefix": spiffe_prefix(CALLER)}}}
    rules = {"policies": {"callers": {"permissions": [{"any": True}], "principals": [principal]}}}
    if work is Work.HTTP:
        return _typed("rbac", "filters.http.rbac.v3.RBAC", {"rules": rules})
    return _typed("rbac", "filters.network.rbac.v3.RBAC", {"rules": rules, "stat_prefix": "rbac"})


def _access_log(site: Site) -> dict[str, Any]:
    return _typed("log", "access_loggers.file.v3.FileAccessLog", {"path": str(site.crew.path("envoy-access.log"))})


def _manager(site: Site, filters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    route = {"match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "0s"}}
    config = {
        "stat_prefix": "in",
        "access_log": [_access_log(site)],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [*filters, _typed("router", "filters.http.router.v3.Router", {})],
    }
    kind = "filters.network.http_connection_manager.v3.HttpConnectionManager"
    return [_typed("http", kind, config)]


def _tunnel(site: Site, filters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    config = {"stat_prefix": "in", "cluster": "up", "access_log": [_access_log(site)]}
    return [*filters, _typed("tcp", "filters.network.tcp_proxy.v3.TcpProxy", config)]


def _start(
    site: Site,
    work: Work,
    to: int,
    *,
    filters: list[dict[str, Any]],
    listen: dict[str, Any] | None = None,
    dial: dict[str, Any] | None = None,
) -> Running:
    port = site.crew.port()
    chain = {"filters": _manager(site, filters) if work is Work.HTTP else _tunnel(site, filters)}
    endpoint = {"endpoint": {"address": _address(to)}}
    cluster = {
        "name": "up",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": "up", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    config = {
        "static_resources": {
            "listeners": [
                {
                    "name": "in",
                    "address": _address(port),
                    "filter_chains": [chain | ({"transport_socket": listen} if listen else {})],
                }
            ],
            "clusters": [cluster | ({"transport_socket": dial} if dial else {})],
        }
    }
    file = site.file("envoy.json", json.dumps(config))
    options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    return site.proxy("envoy", port, str(_program()), "-c", file, *options)


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
