from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config import kinds
from sidecar.config.faults import ConfigCode, Faults
from sidecar.config.schema import Kind, Ledger, Spot
from sidecar.config.values import LogFull
from sidecar.config.yaml import Scalar
from sidecar.errors import SidecarError

if TYPE_CHECKING:
    from enum import StrEnum

BASE = Path("/etc/sidecar")


def spot(text: str, *, plain: bool = True) -> Spot:
    return Spot(Scalar(text, plain, 1), "key", 1, Faults(BASE / "x.yaml"), BASE, {}, Ledger())


def read(kind: Kind[Any], text: str, *, plain: bool = True) -> Any:
    return kind.read(spot(text, plain=plain))


def refused(kind: Kind[Any], text: str, *, plain: bool = True) -> tuple[StrEnum, str]:
    with pytest.raises(SidecarError) as caught:
        read(kind, text, plain=plain)
    return caught.value.code, str(caught.value)


DURATION = kinds.duration("500ms", "1h")
SIZE = kinds.size("1B", "1GiB")
NUMBER = kinds.number(1, 100)


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("30s", 30.0), ("5m", 300.0), ("1h", 3600.0), ("60m", 3600.0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert read(DURATION, text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["30", "1.5s", "1d", "s", "-1s", "1 s", "1S", "1m30s", "\uff11s", "9" * 10 + "s", "127:00"]
)
def test_what_is_not_a_duration(text: str) -> None:
    assert refused(DURATION, text) == (ConfigCode.BAD_DURATION, f'"{text}" is not a duration')


@pytest.mark.parametrize("text", ["0s", "499ms", "3601s", "999999999h"])
def test_durations_have_bounds(text: str) -> None:
    assert refused(DURATION, text) == (ConfigCode.OUT_OF_RANGE, f'"{text}" is not between 500ms and 1h')


@pytest.mark.parametrize(("text", "count"), [("100B", 100), ("64KiB", 65536), ("1MiB", 2**20), ("1GiB", 2**30)])
def test_sizes(text: str, count: int) -> None:
    assert read(SIZE, text) == count


@pytest.mark.parametrize("text", ["64", "64KB", "64K", "64kib", "1.5MiB", "-1B", "0x10B", "1 MiB", "1TiB"])
def test_what_is_not_a_size(text: str) -> None:
    assert refused(SIZE, text) == (ConfigCode.BAD_SIZE, f'"{text}" is not a size')


@pytest.mark.parametrize("text", ["0B", "2GiB"])
def test_sizes_have_bounds(text: str) -> None:
    assert refused(SIZE, text) == (ConfigCode.OUT_OF_RANGE, f'"{text}" is not between 1B and 1GiB')


@given(st.integers(0, 10**9 - 1))
def test_spelled_durations_read_back(milliseconds: int) -> None:
    """Invariant: a duration as it is shown is one that reads as the same time."""
    kind = kinds.duration("0s", "999999999h")
    assert round(read(kind, kinds.spell_duration(milliseconds / 1000)) * 1000) == milliseconds


@given(st.integers(0, 2**39))
def test_spelled_sizes_read_back(size: int) -> None:
    """Invariant: a size as it is shown is one that reads as the same number of bytes."""
    assert read(kinds.size("0B", "999GiB"), kinds.spell_size(size)) == size


@pytest.mark.parametrize(
    ("seconds", "text"), [(30.0, "30s"), (0.5, "500ms"), (90.0, "90s"), (60.0, "1m"), (3600.0, "1h"), (0.0, "0s")]
)
def test_durations_are_spelled_in_the_largest_unit(seconds: float, text: str) -> None:
    assert kinds.spell_duration(seconds) == text


def test_numbers() -> None:
    assert read(NUMBER, "42") == 42


@pytest.mark.parametrize("text", ["0x10", "0o7", "1_0", "1.0", "1e2", "007", "+1", "-1", "yes", "\uff11", "9" * 16])
def test_what_is_not_a_number(text: str) -> None:
    assert refused(NUMBER, text) == (ConfigCode.BAD_NUMBER, f'"{text}" is not a whole number')


def test_a_number_in_quotes_is_text() -> None:
    assert refused(NUMBER, "42", plain=False)[0] is ConfigCode.BAD_NUMBER


@pytest.mark.parametrize("text", ["0", "101"])
def test_numbers_have_bounds(text: str) -> None:
    assert refused(NUMBER, text) == (ConfigCode.OUT_OF_RANGE, f"{text} is not between 1 and 100")


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False)])
def test_flags(text: str, value: bool) -> None:
    assert read(kinds.FLAG, text) is value


