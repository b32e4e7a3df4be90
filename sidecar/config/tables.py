"""Every section of the format, in the order of the reference: also those that are loaded when a file has them."""

from __future__ import annotations

from typing import Final

from sidecar.config import client_secret, entries, issuers, limits, sections, token_rule, tokens

TABLES: Final = (
    sections.TOP,
    sections.IDENTITY,
    entries.INBOUND,
    entries.ALLOW_RULE,
    token_rule.TOKEN,
    entries.OUTBOUND,
    *tokens.TABLES.values(),
    client_secret.CLIENT_SECRET,
    issuers.ISSUERS,
    sections.ADMIN,
    sections.HEALTH,
    limits.LIMITS,
)
