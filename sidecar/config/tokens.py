"""The section ``tokens``: sources of tokens for outbound entries, a table of keys for each kind."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from sidecar.config import forms, kinds, oauth2
from sidecar.config.faults import ConfigCode, below
from sidecar.config.schema import (
    REQUIRED,
    Absent,
    Key,
    Kind,
    Reported,
    Spot,
    Table,
    attempt,
    listing,
    missing,
    read_table,
)
from sidecar.config.token_keys import CACHE, HELPER, MAX_LIFE, keeping
from sidecar.config.token_keys import SOURCE_NAME as NAME
from sidecar.config.token_values import AUDIENCE, NO_AUDIENCE
from sidecar.tokens.settings import SELF_SIGNED_SECONDS, ExecSource, FileSource, OAuth2Source, SelfSignedSource

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sidecar.config.schema import Values
    from sidecar.tokens.settings import SourceSettings


class SourceKind(StrEnum):
    """Where tokens come from."""

    OAUTH2 = OAuth2Source.kind
    SELF_SIGNED = SelfSignedSource.kind
    FILE = FileSource.kind
    EXEC = ExecSource.kind


NO_COMMAND: Final = Absent(
    ConfigCode.EMPTY_LIST, "the list is empty", "name the program: [get-token, --audience, tools]"
)


_WORDS: Final = listing(Kind(Spot.text, "text", forms.TEXT), empty=NO_COMMAND, distinct=False)


def _command(spot: Spot) -> tuple[str, ...]:
    program, *arguments = _WORDS.read(spot)
    kinds.check_path(program)
    # A name is looked up in PATH; a path starts, like every other, at the folder of the file.
    return (str(spot.base / program) if "/" in program else program, *arguments)


KIND: Final = Key("kind", kinds.choice(SourceKind), REQUIRED, "Where tokens come from.")
TOKEN_AUDIENCE: Final = Key(
    "audience", AUDIENCE, REQUIRED, "The one service that the token is for.", absent=NO_AUDIENCE
)
LIFETIME: Final = Key("lifetime", kinds.duration("10s", "5m"), SELF_SIGNED_SECONDS, "How long each token lives.")
TOKEN_PATH: Final = Key(
    "path", kinds.PATH, REQUIRED, "The file that something else writes and rotates. It need not be there yet."
)
COMMAND: Final = Key(
    "command",
    Kind(_command, "list of text", _WORDS.form),
    REQUIRED,
    "A program, by its path or its name in `PATH`, and its arguments. No shell reads them; no secret belongs there.",
)
EXEC_TIMEOUT: Final = Key(
    "timeout", kinds.duration("100ms", "5m"), ExecSource("", ()).timeout, "How long the program may take."
)

#: The keys of each kind, beside name and kind.
_KEYS: Final[Mapping[SourceKind, tuple[Key[Any], ...]]] = {
    SourceKind.OAUTH2: oauth2.KEYS,
    SourceKind.SELF_SIGNED: (TOKEN_AUDIENCE, LIFETIME, CACHE, HELPER),
    SourceKind.FILE: (TOKEN_PATH, MAX_LIFE, CACHE, HELPER),
    SourceKind.EXEC: (COMMAND, EXEC_TIMEOUT, MAX_LIFE, CACHE, HELPER),
}


def _table(kind: SourceKind) -> Table:
    owners: dict[str, list[str]] = {}
    for other, keys in _KEYS.items():
        for key in keys:
            owners.setdefault(key.name, []).append(f"kind: {other}")
    own = Key(KIND.name, Kind(KIND.kind.read, kind.value, {"const": kind.value}), REQUIRED, KIND.doc)
    elsewhere = {name: " or ".join(found) for name, found in owners.items() if f"kind: {kind}" not in found}
    return Table(f"tokens.{kind}", (NAME, own, *_KEYS[kind]), elsewhere)


TABLES: Final[Mapping[SourceKind, Table]] = {kind: _table(kind) for kind in SourceKind}


def _self_signed(_: Spot, values: Values) -> SelfSignedSource:
    values.settle()
    return SelfSignedSource(values[NAME], values[TOKEN_AUDIENCE], values[LIFETIME], keeping(values))


def _file(_: Spot, values: Values) -> FileSource:
    values.settle()
    return FileSource(values[NAME], values[TOKEN_PATH], keeping(values, values[MAX_LIFE]))


def _exec(_: Spot, values: Values) -> ExecSource:
    values.settle()
    return ExecSource(values[NAME], values[COMMAND], values[EXEC_TIMEOUT], keeping(values, values[MAX_LIFE]))


_MAKERS: Final[Mapping[SourceKind, Callable[[Spot, Values], SourceSettings]]] = {
    SourceKind.OAUTH2: oauth2.read,
    SourceKind.SELF_SIGNED: _self_signed,
    SourceKind.FILE: _file,
    SourceKind.EXEC: _exec,
}


def _source(spot: Spot) -> SourceSettings:
    kind = _kind(spot)
    values = read_table(spot, TABLES[kind])
    if name := values.get(NAME):
        spot.ledger.source_names.append((name, values.spots[NAME.name]))
    return _MAKERS[kind](spot, values)


def _kind(spot: Spot) -> SourceKind:
    """Returns the kind of a source; raises Reported where it has none: nobody can say which other keys it may have."""
    entries = dict(spot.entries())
    found: list[SourceKind] = []
    if KIND.name not in entries:
        missing(spot, KIND, below(spot.key, KIND.name))
    elif attempt(entries[KIND.name], KIND.kind, found):
        return found[0]
    names: list[str] = []
    if NAME.name in entries and attempt(entries[NAME.name], NAME.kind, names):
        spot.ledger.source_names.append((names[0], entries[NAME.name]))
    raise Reported


READ: Final = Kind(_source, "source", tuple(TABLES.values()))
