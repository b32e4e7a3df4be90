from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from sidecar.config.faults import ConfigCode, Fault, InvalidConfiguration
from sidecar.config.load import Loaded, load
from sidecar.tokens.settings import SecretRef
from tests.support.ca import Ca
from tests.support.configuration import VALID, Workspace, edit, line_of

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "hunter2-canary"


def secret(place: str, *, auth: str = "client_secret_basic") -> str:
    return f"""{VALID}tokens:
  - name: api
    kind: oauth2
    issuer: https://issuer.example.org
    client_auth: {auth}
    client_secret: {place}
"""


CA = """tokens:
  - name: api
    kind: oauth2
    issuer: https://issuer.example.org
    client_auth: tls_client_auth
    ca: a.pem
issuers:
  - name: corp
    issuer: https://issuer.example.org
    jwks: https://issuer.example.org/jwks
    ca: b.pem
"""


def file(workspace: Workspace, data: bytes, mode: int = 0o600, name: str = "secret.txt") -> Path:
    path = workspace.folder / name
    path.touch()
    path.write_bytes(data)
    path.chmod(mode)
    return path


def with_environment(workspace: Workspace, text: str, environ: dict[str, str]) -> Loaded:
    return load(workspace.write(text), now=workspace.now, environ=environ)


def fault_of(workspace: Workspace, text: str, environ: dict[str, str]) -> Fault:
    with pytest.raises(InvalidConfiguration) as caught:
        with_environment(workspace, text, environ)
    (fault,) = caught.value.faults
    return fault


# --- client secrets


@pytest.mark.parametrize("data", [SECRET, f"{SECRET}\n", f"{SECRET}\r\n"])
def test_a_secret_in_a_file_is_read_once_and_shown_nowhere(workspace: Workspace, data: str) -> None:
    path = file(workspace, data.encode())
    loaded = workspace.load(secret("{file: secret.txt}"))
    assert loaded.token_secrets == {SecretRef(file=path): SECRET}
    assert path in loaded.snapshot.paths
    assert SECRET not in repr(loaded)
    path.write_bytes(b"next\n")
    assert loaded.snapshot.again() != loaded.snapshot


def test_a_secret_in_the_environment(workspace: Workspace) -> None:
    loaded = with_environment(workspace, secret("{env: TOOLS_SECRET}"), {"TOOLS_SECRET": SECRET})
    assert loaded.token_secrets == {SecretRef(env="TOOLS_SECRET"): SECRET}
    assert SECRET not in repr(loaded)


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"a\nb\n", b"a\n\n", b"a b", b"\xff", "ä".encode(), b"a\0", b"\xef\xbb\xbfa", b"x" * 4097]
)
def test_what_is_no_secret(workspace: Workspace, data: bytes) -> None:
    path = file(workspace, data)
    text = secret("{file: secret.txt}")
    fault = workspace.fault(text)
    assert (fault.code, fault.key) == (ConfigCode.BAD_SECRET, "tokens[0].client_secret.file")
    assert fault.line == line_of(text, "client_secret:")
    assert fault.message == f"{path}: does not hold a client secret"
    assert fault.hint == "a client secret is 1 to 4096 visible ASCII characters, in one line"


@pytest.mark.parametrize("value", ["", "a\n", "a b", "ä", "\udcff", "x" * 4097])
def test_what_is_no_secret_in_the_environment(workspace: Workspace, value: str) -> None:
    fault = fault_of(workspace, secret("{env: TOOLS_SECRET}"), {"TOOLS_SECRET": value})
    assert (fault.code, fault.key) == (ConfigCode.BAD_SECRET, "tokens[0].client_secret.env")
    assert fault.message == "the variable does not hold a client secret"


def test_the_longest_secret(workspace: Workspace) -> None:
    path = file(workspace, b"x" * 4096 + b"\n")
    assert workspace.load(secret("{file: secret.txt}")).token_secrets[SecretRef(file=path)] == "x" * 4096


def test_a_variable_that_is_not_set(workspace: Workspace) -> None:
    text = secret("{env: TOOLS_SECRET}")
    fault = workspace.fault(text)
    assert (fault.code, fault.key) == (ConfigCode.ENV_UNSET, "tokens[0].client_secret.env")
    assert fault.line == line_of(text, "client_secret:")
    assert fault.hint == "set it where sidecar is started, or write {file: PATH}"


@pytest.mark.threat(60)
@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660])
def test_threat_60_a_file_with_a_secret_is_closed_to_others(workspace: Workspace, mode: int) -> None:
    path = file(workspace, SECRET.encode(), mode)
    fault = workspace.fault(secret("{file: secret.txt}"))
    assert (fault.code, fault.key) == (ConfigCode.KEY_PERMISSIONS, "tokens[0].client_secret.file")
    assert fault.message.startswith(f"{path}: holds a client secret and is open to ")


