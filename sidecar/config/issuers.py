"""The section ``issuers``: whose tokens callers may bring."""

from __future__ import annotations

from typing import Final

from sidecar.config import kinds, urls
from sidecar.config.faults import ConfigCode, Refused
from sidecar.config.kinds import spell_duration
from sidecar.config.schema import REQUIRED, Absent, Key, Kind, Spot, Table, Values, listing, read_table
from sidecar.config.token_keys import REACH, check_reach, reach
from sidecar.config.token_values import ALGORITHM, TYP
from sidecar.tokens.settings import SELF_SIGNED, Issuer

DEFAULTS: Final = Issuer("", "", "")

NO_ALGORITHM: Final = Absent(
    ConfigCode.EMPTY_LIST, "the list is empty: no token could pass", "name at least one, or remove the key for ES256"
)

NAME: Final = Key("name", kinds.NAME, REQUIRED, f"What rules call the issuer. Unique; `{SELF_SIGNED}` is taken.")
ISSUER: Final = Key(
    "issuer", urls.ISSUER, REQUIRED, "What `iss` is in its tokens, byte for byte: a trailing slash counts."
)
JWKS: Final = Key("jwks", urls.JWKS, REQUIRED, "The URL of its keys, the only one they are ever fetched from.")
ALGORITHMS: Final = Key(
    "algorithms",
    listing(ALGORITHM, empty=NO_ALGORITHM),
    DEFAULTS.algorithms,
    "How it may sign, whatever a token says of itself: `ES256`, `ES384`, `ES512`, `RS256`, `RS384`, `RS512`, `PS256`, "
    "`PS384`, `PS512`, `EdDSA`.",
)
TYP_KEY: Final = Key(
    "typ",
    TYP,
    DEFAULTS.typ,
    "The `typ` of its access tokens. `none` for an issuer that writes none, such as Kubernetes.",
)
LEEWAY: Final = Key("leeway", kinds.duration("0s", "5m"), DEFAULTS.leeway, "How far its clock and ours may differ.")
REFRESH: Final = Key(
    "jwks_refresh", kinds.duration("1s", "24h"), DEFAULTS.jwks_refresh, "The age from which keys are fetched anew."
)
INTERVAL: Final = Key(
    "jwks_interval",
    kinds.duration("1s", "1h"),
    DEFAULTS.jwks_interval,
    "The least time between two fetches, also when a token names a key that nobody knows.",
)
MAX_AGE: Final = Key(
    "jwks_max_age",
    kinds.duration("1s", "24h"),
    DEFAULTS.jwks_max_age,
    "The age from which keys are not used, when newer ones cannot be had: 503. Not below `jwks_refresh`.",
)
ISSUERS: Final = Table("issuers", (NAME, ISSUER, JWKS, ALGORITHMS, TYP_KEY, LEEWAY, REFRESH, INTERVAL, MAX_AGE, *REACH))


def _issuer(spot: Spot) -> Issuer:
    values = read_table(spot, ISSUERS)
    if name := values.get(NAME):
        spot.ledger.issuer_names.append((name, values.spots[NAME.name]))
        if name == SELF_SIGNED:
            values.refuse(NAME, _reserved())
    check_reach(values, ISSUER, JWKS)
    _check_ages(values)
    values.settle()
    return Issuer(
        name=values[NAME],
        issuer=values[ISSUER],
        jwks=values[JWKS],
        algorithms=values[ALGORITHMS],
        typ=values[TYP_KEY],
        leeway=values[LEEWAY],
        jwks_refresh=values[REFRESH],
        jwks_interval=values[INTERVAL],
        jwks_max_age=values[MAX_AGE],
        reach=reach(values),
    )


def _reserved() -> Refused:
    return Refused(
        ConfigCode.RESERVED_NAME,
        f"{SELF_SIGNED} is how rules ask for tokens that callers sign with their own identity key",
        hint="choose another name",
    )


def _check_ages(values: Values) -> None:
    refresh, most = values.get(REFRESH), values.get(MAX_AGE)
    if refresh is not None and most is not None and most < refresh:
        # Either may be the default; the fault goes to the one that the file has.
        key = MAX_AGE if MAX_AGE.name in values.spots else REFRESH
        values.refuse(
            key,
            Refused(
                ConfigCode.OUT_OF_RANGE,
                f"jwks_max_age ({spell_duration(most)}) is below jwks_refresh ({spell_duration(refresh)})",
                hint="keys would end before newer ones are fetched: raise jwks_max_age or lower jwks_refresh",
            ),
        )


READ: Final = Kind(_issuer, "issuer", ISSUERS)
