"""The sections of the file: which keys each has, and how they become values."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from sidecar.config import addresses, entries, forms, kinds, limits
from sidecar.config.faults import ConfigCode, Refused, below
from sidecar.config.schema import (
    REQUIRED,
    Absent,
    Key,
    Kind,
    Reported,
    Spot,
    Table,
    attempt,
    later,
    listing,
    read_table,
)
from sidecar.config.values import Health, Identity, LogFull, Resumption, Sources, UnixAddress
from sidecar.errors import SidecarError
from sidecar.identity.spiffe import TRUST_DOMAIN, TrustDomain
from sidecar.keys import spec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NO_TRUST: Final = Absent(
    ConfigCode.MISSING_KEY, "no trust domain is named", "name each trust domain and its bundle: example.org: ca.crt"
)


# --- identity: who we are, and whom we can prove


def _key(spot: Spot) -> spec.KeySpec:
    value = kinds.path_text(spot)
    if spec.scheme(value) is None:
        kinds.check_path(value)
    return spec.parse(value, spot.base)


def _trust(spot: Spot) -> Mapping[TrustDomain, Path]:
    entries = spot.entries()
    if not entries:
        raise NO_TRUST.refused()
    found: dict[TrustDomain, Path] = {}
    complete = True
    for name, place in entries:
        spot.ledger.lines[place.key] = place.line
        paths: list[Path] = []
        complete = attempt(place, kinds.PATH, paths) and complete
        try:
            domain = TrustDomain.parse(name)
        except SidecarError as error:
            place.refuse(Refused(error.code, str(error), hint=error.hint or "write the bare name: example.org: ca.crt"))
            complete = False
        else:
            found.update((domain, path) for path in paths)
    spot.ledger.sources = Sources(trust=MappingProxyType(found), trust_sound=complete)
    if not complete:
        raise Reported
    return spot.ledger.sources.trust


CERTIFICATE: Final = Key(
    "certificate",
    kinds.PATH,
    REQUIRED,
    "Our own X.509-SVID: a PEM chain, leaf first, or one PEM file with key and chain in any order, named twice.",
)
KEY: Final = Key(
    "key",
    Kind(_key, "path or key URI", forms.TEXT),
    REQUIRED,
    "The private key, P-256 or P-384: the path of an unencrypted PEM file, `tpm:…`, a `pkcs11:` URI or "
    "`signer:unix:PATH`; see below. A file with a key or a PIN is refused when the world can read it, or a group that is "
    "not ours, or when its owner is neither us nor root.",
)
TRUST: Final[Key[Mapping[TrustDomain, Path]]] = Key(
    "trust",
    Kind(_trust, "mapping of trust domain to path", forms.mapping(forms.matching(TRUST_DOMAIN), forms.TEXT)),
    MappingProxyType({}),
    "Required, unless all entries are outbound and `tls: public`. The trust bundle of each trust domain, PEM or SPIFFE bundle JSON. A peer's "
    "chain counts only against the bundle of its own domain; the system's certificate store is never used for peers.",
    absent=NO_TRUST,
)
IDENTITY: Final = Table("identity", (CERTIFICATE, KEY, TRUST))


def _identity(spot: Spot) -> Identity:
    values = read_table(spot, IDENTITY)
    ledger = spot.ledger
    if TRUST.name not in values.spots:
        ledger.no_trust = (dict(spot.entries()).get(TRUST.name) or spot, below(spot.key, TRUST.name))
    ledger.sources = replace(ledger.sources, certificate=values.get(CERTIFICATE), key=values.get(KEY))
    ledger.lines.update((place.key, place.line) for place in values.spots.values())
    values.settle()
    return Identity(values[CERTIFICATE], values[KEY], values[TRUST])


# --- operators

UIDS: Final = Key(
    "uids",
    listing(kinds.UID),
    (),
    "Users that the socket serves beside our own and root.",
)
ADMIN_LISTEN: Final[Key[UnixAddress | None]] = Key(
    "listen",
    addresses.UNIX,
    None,
    "The administration socket, mode 0600. Absent: `$XDG_RUNTIME_DIR/sidecar/<file stem>.sock`, without that variable "
    "`/run/sidecar/<file stem>.sock`.",
)
ADMIN: Final = Table("admin", (ADMIN_LISTEN, UIDS))


def _admin(spot: Spot) -> tuple[UnixAddress | None, frozenset[int]]:
    values = read_table(spot, ADMIN)
    values.settle()
    return values[ADMIN_LISTEN], frozenset(values[UIDS])


HEALTH_LISTEN: Final = Key(
    "listen",
    addresses.LISTEN,
    REQUIRED,
    "Answers `GET` of `/live`, `/ready` and `/metrics`, nothing else, to whoever asks. Any address, or `unix:PATH`, mode "
    "0666.",
)
HEALTH: Final = Table("health", (HEALTH_LISTEN,))


def _health(spot: Spot) -> Health:
    values = read_table(spot, HEALTH)
    if listen := values.get(HEALTH_LISTEN):
        spot.ledger.listens.append(("health", listen, values.spots["listen"]))
    values.settle()
    return Health(values[HEALTH_LISTEN])


def _access_log(spot: Spot) -> Path | None:
    value = kinds.path_text(spot)
    if value == "stdout":
        return None
    if value == "stderr":
        raise Refused(
            ConfigCode.BAD_PATH,
            "the access log cannot go to stderr, where the proxy's own messages go",
            hint="write stdout, or the path of a file",
        )
    kinds.check_path(value)
    return spot.base / value


# --- the file

VERSION: Final = Key("version", kinds.VERSION, REQUIRED, "The version of this format.")
IDENTITY_KEY: Final = Key(
    "identity",
    Kind(_identity, "section", IDENTITY),
    REQUIRED,
    "Who we are, and whom we can prove.",
    absent=Absent(
        ConfigCode.MISSING_KEY, "the key is missing", "add identity: with certificate, key and trust below it"
    ),
)
INBOUND_KEY: Final = Key(
    "inbound", listing(entries.READ_INBOUND, distinct=False), (), "What callers reach through this sidecar."
)
OUTBOUND_KEY: Final = Key(
    "outbound", listing(entries.READ_OUTBOUND, distinct=False), (), "What the agent reaches through this sidecar."
)
TOKENS_KEY: Final = Key(
    "tokens",
    listing(later("sidecar.config.tokens", "READ", "source"), distinct=False),
    (),
    "Where tokens for outbound entries come from.",
)
ISSUERS_KEY: Final = Key(
    "issuers",
    listing(later("sidecar.config.issuers", "READ", "issuer"), distinct=False),
    (),
    "Whose tokens callers may bring.",
)
ADMIN_KEY: Final[Key[tuple[UnixAddress | None, frozenset[int]]]] = Key(
    "admin", Kind(_admin, "section", ADMIN), (None, frozenset()), "The administration socket."
)
HEALTH_KEY: Final[Key[Health | None]] = Key(
    "health", Kind(_health, "section", HEALTH), None, "A listener for probes and metrics. Absent: none."
)
ACCESS_LOG: Final[Key[Path | None]] = Key(
    "access_log", Kind(_access_log, "stdout or path", forms.TEXT), None, "Where the access log goes. Absent: `stdout`."
)
LOG_FULL: Final = Key(
    "log_full",
    kinds.choice(LogFull),
    LogFull.DROP,
    "When the access log cannot take a line: `drop` drops and counts it, `deny` refuses the request (503).",
)
DRAIN_TIMEOUT: Final = Key(
    "drain_timeout",
    kinds.duration("0s", "1h"),
    30.0,
    "How long requests in flight may take after SIGTERM. Then they are cut; exit 0 all the same.",
)
RESUMPTION: Final = Key(
    "resumption",
    kinds.choice(Resumption),
    Resumption.ALLOW,
    "Whether TLS sessions are resumed, with `allow` or `never`. A resumed handshake needs no signature of either side.",
)
WORKERS: Final = Key(
    "workers",
    kinds.number(1, 64),
    1,
    "Processes that serve, each on a core of its own; see below. Cannot change while the process runs.",
)
LIMITS_KEY: Final = Key("limits", limits.READ, limits.DEFAULTS, "Every bound of the proxy.")
TOP: Final = Table(
    "top",
    (
        VERSION,
        IDENTITY_KEY,
        INBOUND_KEY,
        OUTBOUND_KEY,
        TOKENS_KEY,
        ISSUERS_KEY,
        ADMIN_KEY,
        HEALTH_KEY,
        ACCESS_LOG,
        LOG_FULL,
        DRAIN_TIMEOUT,
        RESUMPTION,
        WORKERS,
        LIMITS_KEY,
    ),
    rules={"anyOf": [{"required": [INBOUND_KEY.name]}, {"required": [OUTBOUND_KEY.name]}]},
)
