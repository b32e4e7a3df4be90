"""How a section is read: tables of typed keys, and a walk that finds every fault instead of the first.

A ``Key`` names its kind (how its value is read, and what that is called), its default and its one-line meaning, so that
a section's table is at once its parser, its list of known keys and its entry in the reference.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from sidecar.config import forms
from sidecar.config.faults import ConfigCode, Faults, Refused, below, quote
from sidecar.config.unserved import NOT_SERVED, not_served
from sidecar.config.values import Sources, TokenRefs
from sidecar.config.yaml import Broken, Mapping, Node, Scalar, Sequence
from sidecar.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Mapping as MappingOf
    from pathlib import Path

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_NULLS = {"", "~", "null", "Null", "NULL"}
_SHAPES = {Scalar: "a single value", Sequence: "a list", Mapping: "a mapping"}


class Reported(Exception):  # noqa: N818 - a jump, never seen outside
    """The value cannot be had, and the faults that say why are in the list already."""


class Required(Enum):
    """The default of a key that has none."""

    REQUIRED = "required"


REQUIRED = Required.REQUIRED


@dataclass(frozen=True, slots=True)
class Kind(Generic[T_co]):
    """A type of value: ``read`` raises a SidecarError or Reported; ``says`` names it in messages and the reference.

    ``form`` is what a JSON Schema can say of it.
    """

    read: Callable[[Spot], T_co]
    says: str
    form: forms.Form = field(default_factory=lambda: forms.ANY)


def later(module: str, name: str, says: str) -> Kind[Any]:
    """Returns a kind that stands in a module which is loaded when a file has its key: what few use costs others nothing."""

    def read(spot: Spot) -> Any:
        import importlib  # noqa: PLC0415 - see above

        kind: Kind[Any] = getattr(importlib.import_module(module), name)
        return kind.read(spot)

    return Kind(read, says, forms.Elsewhere(module, name))


@dataclass(frozen=True, slots=True)
class Absent:
    """What is said instead of "missing" where a key, or any item in its list, is a guarantee."""

    code: ConfigCode
    message: str
    hint: str

    def refused(self) -> Refused:
        """Returns the error to raise."""
        return Refused(self.code, self.message, hint=self.hint)


@dataclass(frozen=True, slots=True)
class Key(Generic[T_co]):
    """One key of a section."""

    name: str
    kind: Kind[T_co]
    default: T_co | Required
    doc: str
    absent: Absent | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """One section: its name in the list of what is not served yet, and its keys.

    ``elsewhere`` has further names, of keys that belong to another section, and says to which. ``rules`` are keywords of
    a JSON Schema about the section as a whole.
    """

    name: str
    keys: tuple[Key[Any], ...]
    elsewhere: MappingOf[str, str] = field(default_factory=dict)
    rules: forms.Fragment = field(default_factory=dict)


@dataclass(slots=True)
class Ledger:
    """Values that are compared across sections once all are read, also those of sections that are faulty elsewhere."""

    names: list[tuple[str, str, Spot]] = field(default_factory=list)  # (direction, name, place)
    rule_names: list[tuple[str, Spot]] = field(default_factory=list)
    listens: list[tuple[str, Any, Spot]] = field(default_factory=list)  # (direction, Address, place)
    outbound: list[tuple[Any, Values]] = field(default_factory=list)  # (Address, what the entry says)
    forwards: list[tuple[Any, Spot]] = field(default_factory=list)  # (Address, place)
    patterns: list[tuple[Any, Spot]] = field(default_factory=list)  # (IdPattern, place)
    source_names: list[tuple[str, Spot]] = field(default_factory=list)
    issuer_names: list[tuple[str, Spot]] = field(default_factory=list)
    sources_used: list[tuple[str, Spot]] = field(default_factory=list)  # (name of a source, place that names it)
    issuers_used: list[tuple[str, Spot]] = field(default_factory=list)
    public_tokens: list[tuple[str, Spot]] = field(
        default_factory=list
    )  # as sources_used: those that leave for services
    proves_peers: bool = False  # some entry needs `identity.trust`
    no_trust: tuple[Spot, str] | None = None  # where that would stand, and its key path
    sources: Sources = field(default_factory=Sources)
    token_refs: TokenRefs = field(default_factory=TokenRefs)
    lines: dict[str, int] = field(default_factory=dict)  # key path -> line, of keys that name files and of rules


@dataclass(frozen=True, slots=True)
class Spot:
    """A value of the file at its place: the node, its key path, its line, and what reading it needs."""

    node: Node
    key: str
    line: int
    faults: Faults
    base: Path
    environ: MappingOf[str, str]
    ledger: Ledger

    def below(self, name: str, node: Node, line: int) -> Spot:
        """Returns the place of one key's value in this mapping."""
        return replace(self, node=node, key=below(self.key, name), line=node.line if isinstance(node, Scalar) else line)

    def refuse(self, error: SidecarError) -> None:
        """Adds a fault at this place."""
        self.faults.refuse(error, line=self.line, key=self.key)

    @property
    def empty(self) -> bool:
        """Whether the key stands there without a value."""
        return isinstance(self.node, Scalar) and self.node.plain and self.node.text in _NULLS

    def scalar(self) -> Scalar:
        """Returns the value as a scalar of printable characters; raises Refused or Reported."""
        node = self.node
        if isinstance(node, Scalar) and not self.empty:
            for character in node.text:
                if not character.isprintable():
                    raise Refused(
                        ConfigCode.BAD_CHARACTER,
                        f"the value holds the character U+{ord(character):04X}",
                        hint="values are one line of printable characters",
                    )
            return node
        raise self._wrong("a single value")

    def text(self) -> str:
        """Returns the value as text; raises Refused or Reported."""
        return self.scalar().text

    def items(self) -> list[Spot]:
        """Returns the places of a list's items; raises Refused or Reported."""
        if not isinstance(self.node, Sequence):
            raise self._wrong("a list")
        return [
            replace(self, node=item, key=f"{self.key}[{n}]", line=item.line) for n, item in enumerate(self.node.items)
        ]

    def entries(self) -> list[tuple[str, Spot]]:
        """Returns a mapping's keys and the places of their values; raises Refused or Reported."""
        if not isinstance(self.node, Mapping):
            raise self._wrong("a mapping")
        return [(entry.key, self.below(entry.key, entry.value, entry.line)) for entry in self.node.entries]

    def _wrong(self, wanted: str) -> Exception:
        if isinstance(self.node, Broken):
            return Reported()
        if self.empty:
            return Refused(ConfigCode.NO_VALUE, "the key has no value", hint="give it one, or remove the key")
        hint = ""
        if wanted == "a list":
            hint = "begin each item with a dash, or put brackets around: [a, b]"
        elif wanted == "a mapping":
            hint = "write its keys below it, each indented: key: value"
        return Refused(ConfigCode.WRONG_TYPE, f"this is {_SHAPES[type(self.node)]}, expected {wanted}", hint=hint)


