"""A source of ``kind: oauth2``: tokens that an issuer gives us for our client credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.config import client_secret, kinds, urls
from sidecar.config.faults import ConfigCode, below
from sidecar.config.schema import REQUIRED, Key, listing, misplaced, some
from sidecar.config.token_keys import CACHE, HELPER, MAX_LIFE, REACH, SOURCE_NAME, check_reach, keeping, reach
from sidecar.config.token_values import AUDIENCE, SCOPE, VISIBLE
from sidecar.tokens.settings import ClientAuth, OAuth2Source

if TYPE_CHECKING:
    from sidecar.config.schema import Spot, Values
    from sidecar.tokens.settings import SecretRef

#: The ways that show a static secret.
SECRET_AUTH: Final = (ClientAuth.SECRET_BASIC, ClientAuth.SECRET_POST)

ISSUER: Final = Key(
    "issuer", urls.ISSUER, REQUIRED, "Byte for byte what its metadata (RFC 8414) calls it: a trailing slash counts."
)
CLIENT_AUTH: Final = Key(
    "client_auth",
    kinds.choice(ClientAuth),
    REQUIRED,
    "How we prove who we are: our certificate (RFC 8705), a signature by our key (RFC 7523), or a secret, which is a "
    "known gap.",
)
CLIENT_ID: Final[Key[str | None]] = Key("client_id", VISIBLE, None, "Absent: our SPIFFE ID.")
CLIENT_SECRET: Final[Key[SecretRef | None]] = Key(
    "client_secret",
    client_secret.READ,
    None,
    "Where the secret is. Only with `client_secret_basic` and `client_secret_post`, which need it.",
)
SCOPES: Final = Key(
    "scopes", listing(SCOPE, empty=some("the issuer decides")), (), "What to ask for. Absent: the issuer decides."
)
RESOURCE: Final[Key[str | None]] = Key(
    "resource", urls.RESOURCE, None, "The service that the token is for (RFC 8707), without a fragment."
)
TOKEN_AUDIENCE: Final[Key[str | None]] = Key(
    "audience", AUDIENCE, None, "What some issuers ask for beside or instead of `resource`; of no standard."
)
ASSERTION_AUDIENCE: Final[Key[str | None]] = Key(
    "assertion_audience", AUDIENCE, None, "Whom assertions are for. Absent: `issuer`. Only with `private_key_jwt`."
)
KEY_ID: Final[Key[str | None]] = Key(
    "key_id", VISIBLE, None, "The `kid` of assertions. Absent: they have none. Only with `private_key_jwt`."
)
BOUND: Final = Key(
    "bound", kinds.FLAG, True, "Asks for a token that is bound to our certificate (RFC 8705 3), and uses no other."
)

#: Beside name and kind.
KEYS: Final = (
    ISSUER,
    CLIENT_AUTH,
    CLIENT_ID,
    CLIENT_SECRET,
    SCOPES,
    RESOURCE,
    TOKEN_AUDIENCE,
    ASSERTION_AUDIENCE,
    KEY_ID,
    BOUND,
    *REACH,
    MAX_LIFE,
    CACHE,
    HELPER,
)


def read(spot: Spot, values: Values) -> OAuth2Source:
    """Returns the source that a section describes; raises Reported once its faults are in the list."""
    check_reach(values, ISSUER)
    auth = values.get(CLIENT_AUTH)
    if auth is not None:
        _check_auth(spot, values, auth)
    values.settle()
    return OAuth2Source(
        name=values[SOURCE_NAME],
        issuer=values[ISSUER],
        client_auth=values[CLIENT_AUTH],
        client_id=values[CLIENT_ID],
        client_secret=values[CLIENT_SECRET],
        scopes=values[SCOPES],
        resource=values[RESOURCE],
        audience=values[TOKEN_AUDIENCE],
        assertion_audience=values[ASSERTION_AUDIENCE],
        key_id=values[KEY_ID],
        bound=values[BOUND],
        reach=reach(values),
        keeping=keeping(values, values[MAX_LIFE]),
    )


def _check_auth(spot: Spot, values: Values, auth: ClientAuth) -> None:
    """Refuses what the chosen way to prove who we are does not use, and misses the secret that it needs."""
    for key in (ASSERTION_AUDIENCE, KEY_ID):
        if auth is not ClientAuth.PRIVATE_KEY_JWT and key.name in values.spots:
            values.refuse(key, misplaced(key.name, f"client_auth: {ClientAuth.PRIVATE_KEY_JWT}"))
    if CLIENT_SECRET.name in values.spots:
        if auth not in SECRET_AUTH:
            values.refuse(CLIENT_SECRET, misplaced(CLIENT_SECRET.name, f"client_auth: {' or '.join(SECRET_AUTH)}"))
    elif auth in SECRET_AUTH:
        spot.faults.add(
            ConfigCode.MISSING_KEY,
            f"{auth} needs a client secret",
            line=spot.line,
            key=below(spot.key, CLIENT_SECRET.name),
            hint="add client_secret: {file: PATH}, or better: prove who we are with tls_client_auth",
        )
        values.complete = False
