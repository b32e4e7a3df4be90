"""The README's "By hand" section works as written: its files are accepted, its commands do what it says.

The commands and files are taken from the page itself. Only the ports are exchanged for free ones, and `.venv/bin/sidecar`
for the interpreter that runs the tests.
"""

from __future__ import annotations

import http.client
import re
import shlex
import subprocess
import sys
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.support.backend import Backend
from tests.support.eventually import eventually
from tests.support.processes import UnixConnection, ask, free_port, listens

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.processes import Site

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SIDECAR = f"{shlex.quote(sys.executable)} -m sidecar"


def file_on_the_page(name: str) -> str:
    language = {".yaml": "yaml", ".py": "python"}[Path(name).suffix]
    found = re.search(rf"`{re.escape(name)}`[^\n]*\n\n```{language}\n(.*?)```", README, re.DOTALL)
    assert found is not None, name
    return found[1]


def commands_on_the_page(title: str = "By hand") -> list[str]:
    section = README.split(f"\n## {title}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.needs("curl", "pyopenssl")
def test_what_the_readme_says_by_hand_works(tmp_path: Path) -> None:
    with Backend() as backend:
        outputs = follow(tmp_path, {"8443": free_port(), "14001": free_port(), "8080": backend.port})
    assert "spiffe://example.org/agent/planner/1" in outputs[0]
    assert any('"ready": true' in output for output in outputs)
    counted = 'requests_total{decision="allow",direction="inbound",listener="tools",status_class="2xx"} 1.0'
    assert counted in outputs[-1]


@pytest.mark.needs("swtpm", "tpm2-pytss")
def test_what_the_readme_says_of_keys_works(tmp_path: Path) -> None:
    from tests.support.swtpm import Swtpm

    (command,) = commands_on_the_page("Keys that cannot be copied")
    with Swtpm() as tpm:
        place = f"tpm:file=tools.tpm.pem;tcti={tpm.tcti}"
        line = command.replace(".venv/bin/sidecar", SIDECAR).replace("tpm:file=tools.tpm.pem", shlex.quote(place))
        done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
    assert "sha256:" in done.stdout
    assert (tmp_path / "tools.csr").read_text().startswith("-----BEGIN CERTIFICATE REQUEST-----")


def test_what_the_readme_says_of_local_development_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two agents, each started by ``sidecar exec`` as written; the machine's own proxies are not the page's."""
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    ports = {"8443": free_port(), "14001": free_port(), "8080": free_port()}
    for name in ("tools.yaml", "planner.yaml", "tools.py", "agent.py"):
        (tmp_path / name).write_text(with_ports(file_on_the_page(name), ports).replace("8080", str(ports["8080"])))
    certs, server, agent = commands_on_the_page("Local development")
    shell(tmp_path, with_ports(certs, ports))
    words = shlex.split(with_ports(server, ports).removesuffix("&"))
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.DEVNULL) as tools:
        try:
            eventually(lambda: listens(ports["8080"]), "the tools to listen")
            said = shell(tmp_path, with_ports(agent, ports))
        finally:
            tools.terminate()
    assert said == "hello spiffe://example.org/agent/planner/1\n" * 2
    assert tools.returncode == 128 + 15


def shell(folder: Path, line: str) -> str:
    """Runs a command, which has to succeed, and returns what it printed."""
    done = subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (line, done.stdout, done.stderr)
    return done.stdout


def with_ports(text: str, ports: dict[str, int]) -> str:
    """A text of the page with free ports, and the command that runs the tests."""
    for old, new in ports.items():
        text = re.sub(rf"(?<=127\.0\.0\.1:){old}\b", str(new), text)
    return text.replace(".venv/bin/sidecar", SIDECAR)


def follow(folder: Path, ports: dict[str, int]) -> list[str]:
    """Runs every command of the page in a folder, checks how each ends, and returns what each printed."""

    here = partial(with_ports, ports=ports)
    for name in ("tools.yaml", "planner.yaml"):
        (folder / name).write_text(here(file_on_the_page(name)))
    running: list[subprocess.Popen[bytes]] = []
    outputs: list[str] = []
    try:
        for line in map(here, commands_on_the_page()):
            if line.endswith("&"):
                words = shlex.split(line.removesuffix("&"))
                running.append(subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL))
                eventually(ready_at(folder / f"{Path(words[-1]).stem}.sock"), "the sidecar to be ready")
                continue
            done = subprocess.run(
                ["sh", "-c", line], cwd=folder, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, (line, done.stdout, done.stderr)
            outputs.append(done.stdout)
    finally:
        for process in running:
            process.terminate()
        codes = [process.wait(20) for process in running]
    assert codes == [0, 0]
    return outputs


def ready_at(path: Path) -> Callable[[], bool]:
    """Says "ready" once the admin socket there answers so."""

    def ready() -> bool:
        with suppress(OSError, http.client.HTTPException), closing(UnixConnection(path)) as connection:
            return ask(connection, "GET", "/ready").status == 200
        return False

    return ready


@pytest.mark.parametrize(("section", "file"), [("inbound", "tools.yaml"), ("outbound", "planner.yaml")])
def test_the_tunnels_on_the_page_are_accepted_in_place_of_the_entries(site: Site, section: str, file: str) -> None:
    (entries,) = [
        block
        for block in re.findall(r"```yaml\n(.*?)```", README.split("## Anything that is not HTTP")[1], re.DOTALL)
        if block.startswith(f"{section}:")
    ]
    run = ["certs", "init", "certs-dev", "--agent", "planner", "--agent", "tools"]
    assert site.command(*run).returncode == 0
    site.path(file).write_text(yaml.safe_dump(yaml.safe_load(file_on_the_page(file)) | yaml.safe_load(entries)))
    said = site.command("check", file)
    assert said.returncode == 0, said.stderr
    assert "mutual TLS, any bytes" in said.stdout


VARYING = (
    (r"(token\.id +)\S+", r"\1ID"),
    (r"sha256:[A-Za-z0-9+/=]{44}", "PIN"),
    (r"\b[0-9a-f]{16,64}\b", "HEX"),
    (r"sidecar-demo-\w+", "FOLDER"),
    (r"\d+(\.\d+)?", "N"),
)


def steady(text: str) -> list[str]:
    """The demo's lines without what differs from run to run."""
    for pattern, word in VARYING:
        text = re.sub(pattern, word, text)
    return [line.rstrip() for line in text.strip().splitlines()]


@pytest.mark.needs("mcp", "swtpm", "tpm2-pytss")
def test_the_demo_prints_what_the_readme_shows() -> None:
    shown = re.search(r"```text\n(.*?)```", README, re.DOTALL)
    assert shown is not None
    command = [sys.executable, "-m", "sidecar", "demo", "--no-color", "--width", "110"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert steady(done.stdout) == steady(shown[1])


def test_the_first_line_names_the_one_command_for_the_machine() -> None:
    assert README.splitlines()[0].count("apt-get install") == 1


def test_every_document_that_is_linked_exists() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "certs-dev/README.md"]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)
