from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cli import main
from sidecar.cli.check import summary
from sidecar.clock import Clock
from sidecar.config.effective import policy_version
from sidecar.config.json_schema import shipped
from sidecar.keys.tpm import public
from sidecar.keys.tpm.public import Attribute
from sidecar.keys.tpm.tss2 import OWNER, Wrapped
from tests.support.ca import DAY, HOUR, Ca, Identity, keypair
from tests.support.configuration import OTHER_PIN, PIN, VALID, Workspace, edit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cryptography.hazmat.primitives.asymmetric import ec

ALLOW = VALID[VALID.index("    allow:") : VALID.index("outbound:")]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Certificates that are valid now: the command has the clock of the machine."""
    return Workspace(tmp_path, now=Clock().wall())


@pytest.fixture(scope="module")
def shared_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("check"), now=Clock().wall())


def lines(workspace: Workspace, text: str = VALID, *, after: float = 0.0) -> list[str]:
    return list(summary(workspace.load(text), workspace.now + after))


def test_a_file_without_faults(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    path = workspace.write()
    assert main(["check", str(path)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.startswith(f"{path}: no faults\n")


def test_faults_go_to_stderr_and_the_code_is_two(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    path = workspace.write(edit("name: in", "name: IN", edit("    peer:", "    pins: []\n    peer:")))
    assert main(["check", str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        f'{path}:8: inbound[0].name: "IN" is not a name\n'
        "    a name is 1 to 63 of the characters a-z, 0-9 and -\n"
        f"{path}:21: outbound[0].pins: the list of pins is empty: it names no key\n"
        "    name at least one pin, or remove the key to let chain and name decide\n"
        f"{path}: 2 faults\n"
    )


def test_the_schema_is_printed_in_place_of_a_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--schema"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out == shipped()
    assert json.loads(said.out)["title"] == "sidecar configuration"


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "/nowhere/x.yaml"]) == 2
    assert capsys.readouterr().err == (
        "/nowhere/x.yaml: does not exist\n    correct the path, or the file\n/nowhere/x.yaml: 1 fault\n"
    )


def test_the_summary(workspace: Workspace) -> None:
    config = workspace.load().config
    assert lines(workspace) == [
        f"{workspace.folder / 'planner.yaml'}: no faults",
        "  identity  spiffe://example.org/agent/planner/1",
        f"            pin {workspace.identity.pin}, key protection software",
        *[line for line in lines(workspace) if line.startswith("            valid until ")],
        "  trust     example.org: 1 authority",
        "  inbound   in: 127.0.0.1:8443 (mutual TLS) -> http://127.0.0.1:8080",
        "              allow spiffe://example.org/agent/planner/*, 1 pin, methods GET POST, paths /mcp /tools/**",
        "  outbound  out: 127.0.0.1:14001 -> tools.example.org:8443 (mutual TLS)",
        "              peer spiffe://example.org/agent/tools/*",
        "              called tools.internal",
        f"  admin     unix:{workspace.folder}/admin.sock",
        "  health    127.0.0.1:14021",
        "  log       stdout",
        f"  policy    version {policy_version(config)}",
        "  unsafe    nothing",
        "  note      the certificate expires soon; afterwards nothing is let through",
        "            a software key can be copied by whoever can read its file: for development",
    ]


@pytest.mark.parametrize(
    ("lifetime", "left"),
    [
        (6 * DAY + 23 * HOUR, "6 days 23 hours"),
        (DAY + 1, "1 day 1 second"),
        (90, "1 minute 30 seconds"),
        (0.2, "0 seconds"),
    ],
)
def test_how_long_the_certificate_lives(workspace: Workspace, lifetime: float, left: str) -> None:
    workspace.ca.leaf(lifetime=10 * DAY).write(workspace.folder, "planner")
    loaded = workspace.load()
    until = loaded.material.svid.not_after
    (line,) = [line for line in summary(loaded, until - lifetime) if "valid until" in line]
    assert line.endswith(f" UTC ({left} left)")
    noted = any("expires soon" in line for line in summary(loaded, until - lifetime))
    assert noted is (lifetime < DAY)


def test_a_tunnel_is_called_what_it_is(workspace: Workspace) -> None:
    conditions = "        methods: [GET, POST]\n        paths: [/mcp, /tools/**]\n"
    text = edit(
        "http://127.0.0.1:8080", "tcp://10.0.0.5:5432\n    unsafe_plaintext_forward: true", edit(conditions, "")
    )
    text = edit("    hosts: [tools.internal]\n", "    protocol: tcp\n", text)
    told = lines(workspace, edit("    allow:\n", "    proxy_protocol: v2\n    allow:\n", text))
    assert "  inbound   in: 127.0.0.1:8443 (mutual TLS, any bytes) -> tcp://10.0.0.5:5432 (PROXY protocol v2)" in told
    found = lines(workspace, text)
    assert "  inbound   in: 127.0.0.1:8443 (mutual TLS, any bytes) -> tcp://10.0.0.5:5432" in found
    assert "              allow spiffe://example.org/agent/planner/*, 1 pin" in found
    assert "  outbound  out: 127.0.0.1:14001 -> tools.example.org:8443 (mutual TLS, any bytes)" in found
    assert "  unsafe    inbound in: bytes cross the network to 10.0.0.5:5432 in clear" in found


def test_what_is_unsafe_is_said(workspace: Workspace) -> None:
    text = edit("http://127.0.0.1:8080", "http://10.0.0.5:8080\n    unsafe_plaintext_forward: true")
    text = edit("127.0.0.1:14001", "0.0.0.0:14001\n    unsafe_plaintext_listen: true", text)
    text = edit("127.0.0.1:14021", "0.0.0.0:14021", text)
    found = lines(workspace, text)
    start = found.index("  unsafe    inbound in: requests cross the network to 10.0.0.5:8080 in clear")
    assert found[start + 1] == "            outbound out: whoever reaches 0.0.0.0:14001 speaks with our identity"
    assert "            health and metrics can be read from the network" in found


NOWHERE = "swtpm:path=/no/such/socket"


def pin_file(workspace: Workspace) -> None:
    path = workspace.folder / "pin"
    path.touch(mode=0o600)
    path.write_text("1234\n")


@pytest.mark.parametrize(
    ("key", "protection", "device"),
    [
        (f"tpm:handle=0x81000002;tcti={NOWHERE};pin-source=file:pin", "tpm", "TPM"),
        ("pkcs11:object=x?module-path=module.so&pin-source=file:pin", "hsm", "token"),
        ("signer:unix:absent.sock", "remote", "signer service"),
    ],
)
def test_a_key_that_no_file_shows(workspace: Workspace, key: str, protection: str, device: str) -> None:
    pin_file(workspace)
    (workspace.folder / "module.so").write_text("never loaded")
    found = lines(workspace, edit("key: planner.key", f'key: "{key}"'))
    assert f"            pin {workspace.identity.pin}, key protection {protection}" in found
    assert found[-1] == f"            no {device} was opened: `run` sees whether its key is the certificate's"
    assert "  unsafe    nothing" in found
    assert not any("software key" in line for line in found)


def test_a_wrapped_key_is_compared_at_once(workspace: Workspace) -> None:
    wrap(workspace)
    found = lines(workspace, edit("key: planner.key", f'key: "tpm:file=planner.tpm.pem;tcti={NOWHERE}"'))
    assert f"            pin {workspace.identity.pin}, key protection tpm" in found
    assert not any("was opened" in line or "software key" in line for line in found)
    foreign = keypair("foreign").public_key()
    wrap(workspace, foreign)
    assert "planner.tpm.pem" in workspace.fault(edit("key: planner.key", 'key: "tpm:file=planner.tpm.pem"')).message


@pytest.mark.parametrize(
    "key", ["tpm:handle=0x81000002;unsafe-copyable=true", "pkcs11:object=x?module-path=module.so&unsafe-copyable=true"]
)
def test_a_key_that_may_be_copied_is_unsafe(workspace: Workspace, key: str) -> None:
    (workspace.folder / "module.so").write_text("never loaded")
    found = lines(workspace, edit("key: planner.key", f'key: "{key}"'))
    assert f"            pin {workspace.identity.pin}, key protection software" in found
    assert (
        "  unsafe    identity: a key that can be copied out of its device is taken all the same (unsafe-copyable)"
        in found
    )


def wrap(workspace: Workspace, key: ec.EllipticCurvePublicKey | None = None) -> None:
    """Writes a wrapped key with that public half, as far as anybody sees who has no TPM."""
    numbers = (key or workspace.identity.key.public_key()).public_numbers()
    point = b"".join(b"\0\x20" + number.to_bytes(32) for number in (numbers.x, numbers.y))
    # TPMT_PUBLIC: ECC, SHA-256, attributes, no policy, no symmetric, no scheme, NIST P-256, no KDF (part 2, 12.2.4).
    attributes = Attribute.SIGN | Attribute.USER_WITH_AUTH | Attribute.NO_DA
    attributes |= Attribute.FIXED_TPM | Attribute.FIXED_PARENT | Attribute.SENSITIVE_DATA_ORIGIN
    area = bytes.fromhex("0023 000b") + attributes.to_bytes(4) + bytes.fromhex("0000 0010 0010 0003 0010") + point
    wrapped = Wrapped(public.parse(len(area).to_bytes(2) + area), OWNER, True, b"\0\x01x")
    path = workspace.folder / "planner.tpm.pem"
    path.touch(mode=0o600)
    path.write_bytes(wrapped.pem())


def test_a_flag_that_is_not_needed_is_not_unsafe(workspace: Workspace) -> None:
    text = edit("http://127.0.0.1:8080", "http://127.0.0.1:8080\n    unsafe_plaintext_forward: true")
    assert "  unsafe    nothing" in lines(workspace, text)


TOKENS = """\
tokens:
  - {name: api, kind: oauth2, issuer: "https://issuer.example.org", client_auth: tls_client_auth}
  - {name: old, kind: oauth2, issuer: "http://old.example.org", client_auth: client_secret_post, bound: false,
     client_secret: {file: secret.txt}, unsafe_plaintext_issuer: true}
  - {name: mesh, kind: self-signed, audience: tools, helper: true}
  - {name: pod, kind: file, path: token}
  - {name: cli, kind: exec, command: [get-token, tools]}
