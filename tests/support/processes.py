"""Real processes: `sidecar run` with a configuration made from parts, and everything that a test asks of it.

    with Site() as site:
        backend = site.backend()
        tools = site.tools(backend).start()
        planner = site.planner(tools).start()

A `Site` owns a folder, an authority, and all that was started in it; whatever happens, its end ends all of them. Nothing
here waits for a time: it looks until a state is there.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import yaml
from prometheus_client.parser import text_string_to_metric_families

from sidecar.clock import Clock
from tests.support.backend import LOOPBACK, Backend
from tests.support.ca import DAY, Ca, Identity
from tests.support.eventually import eventually
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

PLANNER = "spiffe://example.org/agent/planner/1"
TOOLS = "spiffe://example.org/agent/tools/1"
COMMAND = (sys.executable, "-m", "sidecar")
SSLContext = ssl.SSLContext  # noqa: TID251 - foreign callers are made of one that is not ours

Connection = TypeVar("Connection", bound=http.client.HTTPConnection)


class _Plain(yaml.SafeDumper):
    """Writes a value that is used twice twice: the format knows no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def now() -> float:
    return Clock().wall()


def listens(port: int, host: str = LOOPBACK) -> bool:
    """Says whether anybody accepts connections there."""
    with socket.socket() as sock:
        sock.settimeout(5)
        return sock.connect_ex((host, port)) == 0


@dataclass(frozen=True)
class Answer:
    """What came back for one request."""

    status: int
    fields: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: Path, timeout: float = 10) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(connection: http.client.HTTPConnection, method: str, path: str, **more: Any) -> Answer:
    """One request on a connection, which stays open if both sides want it."""
    connection.request(method, path, **more)
    response = connection.getresponse()
    return Answer(response.status, response.msg, response.read())


class Pending(threading.Thread):
    """A request that is under way in a thread of its own."""

    def __init__(self, connection: http.client.HTTPConnection, method: str, path: str, **more: Any) -> None:
        super().__init__(daemon=True)
        self._ask = (connection, method, path)
        self._more = more
        self._answer: Answer | None = None
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._answer = ask(*self._ask, **self._more)
        except (OSError, http.client.HTTPException) as error:
            self._error = error

    @property
    def over(self) -> bool:
        return not self.is_alive()

    def answer(self) -> Answer:
        """Waits for the answer; raises what went wrong instead."""
        self.join(30)
        assert not self.is_alive(), f"no answer to {self._ask[2]}"
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return self._answer


