"""docs/hardware-keys.md works as written: its commands do what it says, its files are accepted, its parts fit together.

The commands are taken from the page, one section after the other, each in a folder and with a TPM of its own. Exchanged
are ports, `.venv/bin`, the TPM (a software one), SoftHSM's library and ``/run/sidecar-signer``. What needs a device, a
cluster or root is marked on the page, and is read as far as it can be.
"""

from __future__ import annotations

import argparse
import configparser
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cryptography import x509

from sidecar.app import own_key
from sidecar.cli import key as key_command
from sidecar.cli import signer as signer_command
from sidecar.identity.issue import issue
from sidecar.identity.spiffe import SpiffeId
from sidecar.keys.errors import KeyCode, SignCode
from sidecar.keys.serial import SIGN_SECONDS
from sidecar.keys.spec import RemoteKey, parse
from sidecar.keys.token_messages import ASSERTION_SECONDS, CLOCK_SECONDS, MAX_BYTES, SELF_SIGNED_SECONDS
from sidecar.keys.tpm import tss2
from sidecar.keys.tpm.create import PIN_BYTES, STORAGE_KEY
from sidecar.limits import Limits
from sidecar.signer.service import SocketCode
from tests.support.ca import DAY, pem
from tests.support.page import Block, blocks_of, links_of, slugs
from tests.support.processes import free_port, now, replace_file
from tests.support.shell import Shell
from tests.support.swtpm import Swtpm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.processes import Site

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/hardware-keys.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOLDER = "/run/sidecar-signer"
PLANNER = SpiffeId.parse("spiffe://example.org/agent/planner/1")

#: Words of commands, and the parts of the machine that they need.
NEEDS = {
    r"tpm2_": ("tpm2-tools",),
    r"\btpm:|--key tpm": ("swtpm", "tpm2-pytss"),
    r"softhsm": ("softhsm", "python-pkcs11"),
    r"\bcurl\b": ("curl",),
    r"\bopenssl\b": ("openssl",),
}


BLOCKS = blocks_of(PAGE)
RUN = [block for block in BLOCKS if block.language == "sh" and not block.marked]
UNRUN = [block for block in BLOCKS if block.language == "sh" and block.marked]
YAML = [block for block in BLOCKS if block.language == "yaml"]


def needs(text: str) -> pytest.MarkDecorator:
    return pytest.mark.needs(*(part for word, parts in NEEDS.items() if re.search(word, text) for part in parts))


# -- the page itself ----------------------------------------------------------------------------------------------------


def test_every_block_is_run_or_read_or_says_why_not() -> None:
    assert {block.language for block in BLOCKS} == {"sh", "yaml", "ini"}
    assert len(RUN) > 2 * len(UNRUN)


def test_every_code_has_its_remedy_and_no_other_has() -> None:
    table = PAGE.split("## Trouble")[1]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    codes = {code.value for kind in (SignCode, KeyCode, SocketCode) for code in kind}
    assert set(re.findall(r"`(\w+)`", "".join(rows))) == codes


def test_the_figures_are_those_of_the_code() -> None:
    page = " ".join(PAGE.split())
    limits = Limits()
    for said in (
        f"`limits.sign_timeout` ({limits.sign_timeout:g} s)",
        f"`limits.handshake_queue` ({limits.handshake_queue})",
        f"the default is {SIGN_SECONDS:g}",
        f"at most {PIN_BYTES} bytes",
        f"tried after {own_key.IDLE_SECONDS:g} s in which nobody needed any",
        f"at least every {own_key.RETRY_SECONDS[1]:g} s",
        f"{STORAGE_KEY:#010x} is where a machine's storage key is",
        f"| at most {SELF_SIGNED_SECONDS} s | at most {ASSERTION_SECONDS} s |",
        f"within {CLOCK_SECONDS} s of the service's clock",
        f"together at most {MAX_BYTES // 1024} KiB",
        f"at most {MAX_BYTES} octets",
    ):
        assert said in page, said


