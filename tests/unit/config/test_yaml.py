from __future__ import annotations

from pathlib import Path

import pytest
import yaml as pyyaml
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config import yaml
from sidecar.config.faults import ConfigCode, Fault, Faults
from sidecar.config.yaml import Broken, Mapping, Node, Scalar, Sequence, compose

FILE = Path("planner.yaml")
KEY_BLOCK = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIA\n-----END EC PRIVATE KEY-----\n"


@pytest.fixture(params=["libyaml", "python"], autouse=True)
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both parsers of PyYAML: the second serves where the first was not built."""
    if request.param == "python":
        monkeypatch.setattr(yaml, "_LOADER", pyyaml.SafeLoader)
    elif not pyyaml.__with_libyaml__:
        pytest.skip("PyYAML has no libyaml here")
    return request.param


def read(text: str | bytes) -> tuple[Node | None, list[Fault]]:
    faults = Faults(FILE)
    return compose(text if isinstance(text, bytes) else text.encode(), faults), faults.found


def fine(text: str | bytes) -> Node | None:
    node, faults = read(text)
    assert faults == []
    return node


def refused(text: str | bytes) -> Fault:
    _, faults = read(text)
    assert len(faults) == 1, "\n".join(map(str, faults))
    return faults[0]


def value(text: str) -> Node:
    """The value of the first key."""
    node = fine(text)
    assert isinstance(node, Mapping)
    return node.entries[0].value


def test_nodes_know_their_lines() -> None:
    node = fine("a: 1\nb:\n  - x\n  - y: z\n\n\nc: {d: e}\n")
    assert isinstance(node, Mapping)
    assert [(entry.key, entry.line, entry.value.line) for entry in node.entries] == [
        ("a", 1, 1),
        ("b", 2, 3),
        ("c", 7, 7),
    ]
    items = node.entries[1].value
    assert isinstance(items, Sequence)
    assert [item.line for item in items.items] == [3, 4]


@pytest.mark.parametrize(
    "text", ["yes", "no", "0o17", "0x1F", "1_000", "12:30:45", "2026-01-01", "1e3", ".inf", "~", "null"]
)
def test_scalars_stay_what_was_written(text: str) -> None:
    assert value(f"a: {text}") == Scalar(text, plain=True, line=1)


@pytest.mark.parametrize("text", ['"yes"', "'yes'"])
def test_quotes_are_remembered(text: str) -> None:
    assert value(f"a: {text}") == Scalar("yes", plain=False, line=1)


def test_a_byte_order_mark_and_crlf_are_fine() -> None:
    node = fine(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert isinstance(node, Mapping)
    assert [(entry.key, entry.line) for entry in node.entries] == [("a", 1), ("b", 2)]


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing but a comment\n", "---\n...\n"])
def test_an_empty_file(text: str) -> None:
    node, faults = read(text)
    if node is None:  # an explicit document is an empty scalar: a document that is no mapping
        assert [fault.code for fault in faults] == [ConfigCode.FILE_EMPTY]
    else:
        assert isinstance(node, Scalar)


def test_a_duplicate_key_names_the_first_line_and_keeps_its_value() -> None:
    node, faults = read("a:\n  b: 1\n  c: 2\n  b: 3\n")
    assert [(f.code, f.line, f.key, f.message) for f in faults] == [
        (ConfigCode.DUPLICATE_KEY, 4, "a.b", "the key stands twice, first on line 2")
    ]
    assert isinstance(node, Mapping)
    inner = node.entries[0].value
    assert isinstance(inner, Mapping)
    assert inner.entries[0].value == Scalar("1", plain=True, line=2)


def test_keys_that_differ_only_in_quotes_are_duplicates() -> None:
    assert refused('a: 1\n"a": 2\n').code is ConfigCode.DUPLICATE_KEY


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: &x 1", ConfigCode.ALIAS),
        ("a: *x", ConfigCode.ALIAS),
        ("a: !!int 1", ConfigCode.TAG),
        ("a: !x {b: c}", ConfigCode.TAG),
        ("a: ! 1", ConfigCode.TAG),
        ("a: !!python/object/apply:os.system ['true']", ConfigCode.TAG),
        ("? [a, b]\n: c", ConfigCode.BAD_KEY),
        ("{a: 1}: c", ConfigCode.BAD_KEY),
        ("?\n: c", ConfigCode.BAD_KEY),
        ('"": c', ConfigCode.BAD_KEY),
        ("a: 1\n---\nb: 2\n", ConfigCode.SEVERAL_DOCUMENTS),
    ],
)
def test_yaml_beyond_plain_data_is_refused(text: str, code: ConfigCode) -> None:
    assert refused(text).code is code


def test_what_was_refused_asks_for_no_further_fault() -> None:
    node, _ = read("a: *x\nb: !y z\n")
    assert isinstance(node, Mapping)
    assert [entry.value for entry in node.entries] == [Broken(1), Broken(2)]


def test_aliases_are_never_expanded() -> None:
    """A billion laughs: each level names the one before it ten times."""
    levels = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12))]
    _, faults = read("\n".join(levels))
    assert {fault.code for fault in faults} == {ConfigCode.ALIAS}


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000, "- " * 100_000, "? " * 1000])
def test_nesting_is_bounded_before_it_costs_anything(text: str) -> None:
    assert refused(text).code in {ConfigCode.TOO_DEEP, ConfigCode.SYNTAX}


def test_thirty_two_levels_are_fine_and_the_next_is_not() -> None:
    fine("[" * 32 + "]" * 32)
    assert refused("[" * 34 + "]" * 34).code is ConfigCode.TOO_DEEP


@pytest.mark.parametrize(
    ("data", "line"),
    [(b"\xff\xfea\0:\0", 1), (b"a: 1\nb: \xe9\n", 2), (b"a: 1\n\n\nb: \xc0\x80", 4), (b"\xed\xa0\x80", 1)],
)
def test_what_is_not_utf8_is_named_by_its_line(data: bytes, line: int) -> None:
    fault = refused(data)
    assert (fault.code, fault.line) == (ConfigCode.NOT_UTF8, line)


@pytest.mark.parametrize(
    "character", ["\0", "\x1b", "\x7f", "\x85", "\u2028", "\u2029", "\u202e", "\u2066", "\ufeff", "\r"]
)
def test_characters_that_hide_text_are_refused(character: str) -> None:
    """A comment must not end, nor a line turn round, where an editor does not show it."""
    fault = refused(f"a: 1\n# a comment{character}b: 2\n")
    assert (fault.code, fault.line) == (ConfigCode.BAD_CHARACTER, 2)
    assert f"U+{ord(character):04X}" in fault.message


def test_a_binary_file_gives_a_bounded_number_of_faults() -> None:
    faults = Faults(FILE)
    assert compose(b"\x01\n" * 10_000, faults) is None
    assert len(faults.found) <= 100


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("a:\n\tb: 1\n", 2, "indent with spaces; YAML allows no tabs there"),
        ("a:\n  listen: [::1]:80\n", 2, 'put quotes around an IPv6 address: "[::1]:8443"'),
        ("hosts: [*.internal]\n", 1, "put quotes around a value that begins with one of * & ! % @ `"),
        ("a: @x\n", 1, "put quotes around a value that begins with one of * & ! % @ `"),
        ("a: b: c\n", 1, 'put quotes around a value that holds ": ", and check the indentation'),
        ("a: 'x\n\n\n", 1, "check indentation, brackets and quotes on this line and the one before it"),
        ("a: {b: c\n", 1, "check indentation, brackets and quotes on this line and the one before it"),
    ],
)
def test_syntax_errors_say_what_to_do(text: str, line: int, hint: str) -> None:
    fault = refused(text)
    assert (fault.code, fault.line, fault.hint) == (ConfigCode.SYNTAX, line, hint)
    assert fault.message.startswith("this is not YAML: ")


@pytest.mark.parametrize("escape", ["\\UFFFFFFFF", "\\U00110000"])
def test_an_escape_beyond_unicode(escape: str) -> None:
    """PyYAML's own parser lets chr() fail on these."""
    assert refused(f'a: "{escape}"').code is ConfigCode.SYNTAX


