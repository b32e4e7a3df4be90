from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidecar.config.claims import CLAIMS
from sidecar.config.faults import ConfigCode, Faults, Refused
from sidecar.config.schema import Ledger, Reported, Spot
from sidecar.config.yaml import compose


def at(document: str) -> Spot:
    faults = Faults(Path("/x.yaml"))
    node = compose(document.encode(), faults)
    assert node is not None
    return Spot(node, "claims", 1, faults, Path("/"), {}, Ledger())


def values(document: str) -> list[tuple[tuple[str, ...], Any, type]]:
    return [(path, value, type(value)) for path, value in CLAIMS.read(at(document))]


def test_values_keep_their_type_and_stand_in_one_order() -> None:
    document = """
kubernetes.io:
  serviceaccount: {name: planner}
  namespace: default
department: finance
level: 3
below: -1
admin: true
intern: false
"t": "true"
n: '3'
e: ""
url: https://a.b
zero: 0
"""
    assert values(document) == [
        (("admin",), True, bool),
        (("below",), -1, int),
        (("department",), "finance", str),
        (("e",), "", str),
        (("intern",), False, bool),
        (("kubernetes.io", "namespace"), "default", str),
        (("kubernetes.io", "serviceaccount", "name"), "planner", str),
        (("level",), 3, int),
        (("n",), "3", str),
        (("t",), "true", str),
        (("url",), "https://a.b", str),
        (("zero",), 0, int),
    ]


@pytest.mark.parametrize(
    "value",
    ["1.5", "-0", "+1", "01", "1_000", "1e3", ".5", "5.", "0x1F", "0o17", ".inf", "-.INF", ".nan", "True", "FALSE", "yes",
     "No", "on", "OFF", "1" * 16],
)  # fmt: skip
def test_what_could_be_text_or_not_has_to_say_which(value: str) -> None:
    spot = at(f"a: {value}")
    with pytest.raises(Reported):
        CLAIMS.read(spot)
    (fault,) = spot.faults.found
    assert (fault.code, fault.key, fault.line) == (ConfigCode.BAD_CLAIM, "claims.a", 1)
    assert values(f"a: '{value}'") == [(("a",), value, str)]


@pytest.mark.parametrize("value", ["1.2.3.4", "2026-01-01", "12:30", "v1", "1a", "nothing", "trueish", "-a", "a.5"])
def test_what_is_plainly_text(value: str) -> None:
    assert values(f"a: {value}") == [(("a",), value, str)]


def test_a_long_number_is_looked_at_once() -> None:
    """A pattern that tries every way to split it would take minutes."""
    assert values(f"a: {'1' * 500_000}x") == [(("a",), "1" * 500_000 + "x", str)]


@pytest.mark.parametrize(
    ("document", "code", "key", "line"),
    [
        ("a: [b]", ConfigCode.WRONG_TYPE, "claims.a", 1),
        ("b: 1\na:", ConfigCode.NO_VALUE, "claims.a", 2),
        ("a: null", ConfigCode.NO_VALUE, "claims.a", 1),
        ("a:\n  b: {}", ConfigCode.EMPTY_LIST, "claims.a.b", 2),
        ("a:\n  b:\n    c: 1.5\n  d: x", ConfigCode.BAD_CLAIM, "claims.a.b.c", 3),
        ('a: "b\\n"', ConfigCode.BAD_CHARACTER, "claims.a", 1),
    ],
)
def test_faults_of_single_claims(document: str, code: ConfigCode, key: str, line: int) -> None:
    spot = at(document)
    with pytest.raises(Reported):
        CLAIMS.read(spot)
    assert [(fault.code, fault.key, fault.line) for fault in spot.faults.found] == [(code, key, line)]


@pytest.mark.parametrize(("document", "code"), [("{}", ConfigCode.EMPTY_LIST), ("[a]", ConfigCode.WRONG_TYPE)])
def test_what_is_no_claims(document: str, code: ConfigCode) -> None:
    with pytest.raises(Refused) as caught:
        CLAIMS.read(at(document))
    assert caught.value.code is code


def test_every_fault_is_found() -> None:
    spot = at("a: {b: 1.5, c: []}\nd: yes\ne: 1\n")
    with pytest.raises(Reported):
        CLAIMS.read(spot)
    assert [fault.key for fault in spot.faults.found] == ["claims.a.b", "claims.a.c", "claims.d"]