def test_links_lead_to_a_heading() -> None:
    links = links_of(PAGE)
    assert len(links) > 10
    for file, anchor in links:
        page = PAGE if not file else (ROOT / "docs" / file).read_text(encoding="utf-8")
        assert not anchor or anchor in slugs(page), (file, anchor)


# -- the commands -------------------------------------------------------------------------------------------------------


class Run:
    """A section's commands with what stands in for its devices. ``outputs`` has what each that ended printed."""

    def __init__(self, section: str, site: Site, tpm: Swtpm | None) -> None:
        self.site = site
        self.commands = [command for block in RUN if block.section == section for command in block.commands]
        self.configurations = [block.text for block in YAML if block.section == section]
        self.outputs: list[tuple[str, str]] = []
        self._tpm = tpm
        self._ports: dict[str, int] = {}
        self.shell = Shell(site.folder, {} if tpm is None else {"TPM2TOOLS_TCTI": tpm.tcti})

    def here(self, text: str) -> str:
        """The page's words as they have to be on this machine."""
        if self._tpm is not None:
            text = re.sub(r"tpm:(?:handle|file)=[^\s;']+", rf"\g<0>;tcti={self._tpm.tcti}", text)
            text = re.sub(r"--key tpm\b(?!:)", f"--key 'tpm:tcti={self._tpm.tcti}'", text)
        if "softhsm" in text:
            from tests.support.softhsm import library

            text = text.replace("/usr/lib/softhsm/libsofthsm2.so", str(library()))
        for old, new in self._ports.items():
            text = re.sub(rf"(?<=127\.0\.0\.1:){old}\b", str(new), text)
        python = shlex.quote(sys.executable)
        programs = {"sidecar": f"{python} -m sidecar", "python": python}
        text = re.sub(r"\.venv/bin/(sidecar|python)\b", lambda match: programs[match[1]], text)
        return text.replace(FOLDER, str(self.site.folder / "run"))

    def follow(self) -> None:
        for command in self.commands:
            if command.endswith("&"):
                self.shell.start(self.here(command.removesuffix("&").strip()))
            else:
                self.outputs.append((command, self.shell.run(self.here(command))))

    def printed(self, word: str) -> list[str]:
        """What the commands with that word printed."""
        found = [output for command, output in self.outputs if word in command]
        assert found, word
        return found

    def serve_the_readmes_pair(self, backend: int) -> None:
        """Writes the README's two configurations with the identities of this section's page."""
        self._ports = {"8443": free_port(), "14001": free_port(), "8080": backend}
        (identity,) = self.configurations
        for name in ("planner", "tools"):
            whole = yaml.safe_load(of_the_readme(name)) | yaml.safe_load(identity.replace("planner", name))
            self.site.path(f"{name}.yaml").write_text(self.here(yaml.safe_dump(whole, width=1000)))

    def check(self, configuration: str) -> str:
        """Has a certificate issued for the key that a configuration names, and returns what `sidecar check` says."""
        whole = yaml.safe_load(of_the_readme("planner")) | yaml.safe_load(self.here(configuration))
        place = whole["identity"]["key"]
        if not place.startswith("signer:"):
            shown = self.shell.run(f"{self.here('.venv/bin/sidecar')} key show '{place}' --csr - 2>/dev/null")
            request = x509.load_pem_x509_csr(shown.encode())
            made = issue(self.site.ca.authority, request.public_key(), PLANNER, now=now(), lifetime=DAY)
            replace_file(self.site.path("planner.crt"), pem(made, *self.site.ca.above))
        self.site.path("checked.yaml").write_text(yaml.safe_dump(whole, width=1000))
        return self.shell.run(self.here(".venv/bin/sidecar check checked.yaml"))