def test_a_file_that_is_not_there(workspace: Workspace) -> None:
    fault = workspace.fault(secret("{file: secret.txt}"))
    assert (fault.code, fault.key) == (ConfigCode.FILE_MISSING, "tokens[0].client_secret.file")


@pytest.mark.threat(21)
@pytest.mark.parametrize(
    ("place", "code"),
    [
        (SECRET, ConfigCode.SECRET),
        (f'"{SECRET}"', ConfigCode.SECRET),
        (f"[{SECRET}]", ConfigCode.SECRET),
        (f"{{{SECRET}}}", ConfigCode.UNKNOWN_KEY),
        (f"{{value: {SECRET}}}", ConfigCode.UNKNOWN_KEY),
        (f"{{env: {SECRET}}}", ConfigCode.BAD_NAME),
        ("{env: hunter2canary}", ConfigCode.ENV_UNSET),
        (f"{{file: secret.txt, env: {SECRET}}}", ConfigCode.BAD_NAME),
        ("{}", ConfigCode.WRONG_TYPE),
        ("{file: secret.txt, env: A}", ConfigCode.WRONG_TYPE),
        ("", ConfigCode.NO_VALUE),
        ("{file: }", ConfigCode.NO_VALUE),
    ],
)
def test_threat_21_a_secret_in_the_wrong_place_is_refused_and_not_quoted(
    workspace: Workspace, place: str, code: ConfigCode
) -> None:
    file(workspace, b"a")
    fault = workspace.fault(secret(place))
    assert fault.code is code
    assert fault.key.startswith("tokens[0].client_secret")
    assert "hunter2" not in str(fault)


def test_files_are_looked_at_though_the_source_is_faulty(workspace: Workspace) -> None:
    faults = workspace.faults(edit("kind: oauth2\n", "kind: oauth2\n    scopes: []\n", secret("{file: secret.txt}")))
    assert [fault.code for fault in faults] == [ConfigCode.EMPTY_LIST, ConfigCode.FILE_MISSING]


# --- authorities


def test_authorities_are_read_once_and_kept_as_certificates(workspace: Workspace) -> None:
    other = Ca("b.org", now=workspace.now)
    one = file(workspace, "# Wurzel für alle\n".encode() + workspace.ca.pem, 0o644, "a.pem")
    two = file(workspace, workspace.ca.pem + b"text between\n" + other.pem, 0o644, "b.pem")
    loaded = workspace.load(VALID + CA)
    assert set(loaded.token_files) == {one, two}
    assert [len(x509.load_pem_x509_certificates(loaded.token_files[path])) for path in (one, two)] == [1, 2]
    assert all(pem.isascii() and b"between" not in pem for pem in loaded.token_files.values())
    assert {one, two} <= set(loaded.snapshot.paths)


def test_a_file_may_be_named_twice(workspace: Workspace) -> None:
    path = file(workspace, workspace.ca.pem, 0o644, "a.pem")
    assert set(workspace.load((VALID + CA).replace("b.pem", "a.pem")).token_files) == {path}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no PEM certificate"),
        (b"garbage", "holds no PEM certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds a certificate that cannot be read"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n", "is damaged: the block at line 1 does not end"),
        (
            b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
            "is damaged: the block at line 1 is not base64",
        ),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "holds no PEM certificate"),
    ],
)
def test_what_is_no_authority(workspace: Workspace, data: bytes, message: str) -> None:
    path = file(workspace, data, 0o644, "a.pem")
    file(workspace, workspace.ca.pem, 0o644, "b.pem")
    fault = workspace.fault(VALID + CA)
    assert (fault.code, fault.key) == (ConfigCode.BAD_CA, "tokens[0].ca")
    assert fault.line == line_of(VALID + CA, "ca: a.pem")
    assert fault.message == f"{path}: {message}"
    assert fault.hint


def test_a_key_among_authorities(workspace: Workspace) -> None:
    path = file(workspace, workspace.ca.pem + workspace.identity.key_pem, 0o600, "a.pem")
    file(workspace, workspace.ca.pem, 0o644, "b.pem")
    fault = workspace.fault(VALID + CA)
    assert (fault.code, fault.message) == (
        ConfigCode.BAD_CA,
        f"{path}: holds a private key, where certificates alone are expected",
    )
    path.chmod(0o644)
    assert [fault.code for fault in workspace.faults(VALID + CA)] == [ConfigCode.KEY_PERMISSIONS, ConfigCode.BAD_CA]