issuers:
  - {name: corp, issuer: "https://issuer.example.org", jwks: "https://issuer.example.org/jwks"}
  - {name: plain, issuer: "https://b.example.org", jwks: "http://b.example.org/jwks", algorithms: [RS256, PS256],
     unsafe_plaintext_issuer: true}
"""


def test_tokens_are_in_the_summary(workspace: Workspace) -> None:
    secret = workspace.folder / "secret.txt"
    secret.touch(mode=0o600)
    secret.write_text("hunter2-canary")
    text = edit("    peer:", "    token: api\n    peer:")
    asked = "        token: {issuer: corp, audience: tools, scopes: [b, a]}\n        methods:"
    found = lines(workspace, edit("        methods:", asked, text) + TOKENS)
    rule = "              allow spiffe://example.org/agent/planner/*, 1 pin, methods GET POST, paths /mcp /tools/**"
    assert f"{rule}, a token of corp with a b" in found
    assert "              token api as Authorization: Bearer" in found
    start = found.index("  token     api: oauth2 of https://issuer.example.org by tls_client_auth, bound")
    assert found[start + 1 : start + 7] == [
        "  token     old: oauth2 of http://old.example.org by client_secret_post, not bound",
        "  token     mesh: self-signed for tools, bound",
        f"  token     pod: file {workspace.folder}/token, not bound",
        "  token     cli: exec get-token, not bound",
        "  issuer    corp: https://issuer.example.org, ES256",
        "  issuer    plain: https://b.example.org, RS256 PS256",
    ]
    start = found.index("  unsafe    tokens old: its issuer is reached in clear")
    assert found[start + 1] == "            issuers plain: its keys are fetched in clear"
    assert found[start + 2] == (f"  known gap tokens old: a static secret (file {secret}): whoever copies it can be us")
    assert "tokens mesh: `sidecar token` gives one to whoever may use the administration socket" in "\n".join(found)
    assert "canary" not in "\n".join(found)


def test_a_known_gap_is_no_fault(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    secret = workspace.folder / "secret.txt"
    secret.touch(mode=0o600)
    secret.write_text("hunter2-canary")
    assert main(["check", str(workspace.write(VALID + TOKENS))]) == 0
    assert "known gap" in capsys.readouterr().out
    assert main(["check", str(workspace.write())]) == 0
    assert "known gap" not in capsys.readouterr().out


def test_a_token_that_anybody_may_have_taken_is_called_so(workspace: Workspace) -> None:
    asked = "        token: {issuer: self-signed, audience: tools, bound: false}\n        methods:"
    assert any(
        line.endswith(", a bearer token of self-signed") for line in lines(workspace, edit("        methods:", asked))
    )


def test_pins_of_a_peer_are_counted(workspace: Workspace) -> None:
    found = lines(workspace, edit("    peer:", f"    pins: ['{PIN}', '{OTHER_PIN}']\n    peer:"))
    assert "              peer spiffe://example.org/agent/tools/*, 2 pins" in found


def test_what_is_not_there_is_not_in_the_summary(workspace: Workspace) -> None:
    text = edit("health:\n  listen: 127.0.0.1:14021\n", "access_log: a.json\n")
    found = lines(workspace, edit("    hosts: [tools.internal]\n", "", text))
    assert not any("health" in line or "called" in line for line in found)
    assert f"  log       {workspace.folder}/a.json" in found


def test_many_rules_are_cut(workspace: Workspace) -> None:
    rules = "".join(f"      - caller: spiffe://example.org/agent/a{n}\n" for n in range(25))
    found = lines(workspace, edit(ALLOW, f"    allow:\n{rules}"))
    assert sum("allow spiffe://" in line for line in found) == 20
    assert "              and 5 rules more" in found


def test_several_authorities(workspace: Workspace) -> None:
    other = Ca(key="next", now=workspace.now)
    (workspace.folder / "ca.crt").write_bytes(workspace.ca.pem + other.pem)
    assert "  trust     example.org: 2 authorities" in lines(workspace)


@pytest.mark.threat(1)
@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_threat_1_a_bundle_that_is_none_ends_with_two_and_names_the_file(
    workspace: Workspace, content: bytes | None
) -> None:
    path = workspace.folder / "ca.crt"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", "check", str(workspace.write())], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.threat(1)
def test_threat_1_a_bundle_that_we_may_not_read(capsys: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        workspace = Workspace(Path(name), now=Clock().wall())
        path = workspace.write()
        assert main(["check", str(path)]) == 0
        (workspace.folder / "ca.crt").chmod(0)
        if os.geteuid() == 0:  # root may read everything: be somebody else for a moment
            workspace.folder.chmod(0o755)
            os.chown(workspace.folder / "planner.key", 65534, 65534)
            os.seteuid(65534)
            stack.callback(os.seteuid, 0)
        assert main(["check", str(path)]) == 2
        first = capsys.readouterr().err.splitlines()[0]
        assert first == f"{path}:6: identity.trust.example.org: {name}/ca.crt: cannot be read: permission denied"


def full_device() -> Iterator[int]:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


def closed_pipe() -> Iterator[int]:
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize(
    ("opened", "said"),
    [
        pytest.param(
            full_device,
            "sidecar: No space left on device\n",
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux"),
        ),
        pytest.param(closed_pipe, ""),
    ],
)
def test_a_stdout_that_takes_nothing_is_no_defect(
    workspace: Workspace, opened: Callable[[], Iterator[int]], said: str
) -> None:
    """Buffered or not: neither a second message of the interpreter nor its exit code 120."""
    for unbuffered in ("", "1"):
        with contextlib.contextmanager(opened)() as stdout:
            done = subprocess.run(
                [sys.executable, "-m", "sidecar", "check", str(workspace.write())],
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            )
        assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.threat(60)
def test_threat_60_the_key_is_nowhere_in_what_is_said(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    body = workspace.identity.key_pem.splitlines()[1].decode()
    indented = workspace.identity.key_pem.decode().replace("\n", "\n    ")
    assert main(["check", str(workspace.write())]) == 0
    assert main(["check", str(workspace.write(edit("key: planner.key", f"key: |\n    {indented}")))]) == 2
    (workspace.folder / "planner.key").chmod(0o644)
    assert main(["check", str(workspace.write())]) == 2
    foreign = Identity(workspace.identity.chain, Ca("b.org").key)
    foreign.write(workspace.folder, "planner")
    assert main(["check", str(workspace.write())]) == 2
    said = capsys.readouterr()
    assert body[:16] not in said.out + said.err
    assert "a secret stands in the configuration file" in said.err


@given(st.text() | st.binary(max_size=200), st.integers(0, len(VALID)), st.integers(0, 60))
def test_no_configuration_file_makes_check_raise(
    shared_workspace: Workspace, junk: str | bytes, where: int, cut: int
) -> None:
    """Invariant: whatever the file holds, check exits 0 or 2, says something, and has no internal error."""
    data = junk if isinstance(junk, bytes) else junk.encode("utf-8", "surrogatepass")
    valid = VALID.encode()
    for content in (data, valid[:where] + data + valid[where + cut :]):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["check", str(shared_workspace.write(content))])
        assert code in {0, 2}
        assert bool(out.getvalue()) is (code == 0)
        assert bool(err.getvalue()) is (code == 2)
        assert "internal error" not in err.getvalue()
