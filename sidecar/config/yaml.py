"""YAML text to nodes that know their line, through PyYAML's events.

Events, because composing nodes recurses once a level (in C, where too deep means a crash), and because aliases, tags and
further documents are refused as they appear instead of being expanded first. Every scalar stays the text it was written
as: what YAML 1.1 makes of ``yes``, ``0o17``, ``12:30`` or a date is decided by the key's own type, not by its spelling.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from sidecar.config.faults import ConfigCode, below, printable, secret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.config.faults import Faults

#: Levels of nesting. The deepest key of the format stands on the seventh.
DEPTH = 32

#: Characters that make a file read otherwise than it looks: controls, the line breaks that only YAML 1.1 knows (NEL, LS,
#: PS, a lone CR), and marks that reorder text in an editor.
_HIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff]|\r(?!\n)")
_KEY_BLOCK = re.compile("-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")

_IPV6 = re.compile(r"[:\-,]\s+\[[0-9A-Fa-f:.]+\]:")
_INDICATOR = re.compile(r"[:\-,\[]\s*[*&!%@`]")


@dataclass(frozen=True, slots=True)
class Scalar:
    """A scalar as written; ``plain`` says that it stood without quotes."""

    text: str
    plain: bool
    line: int


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    items: tuple[Node, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of a mapping with its value; ``line`` is the key's."""

    key: str
    line: int
    value: Node


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping without duplicate keys, in the order of the file."""

    entries: tuple[Entry, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Broken:
    """A node that was refused already: its faults stand in the list, and it asks for no further ones."""

    line: int


Node = Scalar | Sequence | Mapping | Broken


class _Stop(Exception):  # noqa: N818 - a jump out of the recursion
    """Nothing that follows can be read; the fault is in the list."""


def compose(data: bytes, faults: Faults) -> Node | None:
    """Reads one YAML document; what is wrong with it goes to ``faults``. Returns None when there is nothing to go on."""
    text = _decode(data, faults)
    if text is None:
        return None
    try:
        root = _Composer(yaml.parse(text, Loader=_LOADER), faults).document()
    except _Stop:
        root = None
    except yaml.MarkedYAMLError as error:
        root = None
        mark: Any = error.problem_mark or error.context_mark
        _syntax(text, mark.line if mark else 0, ", ".join(filter(None, [error.context, error.problem])), faults)
    except (yaml.YAMLError, ValueError, OverflowError):
        # PyYAML's own Python parser lets chr() fail on an escape such as "\UFFFFFFFF".
        root = None
        _syntax(text, -1, "an escape that names no character", faults)
    if not any(fault.code is ConfigCode.SECRET for fault in faults.found):
        # In a comment, or beyond the place where reading ended: a leaked key is a leaked key.
        for found in _KEY_BLOCK.finditer(text):
            _leaked(faults, line=_line(text, found.start()))
    return root


#: On libyaml where PyYAML was built with it, some twenty times as fast; else in Python.
_LOADER: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


class _Composer:
    """Builds nodes from events."""

    def __init__(self, events: Iterator[yaml.Event], faults: Faults) -> None:
        self._events = events
        self._faults = faults

    def document(self) -> Node | None:
        """Returns the root of the one document, None for an empty file."""
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    self._faults.add(
                        ConfigCode.SEVERAL_DOCUMENTS,
                        "a second YAML document begins here",
                        line=_at(event),
                        hint="one file holds one configuration; remove the line --- and what follows",
                    )
                    return root
                root = self._node(next(self._events), "", 0)
        if root is None:
            self._faults.add(ConfigCode.FILE_EMPTY, "the file holds no configuration", hint="begin with: version: 1")
        return root

    def _node(self, event: yaml.Event, path: str, depth: int) -> Node:
        line = _at(event)
        if isinstance(event, yaml.AliasEvent):
            self._alias(line, path)
            return Broken(line)
        if getattr(event, "anchor", None) is not None:
            self._alias(line, path)
        if depth > DEPTH:
            self._faults.add(ConfigCode.TOO_DEEP, f"nested more than {DEPTH} levels deep", line=line, key=path[:200])
            raise _Stop
        node: Node
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, line, path)
        elif isinstance(event, yaml.MappingStartEvent):
            node = self._mapping(line, path, depth)
        else:
            node = self._sequence(line, path, depth)
        if getattr(event, "tag", None) is None:
            return node
        self._faults.add(ConfigCode.TAG, "YAML tags are not supported", line=line, key=path, hint="remove the !word")
        return Broken(line)

    def _scalar(self, event: yaml.ScalarEvent, line: int, path: str) -> Node:
        text: str = event.value
        if secret(text):
            _leaked(self._faults, line=line, key=path)
            return Broken(line)
        return Scalar(text, not event.style, line)

    def _sequence(self, line: int, path: str, depth: int) -> Sequence:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, f"{path}[{len(items)}]", depth + 1))
        return Sequence(tuple(items), line)

    def _mapping(self, line: int, path: str, depth: int) -> Mapping:
        entries: dict[str, Entry] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, path, depth + 1)
            name = key.text if isinstance(key, Scalar) else ""
            value = self._node(next(self._events), below(path, name), depth + 1)
            if not name:
                self._bad_key(key, path)
            elif name in entries:
                self._faults.add(
                    ConfigCode.DUPLICATE_KEY,
                    f"the key stands twice, first on line {entries[name].line}",
                    line=key.line,
                    key=below(path, name),
                    hint="leave one of them",
                )
            else:
                entries[name] = Entry(name, key.line, value)
        return Mapping(tuple(entries.values()), line)

    def _bad_key(self, key: Node, path: str) -> None:
        if not isinstance(key, Broken):
            self._faults.add(
                ConfigCode.BAD_KEY,
                "a key is a word; here it is " + ("empty" if isinstance(key, Scalar) else "a list or a mapping"),
                line=key.line,
                key=path,
                hint="check indentation, colons and brackets on this line",
            )

    def _alias(self, line: int, path: str) -> None:
        self._faults.add(
            ConfigCode.ALIAS,
            "YAML anchors and aliases (&name, *name) are not supported",
            line=line,
            key=path,
            hint="write the value out; put quotes around a value that begins with & or *",
        )


def _decode(data: bytes, faults: Faults) -> str | None:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        faults.add(ConfigCode.NOT_UTF8, "the file is not UTF-8 text", line=line, hint="save it as UTF-8")
        return None
    hidden = list(_HIDDEN.finditer(text))
    for found in hidden:
        faults.add(
            ConfigCode.BAD_CHARACTER,
            f"the line holds the character U+{ord(found[0]):04X}, which an editor may hide or show otherwise",
            line=_line(text, found.start()),
            hint="remove it",
        )
        if faults.full:
            break
    return None if hidden else text


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _at(event: yaml.Event) -> int:
    mark: Any = event.start_mark  # the stubs say it may be None; parsers always set it
    line: int = mark.line
    return line + 1


def _leaked(faults: Faults, *, line: int, key: str = "") -> None:
    faults.add(
        ConfigCode.SECRET,
        "a secret stands in the configuration file",
        line=line,
        key=key,
        hint="keep it in a file of mode 0600 and name the path; whoever could read this file has it: make a new one",
    )


def _syntax(text: str, index: int, problem: str, faults: Faults) -> None:
    lines = text.split("\n")
    # A quote or bracket that is never closed is noticed behind the last line.
    index = min(index, len(lines) - 1)
    while index > 0 and not lines[index].strip():
        index -= 1
    line = lines[index] if index >= 0 else ""
    if line.lstrip(" ").startswith("\t"):
        hint = "indent with spaces; YAML allows no tabs there"
    elif _IPV6.search(line):
        hint = 'put quotes around an IPv6 address: "[::1]:8443"'
    elif _INDICATOR.search(line):
        hint = "put quotes around a value that begins with one of * & ! % @ `"
    elif line.count(": ") > 1 and "{" not in line:
        hint = 'put quotes around a value that holds ": ", and check the indentation'
    else:
        hint = "check indentation, brackets and quotes on this line and the one before it"
    faults.add(ConfigCode.SYNTAX, f"this is not YAML: {printable(problem[:200])}", line=index + 1, hint=hint)
