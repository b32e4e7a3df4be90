"""Whether sources and issuers that entries and rules name are there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.config import sections
from sidecar.config.faults import ConfigCode, Refused, quote
from sidecar.config.yaml import Sequence
from sidecar.tokens.settings import SELF_SIGNED, OAuth2Source, SelfSignedSource

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.config.schema import Key, Ledger, Spot, Values
    from sidecar.tokens.settings import SourceSettings


def check_tokens(ledger: Ledger, values: Values) -> None:
    """Refuses names of sources and issuers that the file does not have. One that nothing names is fine."""
    if _all_named(values, sections.TOKENS_KEY, ledger.source_names):
        known = {name for name, _ in ledger.source_names}
        _check(ledger.sources_used, known, ConfigCode.UNKNOWN_TOKEN, "tokens has no source")
    _check_public(ledger, values.get(sections.TOKENS_KEY) or ())
    if _all_named(values, sections.ISSUERS_KEY, ledger.issuer_names):
        known = {SELF_SIGNED, *(name for name, _ in ledger.issuer_names)}
        _check(ledger.issuers_used, known, ConfigCode.UNKNOWN_ISSUER, "issuers has no issuer")


def _check_public(ledger: Ledger, sources: Iterable[SourceSettings]) -> None:
    """Refuses tokens for ordinary HTTPS services that count only on a connection with our certificate."""
    bound = {
        source.name: "add bound: false to the source"
        for source in sources
        if isinstance(source, OAuth2Source) and source.bound
    } | {
        source.name: "use a source of kind oauth2, file or exec"
        for source in sources
        if isinstance(source, SelfSignedSource)
    }
    for name, spot in ledger.public_tokens:
        if name in bound:
            message = (
                f"tokens of {quote(name)} are bound to our certificate, which an ordinary HTTPS service never sees"
            )
            spot.refuse(Refused(ConfigCode.BOUND_TOKEN, message, hint=bound[name]))


def _all_named(values: Values, key: Key[Any], names: list[tuple[str, Spot]]) -> bool:
    """Says whether every name of a section could be read: else one that seems to be missing may be there."""
    place = values.spots.get(key.name)
    return place is None or (isinstance(place.node, Sequence) and len(place.node.items) == len(names))


def _check(used: Iterable[tuple[str, Spot]], known: set[str], code: ConfigCode, message: str) -> None:
    for name, spot in used:
        if name not in known:
            hint = f"known are {', '.join(sorted(known))}" if known else "add it, or correct the name"
            spot.refuse(Refused(code, f"{message} {quote(name)}", hint=hint))