def attempt(spot: Spot, kind: Kind[T], into: list[T]) -> bool:
    """Reads one value into a list; a refusal becomes a fault at that place and False."""
    try:
        into.append(kind.read(spot))
    except Reported:
        return False
    except SidecarError as error:
        spot.refuse(error)
        return False
    return True


class Values:
    """What was read of one section."""

    def __init__(self) -> None:
        self._found: dict[str, Any] = {}
        self.spots: dict[str, Spot] = {}
        self.complete = True

    def __getitem__(self, key: Key[T]) -> T:
        """Returns a key's value or default; raises Reported when the file has it wrong."""
        if key.name not in self._found:
            raise Reported
        return cast("T", self._found[key.name])

    def get(self, key: Key[T]) -> T | None:
        """Returns a key's value or default, None when the file has it wrong: for checks across keys."""
        return cast("T | None", self._found.get(key.name))

    def put(self, key: Key[T], value: T) -> None:
        """Sets a key's value."""
        self._found[key.name] = value

    def refuse(self, key: Key[Any], error: SidecarError) -> None:
        """Adds a fault at the value of a key that the file has."""
        self.spots[key.name].refuse(error)
        self.complete = False

    def settle(self) -> None:
        """Raises Reported unless every key was read well."""
        if not self.complete:
            raise Reported


