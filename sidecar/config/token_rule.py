"""The key ``token`` of an allow rule: what the token that comes with a request must say."""

from __future__ import annotations

from typing import Final

from sidecar.config import forms, kinds
from sidecar.config.claims import CLAIMS
from sidecar.config.faults import ConfigCode, Refused, quote
from sidecar.config.schema import REQUIRED, Key, Kind, Reported, Spot, Table, attempt, listing, read_table, some
from sidecar.config.token_values import AUDIENCE, CLAIM_NAME, NO_AUDIENCE, SCOPE, field_name
from sidecar.config.yaml import Scalar
from sidecar.errors import SidecarError
from sidecar.http.fields import fold
from sidecar.tokens.requirement import Requirement
from sidecar.tokens.settings import MAX_LIFETIME, SELF_SIGNED

_AUDIENCES: Final = listing(AUDIENCE, empty=NO_AUDIENCE)


def _audience(spot: Spot) -> frozenset[str]:
    if isinstance(spot.node, Scalar):
        return frozenset((AUDIENCE.read(spot),))
    return frozenset(_AUDIENCES.read(spot))


def _headers(spot: Spot) -> tuple[tuple[bytes, str], ...]:
    entries = spot.entries()
    if not entries:
        raise Refused(ConfigCode.EMPTY_LIST, "no field is named", hint="name at least one, or remove the key")
    found: list[tuple[bytes, str]] = []
    seen: dict[bytes, str] = {}
    sound = True
    for name, place in entries:
        claims: list[str] = []
        sound = attempt(place, CLAIM_NAME, claims) and sound
        try:
            field = field_name(name)
            _check_new(fold(field.lower()), name, seen)
        except SidecarError as error:
            place.refuse(error)
            sound = False
        else:
            found += [(field, claim) for claim in claims]
    if not sound:
        raise Reported
    return tuple(found)


def _check_new(folded: bytes, name: str, seen: dict[bytes, str]) -> None:
    """Refuses a second name for what is one field to the server behind."""
    first = seen.setdefault(folded, name)
    if first is not name:
        raise Refused(
            ConfigCode.DUPLICATE_ITEM,
            f"{quote(name)} and {quote(first)} are one field to most servers",
            hint="leave one",
        )


ISSUER: Final = Key(
    "issuer",
    kinds.NAME,
    REQUIRED,
    f"A name of `issuers`, or `{SELF_SIGNED}` for tokens that callers sign with their own identity key.",
)
AUDIENCE_KEY: Final = Key(
    "audience",
    Kind(
        _audience,
        "text or list of text",
        {"anyOf": [forms.TEXT, {"type": "array", "items": forms.TEXT, "minItems": 1, "uniqueItems": True}]},
    ),
    REQUIRED,
    "The token's one audience is one of these, byte for byte.",
    absent=NO_AUDIENCE,
)
SCOPES: Final = Key(
    "scopes",
    listing(SCOPE, empty=some("no scope is asked for")),
    (),
    "The token has all of these. One that lacks nothing else is 403. Absent: none is asked for.",
)
CLAIMS_KEY: Final = Key(
    "claims",
    CLAIMS,
    (),
    "The token's claims have these values, equal in type too; a claim within a claim is written below it.",
)
MAX_LIFE: Final = Key(
    "max_lifetime",
    kinds.duration("1s", "24h"),
    MAX_LIFETIME,
    "A token that lives longer, from `iat` to `exp`, is refused.",
)
BOUND: Final = Key(
    "bound",
    kinds.FLAG,
    True,
    "The token must name the caller's certificate (RFC 8705 3.1). One that names another is refused in any case.",
)
PASS_TOKEN: Final = Key(
    "pass_token", kinds.FLAG, False, "The server behind gets the token too. Otherwise `Authorization` is removed."
)
HEADERS: Final = Key(
    "headers",
    Kind(_headers, "mapping of field name to claim", forms.mapping(forms.TEXT, forms.TEXT)),
    (),
    "Fields in which the server behind gets claims of the token. What callers send in them is removed.",
)
TOKEN: Final = Table("allow.token", (ISSUER, AUDIENCE_KEY, SCOPES, CLAIMS_KEY, MAX_LIFE, BOUND, PASS_TOKEN, HEADERS))


def _requirement(spot: Spot) -> Requirement:
    values = read_table(spot, TOKEN)
    if issuer := values.get(ISSUER):
        spot.ledger.issuers_used.append((issuer, values.spots[ISSUER.name]))
    values.settle()
    return Requirement(
        key="",  # the rule's, once it has a name
        issuer=values[ISSUER],
        audience=values[AUDIENCE_KEY],
        scopes=frozenset(values[SCOPES]),
        claims=values[CLAIMS_KEY],
        max_lifetime=values[MAX_LIFE],
        bound=values[BOUND],
        pass_token=values[PASS_TOKEN],
        headers=values[HEADERS],
    )


READ: Final = Kind(_requirement, "section", TOKEN)
