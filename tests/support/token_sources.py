"""Every implementation of the token source seam, for the conformance suite; a new kind is one more row.

A row is a context manager that takes a folder and gives a `Subject`: sources of one kind, and whatever stands behind them.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.clock import Clock
from sidecar.keys.errors import SignCode
from sidecar.tokens.settings import ClientAuth, ExecSource, FileSource, Keeping, OAuth2Source, SelfSignedSource
from sidecar.tokens.sources.make import make
from tests.support.ca import DAY
from tests.support.clock import Shifted
from tests.support.lent import TellingSigner, failing
from tests.support.signers import SUBJECTS as SIGNERS
from tests.support.signers import subject as signer_subject
from tests.support.tls import PLANNER
from tests.support.tokens import CANARY, Reply, ScriptedIssuer, jwt, means, means_of, thumbprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from sidecar.tokens.settings import SourceSettings
    from sidecar.tokens.sources.source import Means, TokenSource


@dataclass
class Subject:
    """Sources of one kind. ``settings`` makes those of one; a good token is there from the start.

    ``give``: has the next token be that text; None where the source makes its own. ``failures``: ways to fail, by name.
    ``hang``: has the next `fetch` hang, and returns what says that it does; ``left``: says what of it still runs.
    """

    means: Means
    clock: Shifted
    settings: Callable[[Keeping], SourceSettings]
    failures: dict[str, Callable[[], object]]
    hang: Callable[[], Callable[[], object]]
    left: Callable[[], object]
    give: Callable[[str], object] | None = None
    let_go: Callable[[], object] = field(default=lambda: None)

    def make(self, keeping: Keeping | None = None) -> TokenSource:
        return make(self.settings(keeping or Keeping()), self.means)


def lasting(seconds: float = 300, **more: Any) -> str:
    """A JWT that lives for so long from now."""
    return jwt({"exp": int(Clock().wall() + seconds)} | more)


@contextlib.contextmanager
def oauth2(_: Path, auth: ClientAuth = ClientAuth.TLS) -> Iterator[Subject]:
    clock = Shifted()
    with ScriptedIssuer() as issuer:

        def give(value: str) -> None:
            issuer.give(value, expires_in=None)

        def settings(keeping: Keeping) -> OAuth2Source:
            return OAuth2Source("x", issuer.url, auth, reach=issuer.reach, keeping=keeping, scopes=("read",))

        def answer(reply: Reply) -> Callable[[], object]:
            return lambda: issuer.replies.update({"/token": reply, "/revoke": reply})

        def hang() -> Callable[[], object]:
            issuer.hang()
            return lambda: issuer.to("/token")

        bound = lasting(cnf={"x5t#S256": thumbprint(PLANNER)})
        issuer.give(bound)
        made = means(clock=clock.clock)
        yield Subject(
            made,
            clock,
            settings,
            {
                "refused": answer(Reply(401, {"error": "invalid_client", "error_description": CANARY})),
                "html": answer(Reply(200, f"<html>{CANARY}</html>".encode())),
                "broken": answer(Reply(500, CANARY.encode())),
                "redirect": answer(Reply(302, b"", (("Location", f"https://localhost/{CANARY}"),))),
                "not json": answer(Reply(200, b'{"access_token": "' + CANARY.encode())),
                "no metadata": issuer.replies.clear,
                "another's metadata": lambda: issuer.metadata.update(issuer=f"https://{CANARY}.example"),
            },
            hang,
            lambda: made.workers.waiting or len(made.workers._running),
            give,
            issuer.go_on.set,
        )
        issuer.go_on.set()


@contextlib.contextmanager
def self_signed(_: Path) -> Iterator[Subject]:
    clock, signer, go_on = Shifted(), TellingSigner(PLANNER), threading.Event()
    made = means(signer=signer, clock=clock.clock)

    def wait(message: bytes, hash_: Any) -> bytes:
        go_on.wait(20)
        return signer.right(message, hash_)

    def hang() -> Callable[[], object]:
        signer.answer = wait
        return lambda: signer.asked

    yield Subject(
        made,
        clock,
        lambda keeping: SelfSignedSource("x", "https://tools.internal", keeping=keeping),
        {
            "device gone": lambda: setattr(signer, "answer", failing(SignCode.UNAVAILABLE)),
            "no signature": lambda: setattr(signer, "answer", lambda _message, _hash: CANARY.encode()),
            "of another curve": lambda: setattr(signer, "answer", _signature_of_p521),
            "certificate ends": lambda: setattr(clock, "wall", 6 * DAY),
        },
        hang,
        lambda: made.workers.waiting,  # the thread is the device's, until that lets go of it
        let_go=go_on.set,
    )
    go_on.set()


def _signature_of_p521(message: bytes, hash_: Any) -> bytes:
    return ec.generate_private_key(ec.SECP521R1()).sign(message, ec.ECDSA(hash_.algorithm))


@contextlib.contextmanager
def in_file(folder: Path) -> Iterator[Subject]:
    clock, path, go_on = Shifted(), folder / "token", threading.Event()
    made = means(clock=clock.clock)
    path.write_text(lasting())

    def hang() -> Callable[[], object]:
        """The file system hangs, for others: no thread is left."""
        for _ in range(4):
            made.workers.submit(_job(go_on))
        return lambda: made.workers.waiting

    def replace(content: bytes) -> Callable[[], object]:
        return lambda: path.write_bytes(content)

    yield Subject(
        made,
        clock,
        lambda keeping: FileSource("x", path, keeping=keeping),
        {
            "gone": path.unlink,
            "a folder": lambda: (path.unlink(), path.mkdir()),
            "for everybody": lambda: path.chmod(0o666),
            "empty": replace(b""),
            "binary": replace(b"\xff" + CANARY.encode()),
        },
        hang,
        lambda: made.workers.waiting,
        path.write_text,
        go_on.set,
    )
    go_on.set()


def _job(go_on: threading.Event) -> Any:
    from sidecar.threads import Job

    return Job(lambda: go_on.wait(20), lambda _: None)


@contextlib.contextmanager
def by_command(folder: Path) -> Iterator[Subject]:
    clock, program, out, started = Shifted(), folder / "helper.py", folder / "printed", folder / "pids"
    made = means(clock=clock.clock)

    def give(value: str) -> None:
        credential = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "status": {"token": value},
        }
        prints(json.dumps(credential).encode())

    def prints(output: bytes) -> None:
        out.write_bytes(output)
        program.write_text(f"import sys\nsys.stdout.buffer.write(open({str(out)!r}, 'rb').read())")

    def runs(text: str) -> Callable[[], object]:
        return lambda: program.write_text(text)

    def hang() -> Callable[[], object]:
        program.write_text(
            "import os, time\nchild = os.fork()\n"
            f"open({str(started)!r}, 'a').write(f'{{os.getpid()}}\\n') and time.sleep(60)"
        )
        return lambda: started.exists() and started.read_text().count("\n") == 2

    give(lasting())
    yield Subject(
        made,
        clock,
        lambda keeping: ExecSource("x", (sys.executable, str(program)), keeping=keeping),
        {
            "fails": runs(f"import sys\nprint({CANARY!r}, file=sys.stderr)\nprint({CANARY!r})\nsys.exit(3)"),
            "is killed": runs("import os\nos.kill(os.getpid(), 9)"),
            "prints too much": runs(f"print({CANARY!r} * 10000)"),
            "prints nothing": runs(""),
            "prints half": runs(f'print(\'{{"kind": "{CANARY}\')'),
            "prints binary": lambda: prints(b"\xff" + CANARY.encode()),
        },
        hang,
        lambda: started.exists() and [pid for pid in started.read_text().split() if alive(int(pid))],
        give,
    )


def alive(pid: int) -> bool:
    """Says whether there is such a process; the dead whom their parent, or init, has not yet buried do not count."""
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 - gone at any moment
            return file.read().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


def _by_device(name: str, auth: ClientAuth | None) -> Callable[[Path], AbstractContextManager[Subject]]:
    """The same with a key in a device: it signs the tokens, or the assertions."""

    @contextlib.contextmanager
    def made(folder: Path) -> Iterator[Subject]:
        kind = self_signed(folder) if auth is None else oauth2(folder, auth)
        with signer_subject(name, ec.SECP256R1) as device, kind as found:
            found.means = means_of(device.signer)
            if auth is not None:
                _unbound(found)
            else:
                found.failures = {}
            yield found

    return made


def _unbound(found: Subject) -> None:
    """Shows no certificate: what signs is the point."""
    from dataclasses import replace

    settings = found.settings
    found.settings = lambda keeping: replace(settings(keeping), bound=False)  # type: ignore[arg-type]  # an OAuth2Source
    assert found.give is not None
    found.give(lasting())


def _by_jwt(folder: Path) -> AbstractContextManager[Subject]:
    return oauth2(folder, ClientAuth.PRIVATE_KEY_JWT)


#: name -> (the parts of the machine that it needs, what sets it up)
SUBJECTS: dict[str, tuple[tuple[str, ...], Callable[[Path], AbstractContextManager[Subject]]]] = {
    "oauth2": ((), oauth2),
    "oauth2-jwt": ((), _by_jwt),
    "oauth2-jwt-tpm": (SIGNERS["tpm-file"][0], _by_device("tpm-file", ClientAuth.PRIVATE_KEY_JWT)),
    "oauth2-jwt-pkcs11": (SIGNERS["pkcs11"][0], _by_device("pkcs11", ClientAuth.PRIVATE_KEY_JWT)),
    "self-signed": ((), self_signed),
    "self-signed-tpm": (SIGNERS["tpm-file"][0], _by_device("tpm-file", None)),
    "self-signed-pkcs11": (SIGNERS["pkcs11"][0], _by_device("pkcs11", None)),
    "file": ((), in_file),
    "exec": ((), by_command),
}