@pytest.mark.parametrize(("text", "plain"), [("yes", True), ("on", True), ("True", True), ("1", True), ("true", False)])
def test_yaml_has_too_many_spellings_of_true(text: str, plain: bool) -> None:
    assert refused(kinds.FLAG, text, plain=plain) == (ConfigCode.BAD_CHOICE, f'"{text}" is neither true nor false')


def test_choices() -> None:
    kind = kinds.choice(LogFull)
    assert read(kind, "deny") is LogFull.DENY
    assert refused(kind, "Drop") == (ConfigCode.BAD_CHOICE, '"Drop" is not one of the choices')


@pytest.mark.parametrize("text", ["a", "tools-2", "0", "-", "x" * 63])
def test_names(text: str) -> None:
    assert read(kinds.NAME, text) == text


@pytest.mark.parametrize("text", ["Tools", "a_b", "a.b", "x" * 64, "a b", "ä"])
def test_what_is_not_a_name(text: str) -> None:
    code, message = refused(kinds.NAME, text)
    assert code is ConfigCode.BAD_NAME
    assert message.endswith("is not a name")


@pytest.mark.parametrize("text", ["GET", "PROPFIND", "M-SEARCH", "x", "X" * 32])
def test_methods(text: str) -> None:
    assert read(kinds.METHOD, text) == text.encode()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("GET POST", '"GET POST" is not a method'),
        ("G:T", '"G:T" is not a method'),
        ("X" * 33, f'"{"X" * 33}" is not a method'),
        ("get", '"get" never matches: case counts in methods (RFC 9110 9.1)'),
        ("Connect", '"Connect" never matches: case counts in methods (RFC 9110 9.1)'),
        ("CONNECT", "CONNECT is never forwarded: callers are answered 405"),
        ("TRACE", "TRACE is never forwarded: callers are answered 405"),
    ],
)
def test_what_is_not_a_method_to_allow(text: str, message: str) -> None:
    assert refused(kinds.METHOD, text) == (ConfigCode.BAD_METHOD, message)


@pytest.mark.parametrize("text", ["2", "1.0", "01", "one"])
def test_other_versions(text: str) -> None:
    assert refused(kinds.VERSION, text) == (ConfigCode.BAD_VERSION, f'"{text}" is not a version of this format')


@pytest.mark.parametrize(("text", "path"), [("a/b", "/etc/sidecar/a/b"), ("/x", "/x"), ("../x", "/etc/sidecar/../x")])
def test_paths_start_at_the_folder_of_the_file(text: str, path: str) -> None:
    assert str(read(kinds.PATH, text)) == path


@pytest.mark.parametrize("text", ["~/tls.crt", "$HOME/tls.crt", "${X}", " "])
def test_paths_are_not_expanded(text: str) -> None:
    assert refused(kinds.PATH, text) == (ConfigCode.BAD_PATH, f'"{text}" is not a path')


def test_pem_text_is_no_path() -> None:
    code, message = refused(kinds.PATH, "-----BEGIN CERTIFICATE-----\nMIIB\n", plain=False)
    assert (code, message) == (ConfigCode.BAD_PATH, "PEM text stands where the path of a file is expected")


@pytest.mark.parametrize("character", ["\0", "\n", "\t", "\x1b", "\u200b", "\ud800", "\u2028"])
def test_values_are_one_line_of_printable_characters(character: str) -> None:
    for kind in (kinds.PATH, kinds.NAME, DURATION, NUMBER, kinds.FLAG):
        assert refused(kind, f"a{character}b", plain=False)[0] is ConfigCode.BAD_CHARACTER


@pytest.mark.parametrize("text", ["", "~", "null", "NULL"])
def test_a_key_without_a_value(text: str) -> None:
    assert refused(kinds.PATH, text) == (ConfigCode.NO_VALUE, "the key has no value")
