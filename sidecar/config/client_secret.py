"""The key ``client_secret``: where a client secret is, never the secret itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sidecar.config import forms, kinds
from sidecar.config.faults import ConfigCode, Refused
from sidecar.config.schema import Key, Kind, Spot, Table, read_table, text
from sidecar.config.yaml import Scalar, Sequence
from sidecar.tokens.settings import SecretRef

if TYPE_CHECKING:
    from pathlib import Path

#: What a shell can set (POSIX.1-2024, XBD 3.216).
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


def _variable(value: str) -> str:
    if _VARIABLE.fullmatch(value) is None:
        # Not quoted: whoever mistakes the key for the place of the secret has written it here.
        raise Refused(
            ConfigCode.BAD_NAME,
            "this is not the name of an environment variable (not shown)",
            hint="write the name alone: TOOLS_SECRET",
        )
    return value


FILE: Final[Key[Path | None]] = Key(
    "file", kinds.PATH, None, "A file with the secret in one line, as closed to others as the file of a key."
)
ENV: Final[Key[str | None]] = Key(
    "env",
    text(_variable, "name", forms.matching(_VARIABLE)),
    None,
    "The environment variable of `sidecar` that holds the secret.",
)
CLIENT_SECRET: Final = Table("client_secret", (FILE, ENV), rules={"minProperties": 1, "maxProperties": 1})


def _read(spot: Spot) -> SecretRef:
    if isinstance(spot.node, (Scalar, Sequence)) and not spot.empty:
        raise Refused(
            ConfigCode.SECRET,
            "a client secret stands in the configuration file, or something in its place",
            hint="keep it in a file of mode 0600, and write {file: PATH}; who could read this file has it: make a new one",
        )
    if any(name not in {FILE.name, ENV.name} for name, _ in spot.entries()):
        # Not shown, for the same reason: {hunter2} is a mapping with that key.
        raise Refused(ConfigCode.UNKNOWN_KEY, "a key is neither file nor env", hint="write {file: PATH} or {env: NAME}")
    values = read_table(spot, CLIENT_SECRET)
    values.settle()
    if len(values.spots) != 1:
        raise Refused(
            ConfigCode.WRONG_TYPE, "exactly one of file and env is needed", hint="write {file: PATH} or {env: NAME}"
        )
    found = SecretRef(values[FILE], values[ENV])
    (place,) = values.spots.values()
    spot.ledger.lines[place.key] = place.line
    spot.ledger.token_refs.secrets.append((place.key, found))
    return found


READ: Final = Kind(_read, "section", CLIENT_SECRET)