@dataclass
class Sidecar:
    """One `sidecar run`. `config` may be changed and written again at any time.

    ``wrapper`` is a command that starts it, ``owner`` the uid whose file the configuration is, where that is not ours.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None
    environ: dict[str, str] = field(default_factory=dict)
    wrapper: tuple[str, ...] = ()
    owner: int | None = None

    # -- files ----------------------------------------------------------------------------------------------------

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.yaml"

    @property
    def socket(self) -> Path:
        return Path(self.config["admin"]["listen"].removeprefix("unix:"))

    @property
    def log_file(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def stdout_file(self) -> Path:
        return self.folder / f"{self.name}.out"

    @property
    def stderr_file(self) -> Path:
        return self.folder / f"{self.name}.err"

    def write(self) -> None:
        """Writes the configuration, whole at once."""
        replace_file(self.file, yaml.dump(self.config, Dumper=_Plain, sort_keys=False).encode())
        if self.owner is not None:
            os.chown(self.file, self.owner, self.owner)

    def port(self, direction: str = "inbound", entry: int = 0) -> int:
        """The port of a listener as the configuration names it."""
        return int(self.config[direction][entry]["listen"].rpartition(":")[2])

    # -- the process ----------------------------------------------------------------------------------------------

    def launch(self, *arguments: str, stdout: int | None = None) -> Self:
        """Starts the process and returns at once."""
        self.write()
        with self.stdout_file.open("ab") as out, self.stderr_file.open("ab") as err:
            self.process = subprocess.Popen(
                [*self.wrapper, *COMMAND, "run", *arguments, str(self.file)],
                stdin=subprocess.DEVNULL,
                stdout=out if stdout is None else stdout,
                stderr=err,
                env=os.environ | self.environ,
                cwd=self.folder,
            )
        return self

    def start(self, *arguments: str, stdout: int | None = None) -> Self:
        """Starts the process and returns when it is ready."""
        self.launch(*arguments, stdout=stdout)
        self.await_ready()
        return self

    def await_ready(self) -> None:
        eventually(self._ready_or_dead, f"{self.name} to be ready")
        assert self.running.poll() is None, f"{self.name} ended with {self.running.returncode}:\n{self.stderr}"

    def _ready_or_dead(self) -> bool:
        return self.running.poll() is not None or self.ready

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None, "never started"
        return self.process

    def signal(self, number: signal.Signals) -> None:
        self.running.send_signal(number)

    def exit_code(self, seconds: float = 20) -> int:
        """Waits for the process to end by itself."""
        try:
            return self.running.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end:\n{self.stderr}") from None

    def stop(self) -> int:
        """Drains, and returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.exit_code()

    def kill(self) -> None:
        """Ends the process whatever it is doing; safe to call at any time."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def end(self) -> None:
        """Ends the process as politely as it lets us, so that it can write down what was covered."""
        if self.process is None or self.process.poll() is not None:
            return
        for seconds in (0.3, 5):  # the second signal ends a drain at once
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
                return
        self.kill()

    # -- what it says ---------------------------------------------------------------------------------------------

    @property
    def stdout(self) -> str:
        return self.stdout_file.read_text() if self.stdout_file.exists() else ""

    @property
    def stderr(self) -> str:
        return self.stderr_file.read_text() if self.stderr_file.exists() else ""

    def log(self, **wanted: object) -> list[dict[str, Any]]:
        """The complete lines of the access log with these values, named as the attributes of `telemetry.record`.

        A line that is not one JSON object fails here.
        """
        text = self.log_file.read_bytes() if self.log_file.exists() else b""
        lines = [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]
        return [line for line in lines if all(line.get(_field(name)) == value for name, value in wanted.items())]

    def await_log(self, count: int = 1, **wanted: object) -> list[dict[str, Any]]:
        """Waits for that many such lines; the log is written a moment after the answer."""
        eventually(lambda: len(self.log(**wanted)) >= count, f"{count} lines with {wanted} in the log of {self.name}")
        return self.log(**wanted)

    def await_stderr(self, text: str) -> None:
        eventually(lambda: text in self.stderr, f"{text!r} in the messages of {self.name}")

    # -- the admin socket -----------------------------------------------------------------------------------------

    def ask(self, path: str, method: str = "GET") -> Answer:
        connection = UnixConnection(self.socket)
        try:
            return ask(connection, method, path)
        finally:
            connection.close()

    @property
    def ready(self) -> bool:
        with suppress(OSError, http.client.HTTPException):
            return self.ask("/ready").status == 200
        return False

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        families = text_string_to_metric_families(self.ask("/metrics").body.decode())
        return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name that have these labels."""
        wanted = set(labels.items())
        return sum(value for (n, found), value in self.metrics().items() if n == f"sidecar_{name}" and wanted <= found)

    def reloads(self, result: str) -> float:
        return self.metric("reloads_total", result=result)

    def reload(self, *, result: str = "ok") -> None:
        """Writes the configuration, asks for it by SIGHUP and waits for the outcome."""
        before = self.reloads(result)
        self.write()
        self.signal(signal.SIGHUP)
        eventually(lambda: self.reloads(result) > before, f"a reload with result {result}; {self.stderr}")


