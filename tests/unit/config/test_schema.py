from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidecar.config import kinds
from sidecar.config.faults import ConfigCode, Fault, Faults, Refused
from sidecar.config.schema import (
    REQUIRED,
    Absent,
    Key,
    Kind,
    Ledger,
    Reported,
    Spot,
    Table,
    Values,
    listing,
    read_table,
    text,
)
from sidecar.config.unserved import NOT_SERVED
from sidecar.config.yaml import compose

BASE = Path("/etc/sidecar")

NAME = Key("name", kinds.NAME, REQUIRED, "")
COUNT = Key("count", kinds.number(0, 9), 3, "")
GUARD = Key("guard", kinds.NAME, REQUIRED, "", absent=Absent(ConfigCode.NO_PEER, "nobody", "name somebody"))
LIST = Key("list", listing(kinds.NAME, empty=Absent(ConfigCode.EMPTY_LIST, "empty", "fill it")), (), "")
TABLE = Table("top", (NAME, COUNT, LIST))


def at(document: str) -> Spot:
    faults = Faults(BASE / "x.yaml")
    node = compose(document.encode(), faults)
    assert node is not None
    return Spot(node, "", 1, faults, BASE, {}, Ledger())


def read(document: str, table: Table = TABLE) -> tuple[Values, list[Fault]]:
    spot = at(document)
    return read_table(spot, table), spot.faults.found


def only(document: str, table: Table = TABLE) -> Fault:
    values, faults = read(document, table)
    assert not values.complete
    with pytest.raises(Reported):
        values.settle()
    assert len(faults) == 1
    return faults[0]


def test_values_and_defaults() -> None:
    values, faults = read("name: a\nlist: [b, c]\n")
    values.settle()
    assert faults == []
    assert (values[NAME], values[COUNT], values[LIST]) == ("a", 3, ("b", "c"))


def test_a_missing_key_is_named_by_its_path() -> None:
    fault = only("count: 1\n")
    assert (fault.code, fault.line, fault.key, fault.message) == (
        ConfigCode.MISSING_KEY,
        1,
        "name",
        "the key is missing",
    )
    assert fault.hint == "add name: name of a-z, 0-9 and -"


@pytest.mark.parametrize("document", ["{}", "guard:", "guard: ~", "guard: null"])
def test_a_guarantee_that_is_missing_or_empty_has_its_own_words(document: str) -> None:
    fault = only(document, Table("top", (GUARD,)))
    assert (fault.code, fault.message, fault.hint) == (ConfigCode.NO_PEER, "nobody", "name somebody")


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("nmae", "did you mean name?"),
        ("Name", "did you mean name?"),
        ("zzz", "known here: name, count, list"),
        ("x" * 500, "known here: name, count, list"),
    ],
)
def test_an_unknown_key(key: str, hint: str) -> None:
    fault = only(f"name: a\n{key}: 1\n")
    assert (fault.code, fault.line, fault.message, fault.hint) == (
        ConfigCode.UNKNOWN_KEY,
        2,
        "the key is unknown",
        hint,
    )


def test_the_value_of_an_unknown_key_is_not_shown() -> None:
    assert "hunter2" not in str(only("name: a\npassword: hunter2\n"))


def test_what_is_not_served_has_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NOT_SERVED, "top.spare", "a key of a later version (spare)")
    assert only("name: a\nspare: 2\n").code is ConfigCode.NOT_SERVED


def test_every_fault_is_found_not_the_first() -> None:
    _, faults = read("name: A\ncount: x\nlist: [B, c, c]\nfoo: 1\n")
    assert [(fault.code, fault.key) for fault in faults] == [
        (ConfigCode.BAD_NAME, "name"),
        (ConfigCode.BAD_NUMBER, "count"),
        (ConfigCode.BAD_NAME, "list[0]"),
        (ConfigCode.DUPLICATE_ITEM, "list[2]"),
        (ConfigCode.UNKNOWN_KEY, "foo"),
    ]


def test_a_faulty_value_is_reported_once_more_is_not_asked() -> None:
    values, _ = read("name: A\n")
    assert values.get(NAME) is None
    with pytest.raises(Reported):
        values[NAME]


def test_an_empty_list() -> None:
    assert only("name: a\nlist: []\n").code is ConfigCode.EMPTY_LIST
    values, faults = read("list: []\n", Table("top", (Key("list", listing(kinds.NAME), (), ""),)))
    assert (values.complete, faults) == (True, [])


@pytest.mark.parametrize(
    ("document", "key", "message", "hint"),
    [
        ("name: [a]\n", "name", "this is a list, expected a single value", ""),
        ("name: {a: b}\n", "name", "this is a mapping, expected a single value", ""),
        (
            "name: a\nlist: b\n",
            "list",
            "this is a single value, expected a list",
            "begin each item with a dash, or put brackets around: [a, b]",
        ),
        ("- a\n", "", "this is a list, expected a mapping", "write its keys below it, each indented: key: value"),
    ],
)
def test_wrong_shapes(document: str, key: str, message: str, hint: str) -> None:
    spot = at(document)
    try:
        read_table(spot, TABLE)
    except Refused as error:
        spot.refuse(error)
    assert [(f.code, f.key, f.message, f.hint) for f in spot.faults.found] == [
        (ConfigCode.WRONG_TYPE, key, message, hint)
    ]


def test_a_key_without_a_value() -> None:
    fault = only("name:\n")
    assert (fault.code, fault.line, fault.message) == (ConfigCode.NO_VALUE, 1, "the key has no value")


def test_an_empty_text_in_quotes_is_a_value() -> None:
    assert only('name: ""\n').code is ConfigCode.BAD_NAME


def test_a_broken_value_gives_no_second_fault() -> None:
    spot = at("name: *x\nlist: *y\n")
    assert len(spot.faults.found) == 2
    read_table(spot, TABLE)
    assert len(spot.faults.found) == 2


def test_a_fault_can_be_added_to_a_value_afterwards() -> None:
    spot = at("name: a\n")
    values = read_table(spot, TABLE)
    values.refuse(NAME, Refused(ConfigCode.DUPLICATE_NAME, "again"))
    assert [(f.code, f.line, f.key) for f in spot.faults.found] == [(ConfigCode.DUPLICATE_NAME, 1, "name")]
    assert not values.complete


def test_the_line_of_a_list_in_a_block_is_that_of_its_key() -> None:
    fault = only("name: a\nlist:\n\n  []\n")
    assert (fault.key, fault.line) == ("list", 2)


def test_a_list_of_mappings_does_not_compare_them() -> None:
    def pair(spot: Spot) -> Any:
        return spot.entries()

    kind = listing(Kind(pair, "pair"), distinct=False)
    assert len(kind.read(at("[{a: b}, {a: b}]"))) == 2


def test_text_is_parsed_by_a_function() -> None:
    assert text(str.upper, "word").read(at("abc")) == "ABC"
