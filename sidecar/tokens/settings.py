"""What the configuration says about token sources and issuers, as frozen values. No value here is a secret.

Times are seconds, paths absolute. Contents of files that are read once (``ca``, secrets in files) are handed over beside
these, by path: see `Secrets` and `Reach`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

#: What a token may live by default, in seconds: inbound, and when we keep one.
MAX_LIFETIME: Final = 900.0
#: A self-signed token lives so long at the most, in seconds.
SELF_SIGNED_SECONDS: Final = 300.0
#: The name by which a rule asks for a self-signed token instead of an issuer's.
SELF_SIGNED: Final = "self-signed"


@dataclass(frozen=True, slots=True)
class SecretRef:
    """Where a secret is: exactly one of ``file`` and ``env`` is there."""

    file: Path | None = None
    env: str | None = None

    def __str__(self) -> str:
        """Returns the place, as messages show it."""
        return f"file {self.file}" if self.file is not None else f"env {self.env}"


class ClientAuth(StrEnum):
    """How we prove to a token endpoint who we are; the registered names (RFC 8414 2, RFC 8705 2, RFC 7523)."""

    TLS = "tls_client_auth"
    SELF_SIGNED_TLS = "self_signed_tls_client_auth"
    PRIVATE_KEY_JWT = "private_key_jwt"
    #: Known gap: a static secret, here and in wherever it is kept.
    SECRET_BASIC = "client_secret_basic"  # noqa: S105 - a name
    SECRET_POST = "client_secret_post"  # noqa: S105 - a name


@dataclass(frozen=True, slots=True)
class Reach:
    """How an issuer is reached. ``ca``: the PEM file to trust, None for the system's roots. ``timeout``: of each step."""

    ca: Path | None = None
    timeout: float = 5.0
    unsafe_plaintext: bool = False


@dataclass(frozen=True, slots=True)
class Keeping:
    """What all sources share: whether tokens are kept, for how long at the most, and whether `sidecar token` gives them."""

    cache: bool = True
    max_lifetime: float = MAX_LIFETIME
    helper: bool = False


@dataclass(frozen=True, slots=True)
class OAuth2Source:
    """Client credentials (RFC 6749 4.4) at an issuer whose metadata is discovered (RFC 8414).

    ``client_id`` None: our SPIFFE ID. ``audience`` is what some issuers ask for beside ``resource`` (RFC 8707).
    ``assertion_audience`` None: the issuer. ``bound``: the token is to be bound to our certificate (RFC 8705 3).
    """

    kind: ClassVar[str] = "oauth2"
    name: str
    issuer: str
    client_auth: ClientAuth
    client_id: str | None = None
    client_secret: SecretRef | None = None
    scopes: tuple[str, ...] = ()
    resource: str | None = None
    audience: str | None = None
    assertion_audience: str | None = None
    key_id: str | None = None
    bound: bool = True
    reach: Reach = Reach()
    keeping: Keeping = Keeping()


@dataclass(frozen=True, slots=True)
class SelfSignedSource:
    """A JWT by our own identity key, for services of the same trust domain; ``lifetime`` at most 300 s."""

    kind: ClassVar[str] = "self-signed"
    name: str
    audience: str
    lifetime: float = SELF_SIGNED_SECONDS
    keeping: Keeping = Keeping()


@dataclass(frozen=True, slots=True)
class FileSource:
    """A token that something else writes and rotates."""

    kind: ClassVar[str] = "file"
    name: str
    path: Path
    keeping: Keeping = Keeping()


@dataclass(frozen=True, slots=True)
class ExecSource:
    """The output of a command; ``command`` is a path or a name to be found in PATH, and its arguments."""

    kind: ClassVar[str] = "exec"
    name: str
    command: tuple[str, ...]
    timeout: float = 10.0
    keeping: Keeping = Keeping()


SourceSettings: TypeAlias = "OAuth2Source | SelfSignedSource | FileSource | ExecSource"


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuer whose tokens are accepted from callers.

    ``issuer`` is the value of ``iss``, byte for byte. ``jwks``: the URL of its keys, the only one that is ever fetched.
    ``algorithms``: JWS names (RFC 7518 3.1), asymmetric ones alone. ``typ``: the JWS ``typ``, None for tokens that have
    none. ``leeway``: how far its clock and ours may differ. ``jwks_refresh``: the age from which keys are fetched anew;
    ``jwks_interval``: the least time between two fetches; ``jwks_max_age``: the age beyond which keys are not used.
    """

    name: str
    issuer: str
    jwks: str
    algorithms: tuple[str, ...] = ("ES256",)
    typ: str | None = "at+jwt"
    leeway: float = 30.0
    jwks_refresh: float = 300.0
    jwks_interval: float = 10.0
    jwks_max_age: float = 3600.0
    reach: Reach = Reach()
