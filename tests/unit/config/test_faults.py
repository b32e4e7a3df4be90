from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.config.faults import (
    MOST,
    ConfigCode,
    Fault,
    Faults,
    InvalidConfiguration,
    Refused,
    below,
    printable,
    quote,
)
from sidecar.config.files import Snapshot
from sidecar.errors import ConfigurationError

FILE = Path("planner.yaml")


def test_a_fault_reads_as_file_line_key_message_and_hint() -> None:
    fault = Fault(ConfigCode.BAD_NAME, FILE, 3, "inbound[0].name", '"X" is not a name', "write x")
    assert str(fault) == 'planner.yaml:3: inbound[0].name: "X" is not a name\n    write x'


def test_what_a_fault_does_not_have_is_left_out() -> None:
    assert str(Fault(ConfigCode.FILE_MISSING, FILE, 0, "", "does not exist")) == "planner.yaml: does not exist"


def test_faults_come_in_the_order_of_the_file() -> None:
    faults = Faults(FILE)
    for line in (7, 0, 3):
        faults.add(ConfigCode.BAD_NAME, "m", line=line)
    assert [fault.line for fault in faults.sorted()] == [0, 3, 7]


def test_faults_are_bounded_and_the_rest_is_counted() -> None:
    faults = Faults(FILE)
    for line in range(MOST + 7):
        assert faults.full is (line >= MOST)
        faults.add(ConfigCode.BAD_NAME, "m" * 10_000, line=line)
    assert (len(faults.found), faults.left_out) == (MOST, 7)
    assert max(len(fault.message) for fault in faults.found) <= 500


def test_a_refusal_keeps_its_code_and_hint() -> None:
    faults = Faults(FILE)
    faults.refuse(Refused(ConfigCode.BAD_PATH, "no", hint="do"), line=2, key="a")
    assert faults.found == [Fault(ConfigCode.BAD_PATH, FILE, 2, "a", "no", "do")]


@pytest.mark.parametrize(("count", "left_out", "text"), [(1, 0, "1 fault,"), (2, 0, "2 faults,"), (1, 5, "6 faults,")])
def test_the_error_counts_and_names_the_first(count: int, left_out: int, text: str) -> None:
    fault = Fault(ConfigCode.BAD_NAME, FILE, 3, "", "first")
    error = InvalidConfiguration((fault,) * count, Snapshot(), left_out=left_out)
    assert isinstance(error, ConfigurationError)
    assert (error.code, error.left_out, len(error.faults)) == (ConfigCode.INVALID, left_out, count)
    assert str(error) == f"planner.yaml: {text} the first: first"
    assert error.hint == "sidecar check planner.yaml"


def test_values_are_shown_escaped_and_cut() -> None:
    assert quote("a\x1b[31m\n\u202eb") == r'"a\x1b[31m\n\u202eb"'
    assert quote("x" * 100) == f'"{"x" * 60}…"'
    assert quote("ümläut") == '"ümläut"'
    assert printable("a\udcff") == r"a\udcff"


@pytest.mark.threat(60)
@pytest.mark.parametrize(
    "text", ["-----BEGIN PRIVATE KEY-----\nMIG", "-----BEGIN EC PRIVATE KEY-----", "x?PIN-VALUE=1234"]
)
def test_threat_60_a_secret_is_never_shown(text: str) -> None:
    assert quote(text) == "a secret (not shown)"


@pytest.mark.parametrize(
    ("path", "key", "expected"),
    [
        ("", "a", "a"),
        ("a[0]", "b", "a[0].b"),
        ("a", "x y", 'a."x y"'),
        ("a", "\x1b", r'a."\x1b"'),
        ("a", "b.org", "a.b.org"),
    ],
)
def test_key_paths(path: str, key: str, expected: str) -> None:
    assert below(path, key) == expected
