"""A real authorisation server, `tests.support.oauth_server`'s, as a process beside a test, and all that a test asks of it.

    @pytest.mark.needs("oauth-server")
    def test_it(site: Site) -> None:
        issuer = serve(site, by_uri_san("planner", PLANNER))   # knows site.ca; ends with the site
        ...                                                    # issuer.issuer, issuer.ca_file; resource RESOURCE
        issuer.fault("slow", "jwks", delay=5)
        issuer.rotate()
        assert issuer.count("token") == 1

It does client credentials (RFC 6749 4.4) and issues JWTs (RFC 9068, ES256), with a ``cnf`` for clients that want it (RFC
8705 3). Its certificate is one of an ordinary authority for ``localhost``. One port asks for no client certificate; the
port that ``mtls_endpoint_aliases`` names does. It revokes its JWTs too, which oidc-provider itself refuses to
(``revoke_jwt=False``). Nobody waits here: `start` returns when it serves, and a command when it is in force.
"""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import tempfile
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cryptography import x509

from tests.support.backend import LOOPBACK
from tests.support.ca import DAY, HOUR, SERVER_AUTH, Signer, forge, forge_signing, key_pem, keypair, name, pem
from tests.support.eventually import eventually
from tests.support.oauth_server import FOLDER, NODE, SOURCES
from tests.support.processes import ask, free_port, now

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.oauth_clients import Client
    from tests.support.processes import Site

#: The resource (RFC 8707), and so the audience, that a server knows unless it is told others, and its scopes.
RESOURCE = "https://tools.internal/mcp"
SCOPES = "tools:read tools:write"


