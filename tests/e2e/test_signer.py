"""Ensures that a signer service lends the use of a key and nothing else, to whom it was told, and says who used it.

Its socket is replaced when its process is gone and never while it answers; it ends at once when told, also while a device
hangs. Whoever is not named is turned away by the kernel's word on his uid, where the socket is open to all.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.remote import RemoteSigner
from sidecar.keys.selftest import check_signature, self_test
from sidecar.keys.signer import Hash
from sidecar.keys.spec import RemoteKey
from tests.support.eventually import eventually
from tests.support.processes import COMMAND, now

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.processes import Site

NOBODY = 65534
#: As another user: connects, asks for the public key in the octets of `sidecar.keys.wire`, and says what came of it.
FOREIGN = """
import os, socket, sys
path, uid = sys.argv[1], int(sys.argv[2])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(20)
try:
    sock.connect(path)
    sock.sendall(bytes((1, 1, 0, 0)))
    print("served" if sock.recv(4096)[:2] == bytes((1, 0)) else "closed")
except PermissionError:
    print("refused")
except ConnectionError:
    print("closed")
"""
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="to become another user needs CAP_SETUID: run the tests as root"
)


class Service:
    """One `sidecar signer`."""

    def __init__(self, site: Site, *options: str, name: str = "signer", key: str = "signer.key") -> None:
        self.site = site
        self.path = site.path(f"{name}.sock")
        self.out, self.err = site.path(f"{name}.out"), site.path(f"{name}.err")
        self.arguments = [*COMMAND, "signer", "--listen", f"unix:{self.path}", "--key", key, *options]
        self.process: subprocess.Popen[bytes] | None = None
        self.environ = dict(os.environ)

    def launch(self) -> subprocess.Popen[bytes]:
        with self.out.open("ab") as out, self.err.open("ab") as err:
            self.process = self.site.process(
                *self.arguments, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=self.environ
            )
        return self.process

    def start(self) -> Service:
        before = self.said.count(" info the signer service is ready ")
        process = self.launch()
        eventually(
            lambda: process.poll() is not None or self.said.count(" info the signer service is ready ") > before,
            "the service to be ready",
        )
        assert process.poll() is None, self.said
        return self

    @property
    def said(self) -> str:
        return self.err.read_text() if self.err.exists() else ""

    def lines(self, event: str) -> list[dict[str, object]]:
        return [line for line in map(json.loads, self.out.read_text().splitlines()) if line["event"] == event]

    def client(self, limit: float = 20) -> RemoteSigner:
        return RemoteSigner(RemoteKey(self.path), limit=limit)

    def terminate(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(20)


@pytest.fixture
def service(site: Site) -> Service:
    site.identity("signer")
    return Service(site)


@pytest.fixture
def client(service: Service) -> Iterator[RemoteSigner]:
    made = service.start().client()
    yield made
    made.close()


def test_it_signs_and_writes_down_who_used_it(service: Service, client: RemoteSigner) -> None:
    for _ in range(3):
        self_test(client)
    client.sign(b" " * 64 + b"TLS 1.3, client CertificateVerify\0" + bytes(32), Hash.SHA256)
    with pytest.raises(SignError) as caught:
        client.sign(b"eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0", Hash.SHA256)
    assert caught.value.code is SignCode.REFUSED
    eventually(lambda: len(service.lines("sign")) == 5, "five lines")
    lines = service.lines("sign")
    assert {(line["peer.pid"], line["peer.uid"]) for line in lines} == {(os.getpid(), os.geteuid())}
    assert [line["result"] for line in lines] == ["ok"] * 4 + ["signer_refused"]
    assert [line["purpose"] for line in lines][2:] == ["self-test", "tls13-certificate-verify", None]
    assert f"pin={lines[0]['pin']} protection=software" in service.said.replace('"', "")
    assert stat.S_IMODE(service.path.stat().st_mode) == 0o600


def test_it_signs_tokens_of_the_one_identity_it_is_told(site: Site) -> None:
    """A self-signed token for its own ID and for no more than five minutes, and an assertion of the client that is named."""
    planner = site.identity("planner")
    ours, issuer = str(planner.id), "https://issuer.example.org"
    plain = Service(site, name="plain", key="planner.key").start()
    options = ("--spiffe-id", ours, "--client-assertion", issuer, ours)
    service = Service(site, *options, name="tokens", key="planner.key").start()

    def token(spiffe_id: str = ours, lifetime: int = 300, audience: str = "tools") -> bytes:
        leaf = planner.leaf.public_bytes(Encoding.DER)
        issued = int(now())
        header = {"alg": "ES256", "typ": "sidecar+jwt", "x5c": [base64.b64encode(leaf).decode()]}
        names = {"iss": spiffe_id, "sub": spiffe_id, "aud": audience}
        bound = {"x5t#S256": base64url(hashlib.sha256(leaf).digest())}
        return written(header, {**names, "iat": issued, "exp": issued + lifetime, "jti": "x" * 22, "cnf": bound})

    def assertion(client_id: str = ours, lifetime: int = 60) -> bytes:
        issued = int(now())
        header = {"alg": "ES256", "typ": "JWT", "x5t#S256": base64url(hashlib.sha256(b"certificate").digest())}
        names = {"iss": client_id, "sub": client_id, "aud": issuer}
        return written(header, {**names, "iat": issued, "exp": issued + lifetime, "jti": "x" * 22})

    signer = service.client()
    for message in (token(), token(lifetime=1), assertion()):
        check_signature(signer.public_key, signer.sign(message, Hash.SHA256), message, Hash.SHA256)
    for message in (
        token(ours + "0"),
        token(lifetime=301),
        token(audience=issuer),
        assertion("another client"),
        assertion(lifetime=61),
    ):
        refused(signer, message)
    without = plain.client()
    for message in (token(), assertion()):
        refused(without, message)
    for each in (signer, without):
        self_test(each)
        each.close()
    signed = "self-signed-token", "self-signed-token", "client-assertion"
    eventually(lambda: len(service.lines("sign")) == 9, "nine lines")
    said = [(line["purpose"], line["result"]) for line in service.lines("sign")]
    assert said[:8] == [*((purpose, "ok") for purpose in signed), *[(None, "signer_refused")] * 5]
    eventually(lambda: len(plain.lines("sign")) == 3, "three lines")
    assert [line["result"] for line in plain.lines("sign")] == ["signer_refused"] * 2 + ["ok"]
    written_down = service.out.read_text() + service.said
    assert "eyJ" not in written_down
    assert "signs=tls13-certificate-verify,self-test,self-signed-token,client-assertion" in service.said.replace(
        '"', ""
    )


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def written(header: dict[str, object], claims: dict[str, object]) -> bytes:
    """The signing input of a token (RFC 7515 5.1)."""
    return ".".join(base64url(json.dumps(each, separators=(",", ":")).encode()) for each in (header, claims)).encode()


def refused(signer: RemoteSigner, message: bytes) -> None:
    with pytest.raises(SignError) as caught:
        signer.sign(message, Hash.SHA256)
    assert caught.value.code is SignCode.REFUSED
    assert "--spiffe-id" in caught.value.hint


def test_told_to_end(service: Service, client: RemoteSigner) -> None:
    self_test(client)
    assert service.terminate() == 0
    assert not service.path.exists()
    assert "Traceback" not in service.said
    with pytest.raises(SignError) as caught:
        self_test(client)
    assert caught.value.code is SignCode.UNAVAILABLE


def test_killed_and_restarted(service: Service, client: RemoteSigner) -> None:
    assert service.process is not None
    service.process.kill()
    service.process.wait()
    assert service.path.is_socket(), "as a process leaves it that had no time"
    with pytest.raises(SignError):
        self_test(client)
    service.start()
    self_test(client)


def test_restarted_with_another_key(site: Site, service: Service, client: RemoteSigner) -> None:
    assert service.terminate() == 0
    site.identity("another")
    service.arguments[service.arguments.index("signer.key")] = "another.key"
    service.start()
    with pytest.raises(SignError) as caught:
        self_test(client)
    assert caught.value.code is SignCode.NO_KEY


def test_a_live_socket_is_left_alone(site: Site, service: Service, client: RemoteSigner) -> None:
    second = site.command(*service.arguments[len(COMMAND) :])
    assert second.returncode == 1
    assert f"another process answers at {service.path}" in second.stderr
    assert "--listen" in second.stderr
    self_test(client)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("absent.key", "absent.key: does not exist"),
        ("signer.crt", "signer.crt: "),
        ("signer:unix:x", "does not pass on"),
    ],
)
def test_a_wrong_key(site: Site, service: Service, key: str, said: str) -> None:
    done = site.command("signer", "--listen", f"unix:{service.path}", "--key", key)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not service.path.exists()


def as_user(path: Path, uid: int) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-c", FOREIGN, str(path), str(uid)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd="/",
    )
    return done.stdout.strip()


@needs_root
def test_only_the_uids_that_are_named(site: Site, service: Service) -> None:
    site.folder.chmod(0o711)
    service.start()
    assert as_user(service.path, NOBODY) == "refused", "the socket's mode"
    service.path.chmod(0o666)
    assert as_user(service.path, NOBODY) == "closed", "the kernel's word"
    named = Service(site, "--uid", str(NOBODY - 1), name="named").start()
    assert stat.S_IMODE(named.path.stat().st_mode) == 0o666
    assert as_user(named.path, NOBODY - 1) == "served"
    assert as_user(named.path, NOBODY) == "closed"
    for each in (service, named):
        eventually(lambda each=each: each.lines("refused"), "the refusal to be written down")  # type: ignore[misc]
        (line,) = each.lines("refused")
        assert (line["peer.uid"], line["result"]) == (NOBODY, "signer_peer_uid")
        assert f"the signer socket refused a connection uid={NOBODY}" in each.said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full (Linux)")
def test_uses_that_could_not_be_written_down_are_told(service: Service) -> None:
    service.out = Path("/dev/full")
    service.start()
    client = service.client()
    self_test(client)
    eventually(lambda: "the access log takes no lines error=ENOSPC" in service.said, "the complaint")
    client.close()
    assert service.terminate() == 0
    assert "uses of the key were not logged lines=1" in service.said


#: Becomes another user once everything is loaded: that one may be unable to read the program.
DEMOTED = """
import os, sys
from sidecar import cli
from sidecar.cli import signer
uid, serve = int(sys.argv[1]), signer.serve
def demoted(order, clock):
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
    return serve(order, clock)
