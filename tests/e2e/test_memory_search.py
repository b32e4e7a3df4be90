"""Ensures that the search for a key finds it: whatever its form, wherever it is, and nothing where there is nothing."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.support import memory
from tests.support.ca import keypair

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not memory.permitted(), reason=memory.NEEDED)

SECRET = bytes((7 * n + 131) % 256 for n in range(32))
#: What it is told is masked, so that nothing but the planted copy has the form; a second word takes the copy away.
CHILD = """
import mmap, sys
place = mmap.mmap(-1, 1 << 20)
for line in sys.stdin:
    masked = bytes.fromhex(line)
    for n, byte in enumerate(masked):
        place[70_000 + n] = byte ^ 0x5A
    print("planted", flush=True)
    sys.stdin.readline()
    place[70_000 : 70_000 + len(masked)] = bytes(len(masked))
    print("removed", flush=True)
"""


class Child:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def say(self, line: str, answer: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == answer + "\n"

    def plant(self, data: bytes) -> None:
        self.say(bytes(byte ^ 0x5A for byte in data).hex(), "planted")

    def remove(self) -> None:
        self.say("", "removed")

    def search(self) -> memory.Search:
        search = memory.search_process(self.process.pid, memory.forms_of_number(SECRET))
        assert search.octets > 5_000_000, "an interpreter has more than that"
        assert search.unread == []
        return search


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        made = Child(process)
        made.plant(b"it runs")
        made.remove()
        yield made
        process.kill()


def test_nothing_is_found_where_nothing_is(child: Child) -> None:
    assert child.search().found == {}


@pytest.mark.parametrize("name", memory.forms_of_number(SECRET))
def test_every_form_is_found_and_no_other(child: Child, name: str) -> None:
    forms = memory.forms_of_number(SECRET)
    halves = set(memory.halves(forms[name]))  # base64 and base64url may have one in common
    child.plant(forms[name])
    found = child.search().forms
    child.remove()
    assert found == {other for other, form in forms.items() if halves.intersection(memory.halves(form))}


@pytest.mark.parametrize("half", [slice(16), slice(16, 32)])
def test_half_of_it_is_enough(child: Child, half: slice) -> None:
    child.plant(SECRET[half])
    found = child.search().forms
    child.remove()
    assert found == {"octets"}


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1])
@pytest.mark.parametrize("style", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_a_key_file_is_found(
    tmp_path: Path, curve: type[ec.EllipticCurve], style: PrivateFormat, encoding: Encoding
) -> None:
    key = keypair("to be found", curve=curve)
    forms = memory.forms_of_number(key.private_numbers().private_value.to_bytes(curve.key_size // 8))
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/key").write_bytes(key.private_bytes(encoding, style, NoEncryption()))
    (tmp_path / "public").write_bytes(key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
    search = memory.search_folder(tmp_path, forms)
    assert list(search.found) == ["inner/key"]
    assert all(("base64" in form) is (encoding is Encoding.PEM) for form in search.forms)
    assert memory.search_folder(tmp_path, forms, besides=[tmp_path / "inner/key"]).found == {}


def test_what_lies_across_two_pieces_is_found() -> None:
    data = b"x" * 100 + SECRET + b"x" * 100
    for cut in range(len(data)):
        search = memory.Search()
        search.look("here", [data[:cut], data[cut:]], {"octets": SECRET})
        assert search.found == {"here": {"octets"}}, cut


def test_an_open_file_is_looked_into_though_it_has_no_name() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(SECRET.hex().encode())
        file.flush()
        with subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[file.fileno()]
        ) as process:
            search = memory.search_process(process.pid, memory.forms_of_number(SECRET))
            process.kill()
    assert search.forms == {"hex"}
    assert all(place.startswith("open ") for place in search.found)
