"""The keys of an outbound entry about the token that its requests get."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.config import kinds
from sidecar.config.faults import ConfigCode, Refused
from sidecar.config.schema import Key, later

if TYPE_CHECKING:
    from sidecar.config.schema import Values

TOKEN: Final[Key[str | None]] = Key(
    "token",
    kinds.NAME,
    None,
    "A name of `tokens`: every request gets a token of that source, whatever the agent sent in its place. Not for "
    "`protocol: tcp`.",
)
TOKEN_HEADER: Final = Key(
    "token_header",
    later("sidecar.config.token_values", "TOKEN_HEADER", "field name, or name: scheme"),
    (b"Authorization", b"Bearer"),
    "The field for the token, in quotes, and its scheme: a name alone, `X-Api-Key`, gives the bare value. Only with "
    "`token`.",
)


def check(values: Values) -> None:
    """Notes which source an outbound entry names, and refuses a field for no token."""
    if token := values.get(TOKEN):
        place = values.spots[TOKEN.name]
        place.ledger.sources_used.append((token, place))
    if TOKEN_HEADER.name in values.spots and TOKEN.name not in values.spots:
        refused = Refused(
            ConfigCode.NO_TOKEN,
            "token_header is there, and no token to put into it",
            hint="add token: NAME, a name of tokens, or remove the key",
        )
        values.refuse(TOKEN_HEADER, refused)
