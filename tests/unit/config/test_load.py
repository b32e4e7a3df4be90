from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.config.faults import ConfigCode, Fault, InvalidConfiguration
from sidecar.config.files import Look
from sidecar.config.load import Loaded, load
from sidecar.config.values import UnixAddress
from sidecar.identity.svid import CertificateCode
from tests.support.ca import DAY, Ca
from tests.support.configuration import VALID, Workspace, edit

if TYPE_CHECKING:
    import random
    from pathlib import Path


def test_a_file_and_what_it_names(workspace: Workspace) -> None:
    loaded = workspace.load()
    assert set(loaded.snapshot.paths) == {
        workspace.folder / name for name in ("planner.yaml", "planner.crt", "planner.key", "ca.crt")
    }
    assert loaded.snapshot.again() == loaded.snapshot


def test_paths_start_at_the_folder_of_the_file_wherever_we_are(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = workspace.write()
    monkeypatch.chdir(path.parent.parent)
    loaded = load(path.relative_to(path.parent.parent), now=workspace.now, environ={})
    assert loaded.config.source == path
    assert loaded.config.identity.certificate == path.parent / "planner.crt"


def test_the_environment_is_that_of_the_process(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    path = workspace.write(edit("admin:\n  listen: unix:admin.sock\n", ""))
    loaded = load(path, now=workspace.now)
    assert loaded.config.admin.listen == UnixAddress("/run/user/7/sidecar/planner.sock")


@pytest.mark.parametrize("name", ["missing.yaml", "a\0b.yaml", "x" * 300])
def test_a_file_that_is_not_there(workspace: Workspace, name: str) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        load(workspace.folder / name, now=workspace.now)
    (fault,) = caught.value.faults
    assert (fault.line, fault.key) == (0, "")
    assert fault.code in {ConfigCode.FILE_MISSING, ConfigCode.FILE_UNREADABLE}


def test_faults_bear_the_name_that_was_given(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workspace.write("version: 2\n")
    monkeypatch.chdir(workspace.folder)
    with pytest.raises(InvalidConfiguration) as caught:
        load(path.relative_to(workspace.folder), now=workspace.now)
    assert str(caught.value.faults[0]).startswith("planner.yaml:1: version: ")


def test_what_was_read_is_known_although_it_is_refused(workspace: Workspace) -> None:
    """So that the same files are not tried again before one of them changes."""
    with pytest.raises(InvalidConfiguration) as caught:
        workspace.load(edit("name: in", "name: IN"))
    assert len(caught.value.snapshot.paths) == 4
    assert caught.value.snapshot.again() == caught.value.snapshot


def test_faults_stand_in_the_order_of_the_file(workspace: Workspace) -> None:
    (workspace.folder / "ca.crt").unlink()
    lines = [fault.line for fault in workspace.faults(edit("name: out", "name: OUT", "foo: 1\n" + VALID))]
    assert lines == sorted(lines)
    assert len(lines) == 3


def test_more_faults_than_anybody_reads(workspace: Workspace) -> None:
    text = VALID + "".join(f"x{n}: 1\n" for n in range(500))
    with pytest.raises(InvalidConfiguration) as caught:
        workspace.load(text)
    assert (len(caught.value.faults), caught.value.left_out) == (100, 400)


def test_no_socket_is_opened(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert workspace.load()


# --- as the files change


def mounted(folder: Path, version: str, ca: Ca, lifetime: float) -> Path:
    """Mounts configuration, certificate, key and bundle as Kubernetes does, and swaps to this version of them."""
    inner = folder / f"..{version}"
    inner.mkdir(parents=True)
    identity = ca.leaf(key=None, lifetime=lifetime)
    identity.write(inner, "planner")
    (inner / "ca.crt").write_bytes(ca.pem)
    (inner / "planner.yaml").write_text(VALID)
    for name in ("planner.crt", "planner.key", "ca.crt", "planner.yaml"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    (folder / "..tmp").symlink_to(inner.name)
    (folder / "..tmp").rename(folder / "..data")
    return folder / "planner.yaml"


@pytest.mark.threat(24)
def test_threat_24_a_volume_that_is_swapped_under_us_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look meets the swap in its middle: it is thrown away, and the next is whole and new."""
    folder = tmp_path / "v"
    old, new = Ca(key="old"), Ca(key="new")
    path = mounted(folder, "one", old, DAY)
    read = Look.read
    swapped = False

    def swapping(look: Look, name: Path) -> object:
        nonlocal swapped
        if name.name == "planner.key" and not swapped:
            swapped = True
            mounted(folder, "two", new, DAY)
        return read(look, name)

    monkeypatch.setattr(Look, "read", swapping)
    loaded = load(path, now=old.now, environ={})
    assert swapped
    (bundle,) = loaded.material.bundles.values()
    assert bundle.authorities == (new.certificate,)


@pytest.mark.threat(24)
def test_threat_24_files_that_never_stand_still(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(Look, "settled", lambda look: looks.append(look) is not None)
    fault = workspace.fault()
    assert (fault.code, fault.message) == (ConfigCode.FILE_CHANGING, "the files were replaced while they were read")
    assert len(looks) == 3


@pytest.mark.threat(24)
@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9])
def test_threat_24_half_a_file_is_refused(workspace: Workspace, cut: float) -> None:
    """A half-written file is either no YAML or lacks what was named last, here the peer of the outbound entry."""
    entry = VALID[: VALID.index("admin:")]
    with pytest.raises(InvalidConfiguration):
        workspace.load(entry[: int(len(entry) * cut)])


@pytest.mark.threat(24)
def test_threat_24_a_certificate_that_is_renewed_before_its_key(workspace: Workspace) -> None:
    before = workspace.load()
    renewed = workspace.ca.leaf(key=Ca("keys.org").key)
    (workspace.folder / "planner.crt").write_bytes(renewed.chain_pem)
    fault = workspace.fault()
    assert fault.code is CertificateCode.KEY_MISMATCH
    renewed.write(workspace.folder, "planner")
    after = workspace.load()
    assert after.material.key.secrets.pem != before.material.key.secrets.pem


# --- nothing makes it raise


def verdict(workspace: Workspace, text: str | bytes) -> Loaded | tuple[Fault, ...]:
    """Loads a file; anything but a configuration or faults is a failure of the test."""
    try:
        return workspace.load(text)
    except InvalidConfiguration as error:
        faults = error.faults
    assert faults
    for fault in faults:
        assert all(character.isprintable() or character == "\n" for character in str(fault))
    return faults


TOKENS = """\
tokens:
  - name: api
    kind: oauth2
    issuer: https://issuer.example.org
    client_auth: client_secret_basic
    client_id: planner
    client_secret:
      file: secret.txt
    scopes: [a]
    resource: https://tools.example.org
  - name: cli
    kind: exec
    command: [get-token]
    cache: none
issuers:
  - name: corp
    issuer: https://issuer.example.org
    jwks: https://issuer.example.org/jwks
    algorithms: [ES256]
    typ: none
    ca: ca.crt
"""
ASKED = """\
        token:
          issuer: corp
          audience: tools
          claims:
            deep: {a: b}
            admin: true
          headers:
            x-subject: sub
        methods:"""
WHOLE = (
    edit("        methods:", ASKED, edit("    peer:", "    token: api\n    token_header: X-Api-Key\n    peer:"))
    + TOKENS
)
LINES = WHOLE.splitlines(keepends=True)
VALUES = st.sampled_from(
    [
        "", "~", "[]", "{}", "yes", "0", "-1", "0x1", "1e9", "1:2", "*", "&a", "*a", "!t x", "| \n", ">", "'", '"', "[",
        "{", "- ", "? ", "a: b", "127.0.0.1:0", "unix:x", "tpm:x", "spiffe://x", "sha256:", "\u202e", "\0", "\t", "\x85",
        '"\\ud800"', '"\\x00"', "2026-01-01", "<<", "=", ".nan", "9" * 400, "x" * 5000,
    ]
)  # fmt: skip


def test_the_file_that_is_spoilt_is_valid(workspace: Workspace) -> None:
    secret(workspace)
    assert workspace.load(WHOLE)


def secret(workspace: Workspace) -> None:
    path = workspace.folder / "secret.txt"
    path.touch(mode=0o600)
    path.write_text("secret")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(LINES) - 1), VALUES), min_size=1, max_size=4))
def test_no_value_of_a_key_raises(shared_workspace: Workspace, changes: list[tuple[int, str]]) -> None:
    """Invariant: a valid file with values replaced is a configuration or printable faults, never an exception."""
    secret(shared_workspace)
    lines = LINES.copy()
    for index, value in changes:
        head, colon, _ = lines[index].partition(":")
        lines[index] = f"{head}{colon} {value}\n"
    verdict(shared_workspace, "".join(lines).encode("utf-8", "surrogatepass"))


@given(st.randoms(use_true_random=False), st.integers(1, 6))
def test_no_mutation_of_a_valid_file_raises(shared_workspace: Workspace, rng: random.Random, count: int) -> None:
    """Invariant: a valid file with pieces cut, doubled, moved or overwritten is a configuration or printable faults."""
    secret(shared_workspace)
    data = bytearray(WHOLE.encode())
    for _ in range(count):
        start = rng.randrange(len(data) + 1)
        stop = min(len(data), start + rng.randrange(40))
        piece = bytes(data[start:stop])
        where = rng.randrange(len(data) + 1)
        change = rng.randrange(4)
        if change == 0:
            del data[start:stop]
        elif change == 1:
            data[where:where] = piece
        elif change == 2:
            data[start:stop] = rng.randbytes(len(piece))
        else:
            data[where:where] = rng.choice(
                [b"\n", b"  ", b"- ", b": ", b"\t", b"#", b"'", b'"', b"*", b"&a ", b"!", b"{"]
            )
    verdict(shared_workspace, bytes(data))


@given(st.text() | st.binary(max_size=300))
def test_no_text_raises(shared_workspace: Workspace, text: str | bytes) -> None:
    """Invariant: whatever the bytes of the file, they are a configuration or printable faults, never an exception."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    assert not isinstance(verdict(shared_workspace, data), Loaded)


@given(
    st.sampled_from(["planner.crt", "planner.key", "ca.crt"]), st.binary(max_size=200), st.integers(0, 2000), st.data()
)
def test_no_file_that_is_named_raises(
    shared_workspace: Workspace, name: str, junk: bytes, where: int, data: st.DataObject
) -> None:
    """Invariant: certificate, key and bundle with any bytes in them are taken or give printable faults."""
    path = shared_workspace.folder / name
    good = path.read_bytes()
    cut = where + data.draw(st.integers(0, 200))
    try:
        path.write_bytes(good[:where] + junk + good[cut:])
        verdict(shared_workspace, VALID)
    finally:
        path.write_bytes(good)


def test_ten_thousand_rules(workspace: Workspace) -> None:
    rules = "".join(f"      - caller: spiffe://example.org/agent/a{n}\n" for n in range(10_000))
    start = VALID.index("      - caller:")
    text = VALID[:start] + rules + VALID[VALID.index("outbound:") :]
    assert len(workspace.load(text).config.inbound[0].allow) == 10_000
