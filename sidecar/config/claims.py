"""Values that the claims of a token must have: nested mappings of plain values."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from sidecar.config.faults import ConfigCode, Refused
from sidecar.config.schema import Kind, Reported, Spot, attempt
from sidecar.config.yaml import Mapping

if TYPE_CHECKING:
    from sidecar.config import forms
    from sidecar.tokens.requirement import Scalar

#: The names on the way to a claim.
Path: TypeAlias = tuple[str, ...]
Claims: TypeAlias = "tuple[tuple[Path, Scalar], ...]"

#: Exact in every JSON library (RFC 8259 6).
_WHOLE: Final = re.compile(r"0|-?[1-9][0-9]{0,14}")
#: What YAML, in one version or another, takes for something else than text.
_AMBIGUOUS: Final = re.compile(
    r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:e[-+]?[0-9]+)?|0[xo][0-9a-f_]+|[-+]?\.(?:inf|nan)"
    r"|yes|no|on|off|true|false",
    re.IGNORECASE,
)


def _leaf(spot: Spot) -> Scalar:
    scalar = spot.scalar()
    if not scalar.plain:
        return scalar.text
    if scalar.text in {"true", "false"}:
        return scalar.text == "true"
    if _WHOLE.fullmatch(scalar.text):
        return int(scalar.text)
    if _AMBIGUOUS.fullmatch(scalar.text):
        raise Refused(
            ConfigCode.BAD_CLAIM,
            "this could be text or something else",
            hint="write text in quotes, a whole number in digits, or true or false",
        )
    return scalar.text


LEAF: Final = Kind(_leaf, "text, whole number, true or false")


def _collect(path: Path, spot: Spot) -> list[tuple[Path, Scalar]]:
    """Returns the leaves below a mapping; raises Refused, or Reported once all its faults are in the list."""
    entries = spot.entries()
    if not entries:
        raise Refused(
            ConfigCode.EMPTY_LIST, "no claim is named", hint="name at least one and its value, or remove the key"
        )
    found: list[tuple[Path, Scalar]] = []
    sound = True
    for name, place in entries:
        below = (*path, name)
        if isinstance(place.node, Mapping):
            parts: list[list[tuple[Path, Scalar]]] = []
            sound = attempt(place, Kind(partial(_collect, below), ""), parts) and sound
            found += [leaf for part in parts for leaf in part]
        else:
            leaves: list[Scalar] = []
            sound = attempt(place, LEAF, leaves) and sound
            found += [(below, leaf) for leaf in leaves]
    if not sound:
        raise Reported
    return found


def _read(spot: Spot) -> Claims:
    return tuple(sorted(_collect((), spot), key=lambda leaf: leaf[0]))


#: A claim within a claim is written as the whole is.
_FORM: Final[forms.Fragment] = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {
        "anyOf": [{"type": ["string", "integer", "boolean"]}, {"$ref": "#/$defs/allow.token/properties/claims"}]
    },
}
CLAIMS: Final = Kind(_read, "mapping of claim to value", _FORM)
