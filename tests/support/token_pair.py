"""Two sidecars as real processes, and tokens between them: the planner's sends them along, the tools' asks for them.

    def test_it(site: Site) -> None:
        pair = TokenPair(site).with_issuer("tls_client_auth").start()   # needs oauth-server
        answer = pair.ask("/hello")                                     # as the agent, who has no token
        planner, tools = pair.lines("/hello")                           # what both logs say of it
        pair.call("other", pair.token(), "/stolen")                     # straight at the tools' sidecar

Everything may be changed before `start`: `source` (of ``tokens``), `rule` (the ``token`` of the one allow rule), `judge`
(the entry of ``issuers``), and the configurations themselves; a key may be moved into a device (`tests.support.keyed`),
then before `with_issuer`, which registers what is in the certificate.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import threading
from typing import TYPE_CHECKING, Any, Self

from cryptography import x509

from tests.support.backend import Backend
from tests.support.ca import DAY, der, keypair
from tests.support.eventually import eventually
from tests.support.issuer import RESOURCE, serve
from tests.support.oauth_clients import base64url, by_key, by_secret, by_self_signed, by_uri_san
from tests.support.processes import PLANNER, Answer, ask, now, replace_file

if TYPE_CHECKING:
    import socket
    from typing import BinaryIO

    from tests.support.issuer import Issuer
    from tests.support.oauth_clients import Client
    from tests.support.processes import Site

#: The client's name at the issuer, the source's, and the issuer's in the tools' configuration.
CLIENT, SOURCE, LOGIN = "planner", "mesh", "login"
SECRET = "canary-5e1f-client-secret-0b77"
#: What the agent behind learns of the token, by field.
HEADERS = {"X-Token-Subject": "sub", "X-Token-Scope": "scope"}
BY_SECRET = ("client_secret_basic", "client_secret_post")


class Upstream(Backend):
    """The agent behind the tools' sidecar. The next ``refusals`` requests it answers with 401."""

    refusals = 0

    def _answer(self, sock: socket.socket, source: BinaryIO, head: bytes) -> None:
        with self._lock:
            refused = self.refusals > 0
            self.refusals -= refused
        super()._answer(_Refusing(sock) if refused else sock, source, head)  # type: ignore[arg-type]  # for sendall


