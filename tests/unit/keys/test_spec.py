from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import ConfigurationError
from sidecar.keys.errors import KeyCode, PrivateKeyError
from sidecar.keys.spec import KeyFile, KeySpec, RemoteKey, TpmKey, named_files, parse, scheme
from sidecar.keys.uri import SOCKET_PATH_BYTES, Pkcs11Key

BASE = Path("/etc/sidecar")

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXT = st.text(CHARACTERS, min_size=1, max_size=20)
PATHS = st.builds(lambda first, name: Path(first + name), st.sampled_from(["/", "//", "/a/", "/%41/", "/;&?#/"]), TEXT)
TPM_KEYS = st.builds(
    TpmKey,
    handle=st.integers(0x81000000, 0x81FFFFFF),
    tcti=st.none() | TEXT,
    pin_source=st.none() | PATHS,
    copyable=st.booleans(),
) | st.builds(TpmKey, file=PATHS, tcti=st.none() | TEXT, pin_source=st.none() | PATHS, copyable=st.booleans())
REMOTE_KEYS = st.builds(RemoteKey, PATHS.filter(lambda path: len(str(path).encode()) <= SOCKET_PATH_BYTES))


def refused(text: str) -> PrivateKeyError:
    with pytest.raises(PrivateKeyError) as caught:
        parse(text, BASE)
    assert isinstance(caught.value, ConfigurationError)
    return caught.value


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("tls.key", "/etc/sidecar/tls.key"),
        ("/run/tls.key", "/run/tls.key"),
        ("./tpm:x", "/etc/sidecar/tpm:x"),
        ("a/b:c", "/etc/sidecar/a/b:c"),
        ("c:/tls.key", "/etc/sidecar/c:/tls.key"),
    ],
)
def test_a_path(text: str, path: str) -> None:
    assert parse(text, BASE) == KeyFile(Path(path))
    assert str(parse(text, BASE)) == path


@pytest.mark.parametrize("text", ["vault:secret/x", "file:tls.key", "tmp:handle=1", "awskms://x", "http://x"])
def test_a_scheme_is_no_path(text: str) -> None:
    error = refused(text)
    assert error.code is KeyCode.UNKNOWN_KIND
    assert str(error) == f"{scheme(text)}: is not a kind of key"
    assert error.hint == (
        "name the path of a PEM file, or begin with tpm:, pkcs11: or signer:unix:; "
        "write ./ before a path that begins like a scheme"
    )


@pytest.mark.parametrize(
    ("text", "name"), [("PKCS11:object=x", "pkcs11"), ("signer:unix:/x", "signer"), ("tls.key", None), (":x", None)]
)
def test_schemes(text: str, name: str | None) -> None:
    assert scheme(text) == name


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("tpm:handle=0x81000002", TpmKey(handle=0x81000002)),
        ("TPM:handle=0X81FFFFFF", TpmKey(handle=0x81FFFFFF)),
        ("tpm:file=agent.tss", TpmKey(file=BASE / "agent.tss")),
        ("tpm:file=/k/a%3Bb", TpmKey(file=Path("/k/a;b"))),
        ("tpm:file=a=b", TpmKey(file=BASE / "a=b")),
        ("tpm:handle=0x81000002;tcti=swtpm:path=/run/s", TpmKey(handle=0x81000002, tcti="swtpm:path=/run/s")),
        ("tpm:tcti=device%3A/dev/tpmrm0;handle=0x81000002", TpmKey(handle=0x81000002, tcti="device:/dev/tpmrm0")),
        ("tpm:handle=0x81000002;pin-source=file:pin", TpmKey(handle=0x81000002, pin_source=BASE / "pin")),
        ("tpm:handle=0x81000002;pin-source=file:///pin", TpmKey(handle=0x81000002, pin_source=Path("/pin"))),
        ("tpm:handle=0x81000002;unsafe-copyable=true", TpmKey(handle=0x81000002, copyable=True)),
        ("tpm:handle=0x81000002;unsafe-copyable=false", TpmKey(handle=0x81000002)),
    ],
)
def test_a_key_in_a_tpm(text: str, spec: TpmKey) -> None:
    assert parse(text, BASE) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tpm:", "tpm: has a part without ="),
        ("tpm:0x81000002", "tpm: has a part without ="),
        ("tpm:handle=0x81000002;", "tpm: has a part without ="),
        ("tpm:handle=0x81000002;1234", "tpm: has a part without ="),
        ("tpm:handle=0x81000002;pin=1234", "tpm: has no part 'pin'"),
        ("tpm:handle=0x81000002;pin-value=1234", "tpm: has no part 'pin-value'"),
        ("tpm:Handle=0x81000002", "tpm: has no part 'Handle'"),
        ("tpm:\x1b[31m=1", "tpm: has no part '\\x1b[31m'"),
        (f"tpm:{'x' * 99}=1", f"tpm: has no part '{'x' * 30}...'"),
        ("tpm:handle=", "tpm: has an empty handle"),
        ("tpm:handle=0x81000002;handle=0x81000003", "tpm: has handle twice"),
        ("tpm:handle=0x81000002;file=x", "tpm: names the key by exactly one of handle and file"),
        ("tpm:tcti=device", "tpm: names the key by exactly one of handle and file"),
        ("tpm:handle=0x80000002", "tpm: '0x80000002' is not the handle of a persistent object"),
        ("tpm:handle=0x82000000", "tpm: '0x82000000' is not the handle of a persistent object"),
        ("tpm:handle=0x8100000", "tpm: '0x8100000' is not the handle of a persistent object"),
        ("tpm:handle=0x810000021", "tpm: '0x810000021' is not the handle of a persistent object"),
        ("tpm:handle=2164260866", "tpm: '2164260866' is not the handle of a persistent object"),
        ("tpm:handle=0x8100_002", "tpm: '0x8100_002' is not the handle of a persistent object"),
        ("tpm:file=a%", "tpm: file has a percent sign without two hexadecimal digits"),
        ("tpm:file=a%2", "tpm: file has a percent sign without two hexadecimal digits"),
        ("tpm:file=%ff", "tpm: file is not UTF-8"),
        ("tpm:file=a%00", "tpm: file holds a zero byte"),
        ("tpm:handle=0x81000002;tcti=%zz", "tpm: tcti has a percent sign without two hexadecimal digits"),
        ("tpm:file=\ud800", "tpm: file is no text"),
        ("tpm:handle=0x81000002;pin-source=1234", "pin-source is not a file"),
        ("tpm:handle=0x81000002;pin-source=env:PIN", "pin-source is not a file"),
        ("tpm:handle=0x81000002;unsafe-copyable=yes", "unsafe-copyable is neither true nor false"),
    ],
)
def test_what_is_no_key_in_a_tpm(text: str, message: str) -> None:
    error = refused(text)
    assert (error.code, str(error)) == (KeyCode.BAD_PLACE, message)
    assert error.hint


