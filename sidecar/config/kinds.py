"""The plain kinds of values: numbers, times, sizes, names, words, paths."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final, TypeVar

from sidecar.config import forms
from sidecar.config.faults import ConfigCode, Refused, quote
from sidecar.config.schema import Kind, text
from sidecar.config.yaml import Scalar

if TYPE_CHECKING:
    from enum import StrEnum
    from pathlib import Path

    from sidecar.config.schema import Spot

E = TypeVar("E", bound="StrEnum")

#: How a limit is written that there is not.
NONE: Final = "none"

_DURATION: Final = re.compile(r"([0-9]{1,9})(ms|s|m|h)")
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_SIZE: Final = re.compile(r"([0-9]{1,12})(B|KiB|MiB|GiB)")
_BYTES: Final = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "B": 1}
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,14}")
_NAME: Final = re.compile(r"[a-z0-9-]{1,63}")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}")  # RFC 9110 5.6.2, and our bound on methods
_METHODS: Final = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"}


def spell_duration(seconds: float) -> str:
    """Returns a duration in the largest unit that fits: ``30s``, ``500ms``, ``1h``; an infinite one is ``none``."""
    if math.isinf(seconds):
        return NONE
    milliseconds = round(seconds * 1000)
    if milliseconds == 0:
        return "0s"
    unit = next(unit for unit, factor in _SECONDS.items() if milliseconds % round(factor * 1000) == 0)
    return f"{milliseconds // round(_SECONDS[unit] * 1000)}{unit}"


def spell_size(size: int) -> str:
    """Returns a size in the largest unit that fits: ``64KiB``, ``240B``."""
    unit = next(unit for unit, factor in _BYTES.items() if size % factor == 0)
    return f"{size // _BYTES[unit]}{unit}"


def duration(low: str, high: str) -> Kind[float]:
    """Returns the kind of a duration within bounds, in seconds."""
    least, most = _seconds(low), _seconds(high)

    def parse(value: str) -> float:
        seconds = _seconds(value)
        if not least <= seconds <= most:
            raise Refused(ConfigCode.OUT_OF_RANGE, f"{quote(value)} is not between {low} and {high}")
        return seconds

    return text(parse, f"duration from {low} to {high}", forms.matching(_DURATION))


def _seconds(value: str) -> float:
    match = _DURATION.fullmatch(value)
    if match is None:
        raise Refused(
            ConfigCode.BAD_DURATION,
            f"{quote(value)} is not a duration",
            hint="write a whole number and its unit: 500ms, 30s, 5m or 1h",
        )
    return int(match[1]) * _SECONDS[match[2]]


def size(low: str, high: str) -> Kind[int]:
    """Returns the kind of a size within bounds, in bytes."""
    least, most = _bytes(low), _bytes(high)

    def parse(value: str) -> int:
        count = _bytes(value)
        if not least <= count <= most:
            raise Refused(ConfigCode.OUT_OF_RANGE, f"{quote(value)} is not between {low} and {high}")
        return count

    return text(parse, f"size from {low} to {high}", forms.matching(_SIZE))


def _bytes(value: str) -> int:
    match = _SIZE.fullmatch(value)
    if match is None:
        # KB and the like are left out: half of the world means 1000 by them.
        raise Refused(
            ConfigCode.BAD_SIZE,
            f"{quote(value)} is not a size",
            hint="write a whole number and its unit: 100B, 64KiB (65536 bytes), 1MiB or 1GiB",
        )
    return int(match[1]) * _BYTES[match[2]]


def number(low: int, high: int) -> Kind[int]:
    """Returns the kind of a whole number within bounds, written in decimal without quotes."""

    def read(spot: Spot) -> int:
        scalar = spot.scalar()
        if not scalar.plain or _NUMBER.fullmatch(scalar.text) is None:
            raise Refused(
                ConfigCode.BAD_NUMBER,
                f"{quote(scalar.text)} is not a whole number",
                hint="write decimal digits, without quotes, unit or leading zero",
            )
        value = int(scalar.text)
        if not low <= value <= high:
            raise Refused(ConfigCode.OUT_OF_RANGE, f"{value} is not between {low} and {high}")
        return value

    return Kind(read, f"number from {low} to {high}", forms.within(low, high))


def or_none(kind: Kind[int]) -> Kind[float]:
    """Returns a kind that also takes ``none``, without quotes: infinitely much."""

    def read(spot: Spot) -> float:
        node = spot.node
        return math.inf if isinstance(node, Scalar) and node.plain and node.text == NONE else kind.read(spot)

    return Kind(read, f"{kind.says} or none", {"anyOf": [kind.form, {"const": NONE}]})


def flag() -> Kind[bool]:
    """Returns the kind of true and false: these two words, without quotes."""

    def read(spot: Spot) -> bool:
        scalar = spot.scalar()
        if not scalar.plain or scalar.text not in {"true", "false"}:
            raise Refused(
                ConfigCode.BAD_CHOICE,
                f"{quote(scalar.text)} is neither true nor false",
                hint="write true or false, without quotes",
            )
        return scalar.text == "true"

    return Kind(read, "true or false", forms.FLAG)


def choice(options: type[E]) -> Kind[E]:
    """Returns the kind of one word out of an enum's values."""

    def parse(value: str) -> E:
        try:
            return options(value)
        except ValueError:
            known = " or ".join(options)
            raise Refused(
                ConfigCode.BAD_CHOICE, f"{quote(value)} is not one of the choices", hint=f"write {known}"
            ) from None

    return text(parse, " or ".join(options), forms.one_of(options))


