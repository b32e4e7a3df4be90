"""Looks for a secret in another process: in all memory that it can read, and in the files that it has open (Linux).

A secret is looked for in every form that programs give it: as octets, as the words of a number in either order, as text.
Each form is looked for by its two halves, so that a copy is found of which one half was overwritten since, and one whose
text is broken over two lines.
"""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: What it takes, for whoever has it not.
NEEDED = (
    "reading the memory of a process that is not dumpable, as the proxy's is not, needs Linux and CAP_SYS_PTRACE (root)"
)
_NOT_DUMPABLE = """
from sidecar.hardening import harden
harden()
print(flush=True)
input()
"""
#: What the kernel shows as readable and lets nobody read by way of /proc: its own clock, without anything of a process.
_KERNELS: Final = frozenset({"[vvar]", "[vvar_vclock]", "[vsyscall]"})
_BLOCK: Final = 4 * 1024 * 1024
#: Of one half of a form: by chance 8 octets stand nowhere twice.
_LEAST: Final = 8

Forms = dict[str, bytes]


@dataclass
class Search:
    """Where something was found: place -> the forms that were; and how much was looked at, so that nothing is no success."""

    found: dict[str, set[str]] = field(default_factory=dict)
    octets: int = 0
    unread: list[str] = field(default_factory=list)

    @property
    def forms(self) -> set[str]:
        return set().union(*self.found.values())

    def look(self, place: str, blocks: Iterable[bytes], forms: Mapping[str, bytes]) -> None:
        """Looks at one place, which comes in pieces."""
        needles = [(name, half) for name, form in forms.items() for half in halves(form)]
        keep = max(len(half) for _, half in needles) - 1
        rest = b""
        for block in blocks:
            self.octets += len(block)
            data = rest + block
            for name, half in needles:
                if half in data:
                    self.found.setdefault(place, set()).add(name)
            rest = data[-keep:]


def forms_of_number(secret: bytes) -> Forms:
    """The forms of a private scalar, which is given as its octets, highest first.

    The base64 of a DER or PEM that holds it is among them: it holds that of the scalar, at one of three alignments.
    """
    number = int.from_bytes(secret)
    forms = {
        "octets": secret,
        # What OpenSSL, NSS and GMP have: words of either size, the lowest first, on a machine that stores them so.
        "octets, lowest first": secret[::-1],
        "words of 4, reversed": _words(secret, 4, swap=True),
        "words of 8, reversed": _words(secret, 8, swap=True),
        "words of 4, lowest first": _words(secret, 4, swap=False),
        "words of 8, lowest first": _words(secret, 8, swap=False),
        "Python's digits": _digits(number),
        "decimal": str(number).encode(),
        "hex": secret.hex().encode(),
        "HEX": secret.hex().upper().encode(),
        "hex:hex": secret.hex(":").encode(),
        "HEX:HEX": secret.hex(":").upper().encode(),
    }
    for offset in range(3):
        text = _base64(secret, offset)
        forms[f"base64 at {offset}"] = text
        forms[f"base64url at {offset}"] = text.translate(bytes.maketrans(b"+/", b"-_"))
    return forms


def forms_of_text(secret: bytes) -> Forms:
    """The forms of a PIN or of a line of a PEM."""
    return {"text": secret, "UTF-16": secret.decode().encode("utf-16-le"), "hex": secret.hex().encode()}


def _words(secret: bytes, size: int, *, swap: bool) -> bytes:
    """``swap``: the octets of each word the other way round; otherwise the words themselves."""
    words = [secret[start : start + size] for start in range(0, len(secret), size)]
    return b"".join(word[::-1] for word in words) if swap else b"".join(reversed(words))


def _digits(number: int) -> bytes:
    """A Python int in memory: digits of 30 bits in words of 4 octets, the lowest first."""
    bits = sys.int_info.bits_per_digit
    count = -(-number.bit_length() // bits)
    size = sys.int_info.sizeof_digit
    return b"".join((number >> bits * n & (1 << bits) - 1).to_bytes(size, sys.byteorder) for n in range(count))


def _base64(secret: bytes, offset: int) -> bytes:
    """The base64 of whatever has the secret in it, so many octets after a multiple of three: as far as it is the secret's."""
    text = base64.b64encode(bytes(offset) + secret + bytes(3))
    first = -(-offset * 8 // 6)
    return text[first : (offset + len(secret)) * 8 // 6]


def halves(form: bytes) -> tuple[bytes, bytes]:
    middle = len(form) // 2
    assert middle >= _LEAST, "what is so short is found where it is not"
    return form[:middle], form[middle:]


# -- a process ----------------------------------------------------------------------------------------------------------


def search_process(pid: int, forms: Mapping[str, bytes]) -> Search:
    """Looks through a child process while it is stopped."""
    search = Search()
    with _stopped(pid), Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for name, start, end in _maps(pid):
            search.look(f"memory {name}", _region(search, memory.fileno(), name, start, end), forms)
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            if stat.S_ISREG(entry.stat().st_mode):
                search.look(f"open {entry.readlink()}", [entry.read_bytes()], forms)
    return search


def search_folder(folder: Path, forms: Mapping[str, bytes], *, besides: Iterable[Path] = ()) -> Search:
    """Looks through all files below a folder."""
    search = Search()
    for path in sorted(set(folder.rglob("*")) - set(besides)):
        if path.is_file():
            search.look(str(path.relative_to(folder)), [path.read_bytes()], forms)
    return search


def permitted() -> bool:
    """Says whether this process may look into one that it has started, and that protects itself as the proxy does."""
    command = [sys.executable, "-c", _NOT_DUMPABLE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            Path(f"/proc/{child.pid}/mem").open("rb", buffering=0).close()
        except OSError:
            return False
        finally:
            child.kill()
    return True


@contextlib.contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        os.waitid(os.P_PID, pid, os.WSTOPPED)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _maps(pid: int) -> Iterator[tuple[str, int, int]]:
    """All readable mappings: name, start, end (proc_pid_maps(5))."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, permissions, _, _, _, *name = line.split(maxsplit=5)
        start, end = (int(bound, 16) for bound in span.split("-"))
        if permissions.startswith("r"):
            yield (name[0] if name else "anonymous"), start, end


def _region(search: Search, memory: int, name: str, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        try:
            block = os.pread(memory, min(_BLOCK, end - start), start)
        except (OSError, OverflowError) as error:
            if name not in _KERNELS:
                search.unread.append(f"{name} at {start:#x}: {error}")
            return
        start += len(block)
        yield block