@pytest.mark.threat(60)
@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("a:\n  key: |\n    " + KEY_BLOCK.replace("\n", "\n    "), 2, "a.key"),
        ("a: 'pkcs11:object=x?pin-value=1234'\n", 1, "a"),
        ("a: {pin-value: 1234}\n", 1, "a"),
        ("a: [-----BEGIN PRIVATE KEY-----]\n", 1, "a[0]"),
        ("# " + KEY_BLOCK.replace("\n", "\n# ") + "\na: 1\n", 1, ""),
    ],
)
def test_threat_60_a_secret_in_the_file_is_refused_and_never_shown(text: str, line: int, key: str) -> None:
    fault = refused(text)
    assert (fault.code, fault.line, fault.key) == (ConfigCode.SECRET, line, key)
    assert "MHcCAQEEIA" not in str(fault)
    assert "1234" not in str(fault)


@pytest.mark.threat(60)
def test_threat_60_a_secret_is_found_in_a_file_that_is_not_yaml() -> None:
    _, faults = read("a: {\n" + KEY_BLOCK)
    assert {fault.code for fault in faults} == {ConfigCode.SYNTAX, ConfigCode.SECRET}
    assert "MHcCAQEEIA" not in "".join(map(str, faults))


@given(st.text() | st.text(alphabet="{}[]:,-?*&!|>'\"%@`# \n\tab\\") | st.binary())
def test_no_text_raises(text: str | bytes) -> None:
    """Invariant: whatever the bytes, there is a node or a fault, and never an exception."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    faults = Faults(FILE)
    for each in (pyyaml.SafeLoader, pyyaml.CSafeLoader):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(yaml, "_LOADER", each)
            assert compose(data, faults) is not None or faults.found