@pytest.mark.parametrize(
    ("text", "path"),
    [("signer:unix:/run/s", "/run/s"), ("signer:unix:s", "/etc/sidecar/s"), ("SIGNER:unix:a:b", "/etc/sidecar/a:b")],
)
def test_a_signer_service(text: str, path: str) -> None:
    assert parse(text, BASE) == RemoteKey(Path(path))


@pytest.mark.parametrize("text", ["signer:", "signer:unix:", "signer:/run/s", "signer:tcp:host:1", "signer:UNIX:/x"])
def test_what_is_no_signer_service(text: str) -> None:
    error = refused(text)
    assert (error.code, error.hint) == (KeyCode.BAD_PLACE, "write signer:unix:PATH")


def test_the_longest_path_of_a_socket() -> None:
    longest = "/" + "s" * (SOCKET_PATH_BYTES - 1)
    assert parse(f"signer:unix:{longest}", BASE) == RemoteKey(Path(longest))
    assert refused(f"signer:unix:{longest}s").code is KeyCode.BAD_PLACE
    assert refused("signer:unix:/" + "\u00e4" * 54).code is KeyCode.BAD_PLACE  # bytes count, not characters


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("tls.key", ["/etc/sidecar/tls.key"]),
        ("tpm:handle=0x81000002", []),
        ("tpm:file=a;pin-source=file:/p", ["/etc/sidecar/a", "/p"]),
        ("tpm:handle=0x81000002;pin-source=file:p", ["/etc/sidecar/p"]),
        ("pkcs11:object=a?module-path=/m.so", []),
        ("pkcs11:object=a?module-path=/m.so&pin-source=file:p", ["/etc/sidecar/p"]),
        ("signer:unix:/s", []),
    ],
)
def test_the_files_that_are_read_with_the_configuration(text: str, files: list[str]) -> None:
    assert [str(path) for path in named_files(parse(text, BASE))] == files


@given(TPM_KEYS | REMOTE_KEYS | st.builds(KeyFile, PATHS))
def test_what_is_written_is_read_again(spec: KeySpec) -> None:
    """Invariant: the written form of a place is that place, wherever it is read."""
    assert parse(str(spec), BASE) == spec
    assert parse(str(spec), Path("/another")) == spec


PIECES = [
    *("tpm:", "pkcs11:", "signer:", "unix:", "handle=", "0x81000002", "file=", "file:", "tcti=", "object=", "id="),
    *("slot-id=", "module-path=", "pin-source=", "unsafe-copyable=", "true", "%", "%41", ";", "&", "?", "=", "\0"),
    "\ud800",  # half of a surrogate pair
]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=12).map("".join))
def test_hostile_text(text: str) -> None:
    """Invariant: any text is a place or a PrivateKeyError, and its message can be printed."""
    try:
        spec = parse(text, BASE)
    except PrivateKeyError as error:
        message = f"{error} {error.hint}"
    else:
        assert isinstance(spec, KeyFile | TpmKey | Pkcs11Key | RemoteKey)
        message = ""
    assert message.isprintable()
