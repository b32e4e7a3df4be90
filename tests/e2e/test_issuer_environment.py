"""Ensures that nothing in the environment leads our requests to issuers elsewhere, or shows them to others.

Whoever starts the process may have variables set for other programs: a proxy that would see who asks whom, or a file
for the secrets of TLS sessions, with which whoever recorded the network reads the tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.raw import server
from tests.support.token_pair import TokenPair

if TYPE_CHECKING:
    from tests.support.processes import Site

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "SOCKS_PROXY")


@pytest.mark.needs("oauth-server")
@pytest.mark.threat(21, 23)
@pytest.mark.parametrize(
    ("client_auth", "no_proxy"), [("tls_client_auth", ""), ("private_key_jwt", "elsewhere.example")]
)
def test_threat_21_23_no_proxy_and_no_key_log(site: Site, client_auth: str, no_proxy: str) -> None:
    proxy = server(site)
    pair = TokenPair(site).with_issuer(client_auth)
    pair.source["helper"] = True
    for each in (pair.planner, pair.tools):
        url = f"http://127.0.0.1:{proxy.port}"
        names = [*PROXIES, *(name.lower() for name in PROXIES)]
        each.environ |= dict.fromkeys(names, url) | {"NO_PROXY": no_proxy, "no_proxy": no_proxy}
        each.environ["SSLKEYLOGFILE"] = str(site.path(f"{each.name}.keys"))
    pair.start()
    assert pair.ask("/x").status == 200  # metadata, a token and the keys that it is checked with
    assert pair.call("planner", pair.token(), "/y").status == 200
    assert pair.issuer.count("token") == 2
    assert pair.issuer.count("jwks") == 1
    assert pair.planner.stop() == 0  # and a revocation
    assert pair.issuer.count("revocation") == 1
    assert proxy.connections == 0
    assert [path for path in site.folder.iterdir() if path.suffix == ".keys"] == []


@pytest.mark.needs("oauth-server")
@pytest.mark.threat(21)
def test_threat_21_roots_of_the_environment_count_only_without_a_ca(site: Site) -> None:
    """SSL_CERT_FILE says where the system's roots are; where `ca` says whom to trust, nobody else does."""
    pair = TokenPair(site).with_issuer("tls_client_auth")
    pair.source["ca"] = "ca.crt"  # the site's own authority, which did not issue the issuer's certificate
    pair.planner.environ |= {"SSL_CERT_FILE": str(pair.issuer.ca_file), "SSL_CERT_DIR": str(pair.issuer.folder)}
    pair.start()
    answer = pair.ask("/x")
    assert (answer.status, answer.json["error"]) == (503, "token_unavailable")
    assert pair.planner.await_log(http_path="/x")[0]["error"] == "issuer_tls"
    assert pair.issuer.count("metadata") == 0
    del pair.source["ca"]
    pair.planner.reload()
    assert pair.ask("/y").status == 200
