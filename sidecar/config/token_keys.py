"""Keys that several sections about tokens share: how an issuer is reached, and how a source's tokens are kept."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from sidecar.config import kinds, urls
from sidecar.config.schema import REQUIRED, Key
from sidecar.tokens.settings import MAX_LIFETIME, Keeping, Reach

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.config.schema import Values


class Cache(StrEnum):
    """Where a token waits for the next request."""

    MEMORY = "memory"
    NONE = "none"


# --- how an issuer is reached

CA: Final[Key[Path | None]] = Key(
    "ca",
    kinds.PATH,
    None,
    "The authorities (PEM) that may vouch for the issuer's host name. Absent: the system's roots.",
)
TIMEOUT: Final = Key(
    "timeout", kinds.duration("100ms", "1m"), Reach().timeout, "How long each step on the way to the issuer may take."
)
UNSAFE_ISSUER: Final = Key(
    "unsafe_plaintext_issuer",
    kinds.FLAG,
    False,
    "Lets the issuer be reached over http://: whoever is on the way can read tokens, and make up keys.",
)
REACH: Final = (CA, TIMEOUT, UNSAFE_ISSUER)


def check_reach(values: Values, *named: Key[str]) -> None:
    """Notes the file of authorities, and refuses URLs in clear unless the section says that they are meant."""
    if ca := values.get(CA):
        place = values.spots[CA.name]
        place.ledger.lines[place.key] = place.line
        place.ledger.token_refs.cas.append((place.key, ca))
    for key in named:
        url = values.get(key)
        if url and urls.plaintext(url) and values.get(UNSAFE_ISSUER) is False:
            values.refuse(key, urls.in_clear())


def reach(values: Values) -> Reach:
    """Returns how an issuer is reached; raises Reported."""
    return Reach(values[CA], values[TIMEOUT], values[UNSAFE_ISSUER])


# --- sources, and how their tokens are kept

SOURCE_NAME: Final = Key(
    "name", kinds.NAME, REQUIRED, "What outbound entries, logs and metrics call the source. Unique."
)
MAX_LIFE: Final = Key(
    "max_lifetime",
    kinds.duration("1s", "24h"),
    MAX_LIFETIME,
    "How long a token is used at the most, also where it would live longer.",
)
CACHE: Final = Key(
    "cache",
    kinds.choice(Cache),
    Cache.MEMORY,
    "`memory` keeps a token until it is renewed; `none` obtains one for every request. None is ever written to disk.",
)
HELPER: Final = Key("helper", kinds.FLAG, False, "Lets `sidecar token` print a fresh token of this source.")


def keeping(values: Values, max_lifetime: float = MAX_LIFETIME) -> Keeping:
    """Returns how a source's tokens are kept; raises Reported."""
    return Keeping(values[CACHE] is Cache.MEMORY, max_lifetime, values[HELPER])