class Site:
    """A folder with an authority, and everything that was started in it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sidecar-"))
        self.ca = Ca(now=now() - DAY)  # old enough for certificates that have expired
        self.sidecars: list[Sidecar] = []
        self._stack = ExitStack()
        self._stack.callback(shutil.rmtree, self.folder)
        self.path("ca.crt").write_bytes(self.ca.pem)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # -- files ----------------------------------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        return self.folder / name

    def identity(self, name: str, path: str | None = None, *, ca: Ca | None = None) -> Identity:
        """Makes an identity of this site's authority (or another) and writes it as ``<name>.crt`` and ``<name>.key``."""
        made = (ca or self.ca).leaf(path or f"/agent/{name}/1", now=now(), lifetime=DAY)
        replace_file(self.path(f"{name}.crt"), made.chain_pem)
        replace_file(self.path(f"{name}.key"), made.key_pem)
        return made

    # -- what can be started --------------------------------------------------------------------------------------

    def backend(self) -> Backend:
        return self._stack.enter_context(Backend())

    def owns(self, end: Callable[[], object]) -> None:
        """Calls ``end`` when the site ends."""
        self._stack.callback(end)

    def sidecar(self, name: str, **parts: Any) -> Sidecar:
        """A sidecar with that identity and these sections; not started yet."""
        self.identity(name)
        config: dict[str, Any] = {
            "version": 1,
            "identity": {"certificate": f"{name}.crt", "key": f"{name}.key", "trust": {"example.org": "ca.crt"}},
            "admin": {"listen": f"unix:{self.path(name)}.sock"},
            "access_log": f"{name}.log",
        }
        made = Sidecar(name, self.folder, config | parts)
        self.sidecars.append(made)
        self._stack.callback(made.end)
        return made

    def tools(
        self, backend: Backend | int, *, allow: Iterable[Mapping[str, Any]] | None = None, **parts: Any
    ) -> Sidecar:
        """The sidecar of the agent that is called; the planner is named unless ``allow`` says otherwise."""
        rules = [{"caller": PLANNER}] if allow is None else [dict(rule) for rule in allow]
        port = backend if isinstance(backend, int) else backend.port
        return self.sidecar("tools", **{"inbound": [inbound("tools", port, rules)]} | parts)

    def planner(self, tools: Sidecar | int, entry: Mapping[str, Any] | None = None, **parts: Any) -> Sidecar:
        """The sidecar of the agent that calls; ``entry`` adds to or replaces keys of its outbound entry."""
        port = tools if isinstance(tools, int) else tools.port()
        return self.sidecar("planner", **{"outbound": [outbound("tools", port) | dict(entry or {})]} | parts)

    def pair(self, backend: Backend) -> tuple[Sidecar, Sidecar]:
        """Both of them, started: (planner, tools)."""
        tools = self.tools(backend).launch()
        planner = self.planner(tools).start()
        tools.await_ready()
        return planner, tools

    def process(self, *command: str, **more: Any) -> subprocess.Popen[bytes]:
        """Any other program; killed when the site ends."""
        started = subprocess.Popen(command, **{"cwd": self.folder} | more)
        self._stack.callback(_end, started)
        return started

    def command(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of `sidecar` to its end."""
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env=os.environ | environ,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    # -- clients --------------------------------------------------------------------------------------------------

    def agent(self, planner: Sidecar) -> http.client.HTTPConnection:
        """The agent behind an outbound listener."""
        return self._client(http.client.HTTPConnection(LOOPBACK, planner.port("outbound"), timeout=20))

    def at(self, address: str) -> http.client.HTTPConnection:
        """Anybody in plaintext at ``host:port``, such as a probe at the health listener."""
        return self._client(http.client.HTTPConnection(address, timeout=20))

    def caller(self, port: int, name: str = "planner") -> http.client.HTTPSConnection:
        """A caller with the identity of that name, straight at an inbound port. Writes the identity if nobody has."""
        if not self.path(f"{name}.crt").exists():
            self.identity(name)
        context = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # a SPIFFE ID is no host name; the proxy is what is tested here
        context.load_verify_locations(cadata=self.ca.pem.decode())
        context.load_cert_chain(self.path(f"{name}.crt"), self.path(f"{name}.key"))
        return self._client(http.client.HTTPSConnection(LOOPBACK, port, timeout=20, context=context))

    def _client(self, connection: Connection) -> Connection:
        self._stack.callback(connection.close)
        return connection


@dataclass
class Pair:
    """Two sidecars in front of one backend."""

    site: Site
    backend: Backend
    planner: Sidecar
    tools: Sidecar


def inbound(name: str, forward: int, allow: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """One entry of ``inbound`` on a free port."""
    listen, target = f"{LOOPBACK}:{free_port()}", f"http://{LOOPBACK}:{forward}"
    return {"name": name, "listen": listen, "forward": target, "allow": allow} | more


def outbound(name: str, connect: int, **more: Any) -> dict[str, Any]:
    """One entry of ``outbound`` on a free port; the agent may call the peer ``tools.internal``."""
    return {
        "name": name,
        "listen": f"{LOOPBACK}:{free_port()}",
        "hosts": ["tools.internal"],
        "connect": f"{LOOPBACK}:{connect}",
        "peer": TOOLS,
    } | more


def replace_file(path: Path, content: bytes) -> None:
    """Puts a whole file, mode 0600, in the place of another."""
    new = path.with_name(path.name + ".new")
    new.touch(mode=0o600)
    new.write_bytes(content)
    new.replace(path)


def _field(name: str) -> str:
    return name if name.startswith(("bytes", "duration")) else name.replace("_", ".")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(OSError):
                stream.close()