def of_the_readme(name: str) -> str:
    found = re.search(rf"^`{name}\.yaml`.*?```yaml\n(.*?)```", README, re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found[1]


@pytest.fixture
def tpm() -> Iterator[Swtpm]:
    with Swtpm() as made:
        yield made


def text_of(section: str) -> str:
    return "".join(block.text for block in RUN if block.section == section)


def test_no_section_is_left_out() -> None:
    followed = {"Install", "Try it without hardware", "TPM", "HSM and other PKCS#11 tokens", "Signer service"}
    assert {block.section for block in RUN} == followed | {"A certificate for it"}


def test_install(site: Site) -> None:
    run = Run("Install", site, None)
    with run.shell:
        run.follow()
    assert run.outputs[0][1].startswith("OpenSSL ")


@needs(text_of("Try it without hardware"))
def test_try_it(site: Site) -> None:
    run = Run("Try it without hardware", site, None)
    run.serve_the_readmes_pair(site.backend().port)
    with run.shell:
        run.follow()
    assert "key protection tpm" in run.printed(" check ")[0]
    assert '"key_protection": "tpm"' in run.printed("/certs")[0]
    assert 'sidecar_sign_duration_seconds_count{protection="tpm"} 1.0' in run.printed("/metrics")[0]


@needs(text_of("TPM"))
def test_tpm(site: Site, tpm: Swtpm) -> None:
    run = Run("TPM", site, tpm)
    # From here on the TPM gets passwords, which the keys that were made before were not made for.
    first = run.commands.index("tpm2_dictionarylockout --clear-lockout")
    run.commands, rest = run.commands[:first], run.commands[first:]
    with run.shell:
        run.follow()
        assert "0x81000002" not in map(hex, tpm.persistent_handles()), "it was removed again"
        for configuration in run.configurations:
            assert "key protection tpm" in run.check(configuration)
        run.commands = rest
        run.follow()
    assert all("signs       yes" in shown for shown in run.printed("key show"))
    assert "MAX_AUTH_FAIL" in run.printed("grep")[0]
    assert tss2.inspect(site.path("owned.tpm.pem").read_bytes()).parent == STORAGE_KEY
    assert STORAGE_KEY in tpm.persistent_handles()
    request = x509.load_pem_x509_csr(site.path("planner.csr").read_bytes())
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [str(PLANNER)]


@needs(text_of("HSM and other PKCS#11 tokens"))
def test_hsm(site: Site) -> None:
    run = Run("HSM and other PKCS#11 tokens", site, None)
    with run.shell:
        run.follow()
        (configuration,) = run.configurations
        assert "key protection hsm" in run.check(configuration)
    (shown,) = run.printed("key show")
    assert "signs       yes" in shown
    assert "software token" in shown


@needs(text_of("Signer service"))
def test_signer(site: Site, tpm: Swtpm) -> None:
    run = Run("Signer service", site, tpm)
    with run.shell:
        run.follow()
        printed = run.printed("key show")
        assert len(printed) == 2, "the service for handshakes, and the one for tokens as well"
        for shown in printed:
            assert "protection  remote" in shown
            assert "signs       yes" in shown
        site.identity("planner")
        (configuration,) = run.configurations
        assert "key protection remote" in run.check(configuration)


@needs(text_of("A certificate for it"))
def test_certificate(site: Site, tpm: Swtpm) -> None:
    run = Run("A certificate for it", site, tpm)
    with run.shell:
        run.follow()
    (verified,) = run.printed("openssl")
    assert "verify OK" in verified
    assert "URI:spiffe://example.org/agent/planner/2" in verified
    assert site.path("certs-dev/planner/tls.tpm.pem").exists()


@pytest.mark.parametrize("block", UNRUN, ids=lambda block: block.commands[0][:20])
def test_what_is_not_run_is_at_least_read(block: Block, tmp_path: Path) -> None:
    read = subprocess.run(["sh", "-n"], input=block.text, text=True, capture_output=True, check=False)
    assert read.returncode == 0, read.stderr
    for command in block.commands:
        words = shlex.split(command)
        if words[0] == ".venv/bin/sidecar":
            assert words[1] == "key"
            parse(arguments(key_command, words[2:]).place, tmp_path)


# -- the files ----------------------------------------------------------------------------------------------------------


def arguments(command: Any, words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    command.add_arguments(parser)
    return parser.parse_args(words)


def the_file_with(words: str) -> dict[str, Any]:
    (found,) = [yaml.safe_load(block.text) for block in YAML if re.search(words, block.text, re.MULTILINE)]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("block", YAML, ids=lambda block: block.text.split("\n")[0])
def test_every_file_is_read(block: Block) -> None:
    (document,) = yaml.safe_load_all(block.text)
    assert isinstance(document, dict)
    if "identity" in document:
        parse(document["identity"]["key"], Path("/etc/sidecar"))


def test_the_unit_starts_the_service() -> None:
    (unit,) = [block.text for block in BLOCKS if block.language == "ini" and "[Service]" in block.text]
    read = configparser.ConfigParser(interpolation=None)
    read.read_string(unit.replace("\\\n", ""))
    program, *words = shlex.split(read["Service"]["ExecStart"])
    assert (Path(program).name, words.pop(0)) == ("sidecar", "signer")
    given = arguments(signer_command, words)
    parse(given.key, Path("/"))
    assert given.listen.parent == Path("/run", read["Service"]["RuntimeDirectory"])
    assert read["Service"]["RestartPreventExitStatus"] == "2", "each start may be a wrong PIN"
    assert read["Service"]["User"] != "root"


def test_the_parts_for_kubernetes_fit_together(site: Site) -> None:
    daemons, pod = the_file_with("^kind: DaemonSet"), the_file_with("^kind: Pod")
    plugin, config = the_file_with("^args:"), the_file_with("^version: 1")
    service = daemons["spec"]["template"]["spec"]
    (signer,) = service["containers"]
    agent, sidecar = pod["spec"]["containers"]
    assert daemons["spec"]["selector"]["matchLabels"] == daemons["spec"]["template"]["metadata"]["labels"]

    words = signer["args"]
    given = arguments(signer_command, words[1:])
    assert words[0] == "signer"
    assert given.uid == [sidecar["securityContext"]["runAsUser"]] != [agent["securityContext"]["runAsUser"]]
    users = {service["securityContext"]["runAsUser"], *given.uid, agent["securityContext"]["runAsUser"]}
    assert len(users) == 3, "whoever has the device, whoever may use it, and whoever may not"
    assert parse(config["identity"]["key"], Path("/")) == RemoteKey(given.listen)
    for spec, user in ((service, signer), (pod["spec"], sidecar)):
        assert mounted(spec, user, given.listen.parent) == {"hostPath": str(given.listen.parent)}
    assert list(mounted(pod["spec"], sidecar, Path(config["admin"]["listen"].removeprefix("unix:")).parent)) == [
        "emptyDir"
    ]

    device = yaml.safe_load(plugin["args"][1])
    assert signer["resources"]["limits"] == {f"squat.ai/{device['name']}": 1}
    ports = {sidecar[probe]["httpGet"]["port"] for probe in ("livenessProbe", "readinessProbe")}
    assert ports == {int(config["health"]["listen"].rpartition(":")[2])}
    assert sidecar["args"][0] == "run"
    assert list(mounted(pod["spec"], sidecar, Path(sidecar["args"][1]).parent)) == ["hostPath"]

    site.identity("planner")
    site.path("planner.yaml").write_text(yaml.safe_dump(config))
    checked = site.command("check", "planner.yaml")
    assert checked.returncode == 0, checked.stderr


def mounted(spec: dict[str, Any], container: dict[str, Any], folder: Path) -> dict[str, str]:
    """The kind of volume that a container has at a folder, and its path on the node."""
    (name,) = [each["name"] for each in container["volumeMounts"] if each["mountPath"] == str(folder)]
    (volume,) = [each for each in spec["volumes"] if each["name"] == name]
    return {kind: value.get("path", "") for kind, value in volume.items() if kind != "name"}


def test_the_parts_of_compose_fit_together() -> None:
    file = the_file_with("^services:")
    sidecar = file["services"]["planner-sidecar"]
    assert sidecar["network_mode"] == "service:planner"
    assert "planner" in file["services"]
    assert f"uid={sidecar['user']}," in sidecar["tmpfs"][0]
    assert sidecar["devices"] == ["/dev/tpmrm0"]
    assert f"`{sidecar['group_add'][0]}` is what" in PAGE