@dataclass
class Issuer:
    """One server; a context manager. What is set here counts when it starts, the methods work while it runs.

    ``client_ca``: PEM of the authorities for ``tls_client_auth``. ``resources``: what each is, by its URI, with any of
    ``scope``, ``audience`` (the URI), ``ttl`` (``ttl``), ``format`` ("jwt", or "opaque"). ``claims``: more claims for
    tokens, by client. ``aliases=False``: one port, which asks for client certificates. ``path``: of the issuer, such as
    "/realms/one". ``names``: in its certificate. ``max_version``, ``mtls_max_version``: "TLSv1.2" for an old one.
    """

    client_ca: bytes = field(repr=False)
    clients: tuple[Client, ...] = field(default=(), repr=False)
    resources: dict[str, dict[str, Any]] = field(default_factory=lambda: {RESOURCE: {"scope": SCOPES}})
    claims: dict[str, dict[str, Any]] = field(default_factory=dict)
    ttl: int = 300
    alg: str = "ES256"
    revoke_jwt: bool = True
    aliases: bool = True
    path: str = ""
    names: tuple[str, ...] = ("localhost",)
    max_version: str = "TLSv1.3"
    mtls_max_version: str = "TLSv1.3"

    def __post_init__(self) -> None:
        self.port, self.mtls_port, self._control = free_port(), free_port(), free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="issuer-"))
        #: The PEM file of the authority that issued its certificate.
        self.ca_file = self.folder / "ca.crt"
        self._process: subprocess.Popen[bytes] | None = None
        _write_tls(self.folder, self.names)
        (self.folder / "clients.crt").write_bytes(self.client_ca)

    @property
    def issuer(self) -> str:
        """Its identifier, the ``iss`` of its tokens."""
        return f"https://localhost:{self.port}{self.path}"

    # -- the process ----------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Starts it, after `stop` with the ports and keys of before. Nothing else outlives a stop."""
        (self.folder / "server.json").write_text(json.dumps(self._configuration()))
        command = (NODE, SOURCES / "server.mjs", self.folder / "server.json", FOLDER)
        with (self.folder / "log").open("ab") as log:
            # Its standard input ends with us, whatever becomes of us, and it ends with that.
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        eventually(self._serves, "the authorisation server")
        return self

    def stop(self) -> None:
        """Ends it: connections to it are refused."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def close(self) -> None:
        """Ends it and removes its files."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what it is told ------------------------------------------------------------------------------------------

    def rotate(self, alg: str = "ES256", *, keep: bool = False) -> str:
        """Gives it a new key and returns its ``kid``; the old one is published no longer, unless kept."""
        kids: list[str] = self._command(rotate={"alg": alg, "keep": keep})["kids"]
        return kids[0]

    def fault(self, mode: str, *endpoints: str, times: int | None = None, **more: Any) -> None:
        """Lets these endpoints, or all, fail in one of these ways, the next ``times`` requests or until `ok`.

        ``down`` (reset; for all: before TLS), ``hang``, ``slow`` (``delay``: seconds), ``html``, ``500``, ``redirect``
        (``location``, ``status``; default 307 to an address of its own that `count` knows as "other"), ``huge`` (without
        an end), ``drip`` (a byte now and then), ``cut`` (ends too early), ``answer`` (``body``, ``status``, ``type``).
        """
        fault = more | {"mode": mode, "delay": more.get("delay", 0) * 1000}
        fault.setdefault("location", f"https://localhost:{self.port}{self.path}/elsewhere")
        if times is not None:
            fault["times"] = times
        self._command(fault=dict.fromkeys(endpoints or ("all",), fault))

    def ok(self, *endpoints: str) -> None:
        """Ends the faults of these endpoints, or every fault ("all" is one that was set for all)."""
        self._command(ok=endpoints)

    def set_clock(self, seconds: float) -> None:
        """Sets its clock that many seconds ahead of the machine's; behind, if negative."""
        self._command(clock=seconds)

    def set_ttl(self, seconds: int) -> None:
        """The life of the tokens from now on, where the resource has none of its own."""
        self._command(ttl=seconds)

    def add(self, *clients: Client) -> None:
        """Registers clients, or registers them anew."""
        self._command(clients=[dict(client) for client in clients])

    def forget(self) -> None:
        """Sets all counts to zero, and all lists to empty."""
        self._command(forget=True)

    # -- what it has seen -----------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """``kids`` (the one that signs first), ``counts``, ``connections`` (``plain``, ``mtls``), and lists, oldest first.

        ``requests``: ``endpoint``, ``listener``, ``method``, ``path``, ``tls``, ``certificate`` (SHA-256 in hex, or None).
        ``tokens``: ``client_id``, ``method``, ``jti``, ``audience``, ``scope``, ``resource``, ``expires_in``, ``x5t``.
        ``errors``: ``endpoint``, ``error``, ``description``, which says why. ``revoked``: ``client_id``, ``jti``.
        """
        return self._command()

    def count(self, endpoint: str) -> int:
        """Requests to "token", "jwks", "metadata", "revocation" or "other", faults included."""
        return int(self.state()["counts"].get(endpoint, 0))

    @property
    def revoked(self) -> list[str]:
        """The ``jti`` of each revoked token."""
        return [entry["jti"] for entry in self.state()["revoked"]]

    def _command(self, **commands: Any) -> dict[str, Any]:
        with closing(http.client.HTTPConnection(LOOPBACK, self._control, timeout=20)) as connection:
            answer = ask(connection, "POST", "/control", body=json.dumps(commands))
        assert answer.status == 200, f"the authorisation server refused {sorted(commands)}:\n{self._log}"
        state: dict[str, Any] = answer.json
        return state

    def _serves(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the authorisation server ended:\n{self._log}"
        with suppress(OSError, http.client.HTTPException):
            return bool(self._command())
        return False

    @property
    def _log(self) -> str:
        return (self.folder / "log").read_text()

    def _configuration(self) -> dict[str, Any]:
        same = ("resources", "claims", "ttl", "alg", "revoke_jwt", "max_version", "mtls_max_version", "issuer", "port")
        return {knob: getattr(self, knob) for knob in same} | {
            "clients": [dict(client) for client in self.clients],
            "mtls_port": self.mtls_port if self.aliases else None,
            "control_port": self._control,
            "certificate": str(self.folder / "tls.crt"),
            "key": str(self.folder / "tls.key"),
            "client_ca": str(self.folder / "clients.crt"),
            "keys": str(self.folder / "keys.json"),
        }


def serve(site: Site, *clients: Client, **more: Any) -> Issuer:
    """Starts one that trusts the site's authority and ends with the site; ``more`` is what an `Issuer` takes."""
    made = Issuer(**{"client_ca": site.ca.pem, "clients": clients} | more)
    site.owns(made.close)
    return made.start()


def _write_tls(folder: Path, names: tuple[str, ...]) -> None:
    """An authority as browsers know them, and a certificate for these names."""
    since, until = now() - HOUR, now() + DAY
    authority, key = keypair("the issuer's authority"), keypair("the issuer")
    ski = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    signer = Signer(name("Tests' Web Authority"), authority)
    lifetime: Mapping[str, Any] = {"not_before": since, "not_after": until}
    ca = forge_signing(signer, authority, "Tests' Web Authority", uris=(), extensions=[(ski, False)], **lifetime)
    leaf = forge(
        signer,
        key.public_key(),
        subject="",
        uris=(),
        names=[x509.DNSName(each) for each in names],
        purposes=[SERVER_AUTH],
        extensions=[(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ski), False)],
        **lifetime,
    )
    (folder / "ca.crt").write_bytes(pem(ca))
    (folder / "tls.crt").write_bytes(pem(leaf))
    (folder / "tls.key").touch(mode=0o600)
    (folder / "tls.key").write_bytes(key_pem(key))