def _name(value: str) -> str:
    if _NAME.fullmatch(value) is None:
        raise Refused(
            ConfigCode.BAD_NAME,
            f"{quote(value)} is not a name",
            hint="a name is 1 to 63 of the characters a-z, 0-9 and -",
        )
    return value


def _method(value: str) -> bytes:
    if _TOKEN.fullmatch(value) is None:
        raise Refused(
            ConfigCode.BAD_METHOD,
            f"{quote(value)} is not a method",
            hint="a method is a word of at most 32 characters, such as GET; leave the key out to allow any",
        )
    if value.upper() in _METHODS and value != value.upper():
        raise Refused(
            ConfigCode.BAD_METHOD,
            f"{quote(value)} never matches: case counts in methods (RFC 9110 9.1)",
            hint=f"write {value.upper()}",
        )
    if value in {"CONNECT", "TRACE"}:
        raise Refused(ConfigCode.BAD_METHOD, f"{value} is never forwarded: callers are answered 405", hint="remove it")
    return value.encode("ascii")


def _version(value: str) -> int:
    if value != "1":
        raise Refused(
            ConfigCode.BAD_VERSION, f"{quote(value)} is not a version of this format", hint="write version: 1"
        )
    return 1


def path_text(spot: Spot) -> str:
    """Returns the text of a path or URI; raises Refused for a whole PEM file pasted in its place."""
    if isinstance(spot.node, Scalar) and "-----BEGIN" in spot.node.text:
        raise Refused(
            ConfigCode.BAD_PATH,
            "PEM text stands where the path of a file is expected",
            hint="put it in a file and name the file",
        )
    return spot.text()


def _path(spot: Spot) -> Path:
    value = path_text(spot)
    check_path(value)
    return spot.base / value


def check_path(value: str) -> None:
    """Accepts a path, or raises Refused for what only a shell would make one."""
    if not value.strip() or value.startswith("~") or "$" in value:
        raise Refused(
            ConfigCode.BAD_PATH,
            f"{quote(value)} is not a path",
            hint="write the path out: ~ and $VARIABLES mean nothing here; relative paths start at this file's folder",
        )


NAME: Final = text(_name, "name of a-z, 0-9 and -", forms.matching(_NAME))
METHOD: Final = text(_method, "method", forms.matching(_TOKEN))
VERSION: Final = text(_version, "1", {"enum": [1, "1"]})
PATH: Final = Kind(_path, "path", forms.TEXT)
FLAG: Final = flag()
#: POSIX has no number for "nobody in particular"; Linux keeps 2^32 - 1 for that.
UID: Final = number(0, 2**32 - 2)