def read_table(spot: Spot, table: Table) -> Values:
    """Reads a section by its table: every key, defaults for the absent, a fault for each unknown one."""
    entries = dict(spot.entries())
    values = Values()
    for key in table.keys:
        place = entries.pop(key.name, None)
        if place is not None and not (place.empty and key.absent):
            values.spots[key.name] = place
            got: list[Any] = []
            if attempt(place, key.kind, got):
                values.put(key, got[0])
            else:
                values.complete = False
        elif isinstance(key.default, Required):
            missing(place or spot, key, below(spot.key, key.name))
            values.complete = False
        else:
            values.put(key, key.default)
    for name, place in entries.items():
        _unknown(place, name, table)
        values.complete = False
    return values


def missing(spot: Spot, key: Key[Any], path: str) -> None:
    """Adds the fault of a key that a section at this place needs and has not."""
    absent = key.absent or Absent(ConfigCode.MISSING_KEY, "the key is missing", f"add {key.name}: {key.kind.says}")
    spot.faults.add(absent.code, absent.message, line=spot.line, key=path, hint=absent.hint)


def _unknown(spot: Spot, name: str, table: Table) -> None:
    feature = f"{table.name}.{name}"
    if feature in NOT_SERVED:
        spot.refuse(not_served(feature))
        return
    if name in table.elsewhere:
        spot.refuse(misplaced(name, table.elsewhere[name]))
        return
    known = [key.name for key in table.keys]
    import difflib  # noqa: PLC0415 - for faults alone

    near = [] if spot.faults.full else difflib.get_close_matches(name[:80].lower().replace("-", "_"), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
    spot.faults.add(ConfigCode.UNKNOWN_KEY, "the key is unknown", line=spot.line, key=spot.key, hint=hint)


def misplaced(name: str, where: str) -> Refused:
    """Returns the refusal of a key that another section has."""
    return Refused(ConfigCode.MISPLACED_KEY, f"{name} belongs to {where}", hint="remove it: here it would mean nothing")


def some(otherwise: str) -> Absent:
    """Returns what is said of an empty list that could be taken for "any"; ``otherwise`` says what no list means."""
    return Absent(ConfigCode.EMPTY_LIST, "the list is empty", f"name at least one, or remove the key: {otherwise}")


def listing(kind: Kind[T], *, empty: Absent | None = None, distinct: bool = True) -> Kind[tuple[T, ...]]:
    """Returns the kind of a list of ``kind``. Without ``empty`` an empty list is fine; ``distinct`` refuses repeats."""

    def read(spot: Spot) -> tuple[T, ...]:
        spots = spot.items()
        if not spots and empty is not None:
            raise empty.refused()
        values: list[T] = []
        seen: set[T] = set()
        complete = True
        for place in spots:
            if not attempt(place, kind, values):
                complete = False
            elif distinct and values[-1] in seen:
                complete = False
                place.refuse(
                    Refused(
                        ConfigCode.DUPLICATE_ITEM, f"{quote(place.text())} stands twice in the list", hint="leave one"
                    )
                )
            elif distinct:
                seen.add(values[-1])
        if not complete:
            raise Reported
        return tuple(values)

    form = forms.ListOf(kind, 0 if empty is None else 1, distinct)
    return Kind(read, f"list of {kind.says}", form)


def text(parse: Callable[[str], T], says: str, form: forms.Form = forms.TEXT) -> Kind[T]:
    """Returns the kind of a scalar that ``parse`` turns into a value, or refuses with a SidecarError."""
    return Kind(lambda spot: parse(spot.text()), says, form)