class _Refusing:
    """Sends what it is given as a 401."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def sendall(self, data: bytes) -> None:
        self._sock.sendall(data.replace(b" 200 OK\r\n", b" 401 Unauthorized\r\n", 1))


class TokenPair:
    """See above. Self-signed tokens, unless it is `with_issuer` or told another source; ends with the site."""

    def __init__(self, site: Site, source: dict[str, Any] | None = None) -> None:
        self.site = site
        self.upstream = Upstream()
        self.upstream.__enter__()
        site.owns(self.upstream.__exit__)
        self.tools = site.tools(self.upstream)
        self.planner = site.planner(self.tools, {"token": SOURCE})
        self.rule: dict[str, Any] = {"issuer": "self-signed", "audience": RESOURCE, "headers": dict(HEADERS)}
        self.source: dict[str, Any] = {"name": SOURCE, "kind": "self-signed", "audience": RESOURCE}
        self.source = {"name": SOURCE} | source if source is not None else self.source
        self.tools.config["inbound"][0]["allow"] = [{"caller": PLANNER, "token": self.rule}]
        self.planner.config["tokens"] = [self.source]
        self._issuer: Issuer | None = None
        self.judge: dict[str, Any] = {}

    # -- how it is made ---------------------------------------------------------------------------------------------

    def with_issuer(self, client_auth: str, **knobs: Any) -> Self:
        """Starts an authorisation server that knows the planner in that way; ``knobs`` are those of `serve`.

        Tokens are bound to the planner's certificate, and asked to be; not for clients that show a secret.
        """
        made = self._issuer = serve(self.site, self.registration(client_auth), **knobs)
        self.source.clear()
        self.source |= {"name": SOURCE, "kind": "oauth2", "issuer": made.issuer, "ca": str(made.ca_file)}
        self.source |= {"client_auth": client_auth, "client_id": CLIENT, "resource": RESOURCE}
        self.source |= {"scopes": ["tools:read", "tools:write"]}
        self.judge |= {"name": LOGIN, "issuer": made.issuer, "jwks": f"{made.issuer}/jwks", "ca": str(made.ca_file)}
        self.tools.config["issuers"] = [self.judge]
        self.rule |= {"issuer": LOGIN, "scopes": ["tools:read"]}
        if client_auth in BY_SECRET:
            replace_file(self.site.path("client.secret"), SECRET.encode())
            self.source |= {"client_secret": {"file": "client.secret"}, "bound": False}
            self.rule["bound"] = False
        return self

    def registration(self, client_auth: str) -> Client:
        """What an issuer has to know about the planner for that way: by the certificate that it has now."""
        if client_auth in BY_SECRET:
            return by_secret(CLIENT, SECRET, method=client_auth)
        if client_auth == "private_key_jwt":
            return by_key(CLIENT, self.certificate().public_key(), bound=True)
        if client_auth == "self_signed_tls_client_auth":
            return by_self_signed(CLIENT, self.certificate())
        return by_uri_san(CLIENT, PLANNER)

    def start(self) -> Self:
        """Starts both; returns when they are ready."""
        self.tools.launch()
        self.planner.start()
        self.tools.await_ready()
        return self

    @property
    def issuer(self) -> Issuer:
        """The authorisation server."""
        assert self._issuer is not None, "there is none"
        return self._issuer

    # -- the planner's certificate ------------------------------------------------------------------------------------

    def certificate(self, name: str = "planner") -> x509.Certificate:
        """The leaf in its file."""
        return x509.load_pem_x509_certificate(self.site.path(f"{name}.crt").read_bytes())

    def thumbprint(self, name: str = "planner") -> str:
        """Its SHA-256 as ``cnf`` has it (RFC 8705 3.1)."""
        return base64url(hashlib.sha256(der(self.certificate(name))).digest())

    def renew(self, key: str = "renewed") -> None:
        """Puts a new certificate for a new key, the one of that name, in the place of the planner's. Tells nobody."""
        made = self.site.ca.leaf("/agent/planner/1", key=keypair(key), now=now(), lifetime=DAY)
        replace_file(self.site.path("planner.key"), made.key_pem)
        replace_file(self.site.path("planner.crt"), made.chain_pem)

    # -- asking -------------------------------------------------------------------------------------------------------

    def ask(self, path: str = "/hello", method: str = "GET", **more: Any) -> Answer:
        """One request as the agent, on a connection of its own; ``more`` may have ``body`` and ``headers``."""
        return ask(self.site.agent(self.planner), method, path, **more)

    def call(self, name: str, authorization: str | None, path: str = "/direct", method: str = "GET") -> Answer:
        """One request straight at the tools' sidecar by the identity of that name, with that ``Authorization``, or none."""
        fields = {} if authorization is None else {"Authorization": authorization}
        return ask(self.site.caller(self.tools.port(), name), method, path, headers=fields)

    def token(self) -> str:
        """A fresh token of the planner's, with its scheme: what a thief may have. The source needs ``helper: true``."""
        answer = self.planner.ask(f"/tokens/{SOURCE}", "POST")
        assert answer.status == 200, answer.json
        return f"Bearer {answer.json['token']}"

    def sent(self, path: str) -> list[str]:
        """The ``Authorization`` that the agent behind got with each request of that path: with ``pass_token`` only."""
        return [value for request in self.upstream.of(path) for value in request.fields("Authorization")]

    # -- what was seen ------------------------------------------------------------------------------------------------

    def lines(self, path: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The one line of each log about a request of that path: the planner's and the tools'."""
        (planner,) = self.planner.await_log(event="request", http_path=path)
        (tools,) = self.tools.await_log(event="request", http_path=path)
        return planner, tools

    def status(self) -> dict[str, Any]:
        """What the planner's ``/tokens`` says of the source."""
        (found,) = self.planner.ask("/tokens").json["tokens"]
        return dict(found)

    def held(self) -> dict[str, Any]:
        """What it says of the one token that the entry has."""
        (found,) = self.status()["tokens"]
        return dict(found)

    def refreshed(self, result: str = "ok") -> float:
        """How often the planner's sidecar fetched a token with that result."""
        return self.planner.metric("tokens_refreshed_total", source=SOURCE, result=result)

    def refused(self, code: str) -> float:
        """How often the tools' sidecar refused a token for that."""
        return self.tools.metric("tokens_refused_total", listener="tools", code=code)

    @property
    def incidents(self) -> float:
        """Those that the tools' sidecar counted."""
        return self.tools.metric("incidents_total")


class Agent(threading.Thread):
    """Asks again and again on one connection, until ``enough`` is set; ``answers`` has each status, or what went wrong."""

    def __init__(self, pair: TokenPair, number: int = 0) -> None:
        super().__init__(daemon=True)
        self.connection = pair.site.agent(pair.planner)
        self.number = number
        self.answers: list[int | str] = []
        self.enough = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.enough.is_set():
            try:
                self.answers.append(ask(self.connection, "GET", f"/{self.number}/{len(self.answers)}").status)
            except (OSError, http.client.HTTPException) as error:
                self.answers.append(repr(error))
                return

    def await_more(self, count: int = 1) -> None:
        """Returns when that many more were answered, or it has given up."""
        wanted = len(self.answers) + count
        eventually(lambda: len(self.answers) >= wanted or not self.is_alive(), f"{count} more answers")

    def stop(self) -> list[int | str]:
        """Has it come to its end; returns all answers."""
        self.enough.set()
        self.join(20)
        assert not self.is_alive(), "an agent hangs"
        return self.answers


def claims(token: str) -> dict[str, Any]:
    """What a token says, whoever signed it; ``token`` with or without its scheme."""
    part = token.rpartition(" ")[2].split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found
