"""The tools' sidecar, as a process, whose callers need tokens; and issuers whose keys, and so whose tokens, a test has.

    with Guarded() as g:
        g.ask("/x", g.token())                  # 200
        g.ask("/x", g.token(said={"aud": 7}))   # 401, and `g.refused` says what log and metrics have to show

There is an inbound entry for each kind of token: "corp" (ES256), "rsa" (RS256) and "mesh" (self-signed). Callers are the
planner, whose certificate `token` binds to, and any other agent of the trust domain.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from tests.support import jwts
from tests.support.ca import keypair, rsa_keypair
from tests.support.processes import Answer, Site, inbound, now
from tests.support.web import AUTHORITY, Web, https, page, sending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tests.support.ca import Identity

    Make = Callable[["Guarded"], bytes]

ISSUER = "https://issuer.example"
AUDIENCE = "https://tools.internal/mcp"
ANYBODY = "spiffe://example.org/agent/**"
#: What goes along: none of it may arrive with a request that is refused.
BODY = b"body-5e81c0"
#: Entry -> the algorithm of its tokens, and the key that signs them; "mesh" has those of the callers.
KINDS = {"corp": ("ES256", keypair("issuer")), "rsa": ("RS256", rsa_keypair("issuer"))}
MESH = "mesh"
INVALID = 'Bearer realm="sidecar", error="invalid_token"'
NO_TOKEN = 'Bearer realm="sidecar"'


class Guarded:
    """A context manager. ``jwks`` serves the keys of both issuers; to ``elsewhere`` nobody may ever connect."""

    def __init__(self, **rule: Any) -> None:
        """``rule``: more of what each rule asks of a token."""
        self._stack = ExitStack()
        self._rule = rule

    def __enter__(self) -> Self:
        with self._stack as stack:
            site = self.site = stack.enter_context(Site())
            self.backend = site.backend()
            self.jwks = stack.enter_context(Web(sending(page(self._keys())), https()))
            self.elsewhere = stack.enter_context(Web(sending(page(self._keys(keypair("mallory")))), https()))
            self.planner, self.other = site.identity("planner"), site.identity("other")
            site.path("issuer-ca.pem").write_bytes(AUTHORITY.pem)
            self.tools = site.sidecar("tools", issuers=self._issuers(), inbound=self._entries()).start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _keys(self, key: Any = None) -> bytes:
        keys = [jwts.jwk((key or own).public_key(), kid=f"{name}-1") for name, (_, own) in KINDS.items()]
        return json.dumps({"keys": keys}).encode()

    def _issuers(self) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "issuer": f"{ISSUER}/{name}",
                "jwks": self.jwks.url("/jwks"),
                "algorithms": [algorithm],
                "ca": "issuer-ca.pem",
                "timeout": "2s",
            }
            for name, (algorithm, _) in KINDS.items()
        ]

    def _entries(self) -> list[dict[str, Any]]:
        made = []
        for name in (*KINDS, MESH):
            asked = {"issuer": "self-signed" if name == MESH else name, "audience": AUDIENCE} | self._rule
            made.append(inbound(name, self.backend.port, [{"caller": ANYBODY, "token": asked}]))
        return made

    # -- tokens -----------------------------------------------------------------------------------------------------

    def claims(self, kind: str = "corp", **changes: Any) -> dict[str, Any]:
        """The claims of a good token for the planner, with changes."""
        return jwts.claims(**(self._said(kind) | changes))

    def header(self, kind: str = "corp", **changes: Any) -> dict[str, Any]:
        """The header of a good token, with changes."""
        return jwts.header(**({"alg": KINDS[kind][0], "kid": f"{kind}-1"} | changes))

    def token(
        self,
        head: Mapping[str, Any] | None = None,
        said: Mapping[str, Any] | None = None,
        *,
        kind: str = "corp",
        private: Any = None,
    ) -> bytes:
        """A good token for the planner with changes, signed by the issuer's key, or another, as the issuer does."""
        algorithm, key = KINDS[kind]
        by = key if private is None else private
        texts = jwts.dump(self.header(kind, **(head or {}))), jwts.dump(self.claims(kind, **(said or {})))
        return jwts.compact(*texts, lambda message: jwts.signature(by, algorithm, message))

    def self_signed(
        self,
        identity: Identity | None = None,
        head: Mapping[str, Any] | None = None,
        said: Mapping[str, Any] | None = None,
        private: Any = None,
    ) -> bytes:
        """A good token that the planner, or another, signed for itself, with changes."""
        moment = int(now())
        good = {"aud": AUDIENCE, "iat": moment, "exp": moment + 300}
        return jwts.self_signed(identity or self.planner, head, good | dict(said or {}), private)

    def _said(self, kind: str) -> dict[str, Any]:
        moment = int(now())
        bound = jwts.confirmation(leaf(self.planner))
        return {"iss": f"{ISSUER}/{kind}", "aud": AUDIENCE, "iat": moment, "exp": moment + 600, "cnf": bound}

    # -- requests ---------------------------------------------------------------------------------------------------

    def ask(self, path: str, token: bytes | None = None, *, kind: str = "corp", caller: str = "planner") -> Answer:
        """One request with a body, with a token if there is one, on a connection of its own."""
        fields = [] if token is None else [("Authorization", b"Bearer " + token)]
        return self.ask_with(path, fields, kind=kind, caller=caller)

    def ask_with(
        self,
        path: str,
        fields: Iterable[tuple[str, bytes]],
        *,
        body: bytes = BODY,
        kind: str = "corp",
        caller: str = "planner",
    ) -> Answer:
        """One request with a body and these fields, as they are, on a connection of its own."""
        connection = self.site.caller(self.tools.port(entry=[*KINDS, MESH].index(kind)), caller)
        connection.putrequest("POST", path)
        connection.putheader("Content-Length", str(len(body)))
        for name, value in fields:
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        answer = Answer(response.status, response.msg, response.read())
        connection.close()
        return answer

    def refused(self, answer: Answer, code: str, path: str, *, kind: str = "corp", challenge: str = INVALID) -> None:
        """Holds a refusal to what everybody may see of it: the caller, the log, the metrics, and the server behind."""
        assert answer.status == 401, (answer.status, answer.body)
        assert answer.fields.get_all("WWW-Authenticate") == [challenge]
        assert answer.json.keys() == {"error", "decision_id"}
        assert answer.json["error"] == "denied"
        (line,) = self.tools.await_log(http_path=path)
        assert line["decision.reason"] == code
        assert (line["decision"], line["http.status"], line["listener"]) == ("deny", 401, kind)
        assert line["decision.id"] == answer.json["decision_id"]
        assert self.backend.of(path) == []
        assert self.tools.metric("tokens_refused_total", listener=kind, code=code) >= 1
        assert self.elsewhere.connections == 0

    def said(self) -> str:
        """All that the process has written."""
        return self.tools.stdout + self.tools.stderr + self.tools.log_file.read_text()


@dataclass(frozen=True)
class Attack:
    """A token that is wrong, and the code that says how. ``kind``: which of the entries it comes to."""

    name: str
    code: str
    make: Make
    kind: str = "corp"

    def fails(self, g: Guarded, path: str) -> None:
        """Comes as a request of that path, is refused as everybody may see, and is written down nowhere."""
        token = self.make(g)
        g.refused(g.ask(path, token, kind=self.kind), self.code, path, kind=self.kind)
        assert token.decode("ascii") not in g.said()


def leaf(identity: Identity) -> bytes:
    """The SHA-256 of its certificate."""
    return hashlib.sha256(identity.der[0]).digest()