signer.serve = demoted
sys.exit(cli.main(sys.argv[2:]))
"""


@needs_root
def test_root_is_not_served_where_it_is_not_named(site: Site, service: Service) -> None:
    site.folder.chmod(0o777)
    service.arguments = [sys.executable, "-c", DEMOTED, str(NOBODY), *service.arguments[len(COMMAND) :]]
    # That user may not write down what was covered either.
    service.environ = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    service.start()
    assert as_user(service.path, NOBODY) == "served"
    assert as_user(service.path, 0) == "closed"


HUNG = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from sidecar.cli import main
from sidecar.keys.serial import SerialSigner
from sidecar.signer import service
from tests.support.signer_service import StuckDevice

device = StuckDevice()
service.open_signer = lambda spec, secrets, limit: SerialSigner(device, limit=limit)
service.self_test = lambda signer: None
sys.exit(main(sys.argv[1:]))
"""


def test_a_device_that_hangs(site: Site, service: Service) -> None:
    """In the real process: the client is told in time, the key is still shown, and the end is not held up."""
    arguments = [*service.arguments[len(COMMAND) :], "--time-limit", "0.5"]
    service.arguments = [sys.executable, "-c", HUNG, str(Path(__file__).parents[2]), *arguments]
    service.start()
    signer = service.client()
    for _ in range(2):
        with pytest.raises(SignError) as caught:
            self_test(signer)
        assert caught.value.code is SignCode.TIMEOUT
    again = service.client()
    assert again.public_key == signer.public_key
    assert service.terminate() == 0
    assert not service.path.exists()
    assert [line["result"] for line in service.lines("sign")] == ["signer_timeout"] * 2
    for each in (signer, again):
        each.close()


@pytest.mark.needs("swtpm", "tpm2-pytss")
def test_a_tpm_behind_the_service_that_hangs_and_comes_back(site: Site) -> None:
    """The whole way with a real device: sign, hang, be told in time, sign again, hang, end at once."""
    from tests.support.swtpm import Swtpm, make_key

    with Swtpm() as tpm:
        made = make_key(tpm, handle=0x81000002)
        service = Service(site, "--time-limit", "1", key=str(made.spec)).start()
        signer = service.client()
        self_test(signer)
        tpm.hang()
        with pytest.raises(SignError) as caught:
            self_test(signer)
        assert caught.value.code is SignCode.TIMEOUT
        service.client().close()  # the public key is shown all the same
        tpm.resume()
        eventually(lambda: signs(signer), "signatures after the TPM came back")
        assert {line["key.protection"] for line in service.lines("sign")} == {"tpm"}
        tpm.hang()
        with pytest.raises(SignError):
            self_test(signer)
        assert service.terminate() == 0
        tpm.resume()
        signer.close()


def signs(signer: RemoteSigner) -> bool:
    try:
        self_test(signer)
    except SignError:
        return False
    return True
