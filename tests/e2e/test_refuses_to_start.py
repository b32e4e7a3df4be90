"""Ensures that what is wrong with a configuration or its files is found before any port opens, alike by both commands.

For each defect `check` and `run` end with exit code 2, both name the file or key at fault, and neither leaves a socket
behind. The system's certificate store never stands in for a bundle that cannot be used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.cli import main
from tests.support.processes import TOOLS, listens, now, replace_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.processes import Sidecar, Site

    Damage = Callable[[Site, Sidecar], None]


def bundle(content: bytes | None) -> Damage:
    def damage(site: Site, tools: Sidecar) -> None:
        path = site.path("ca.crt")
        path.unlink()
        if content is not None:
            path.write_bytes(content)

    return damage


def unreadable_bundle(site: Site, tools: Sidecar) -> None:
    """A folder: not even root can read it as a file."""
    site.path("ca.crt").unlink()
    site.path("ca.crt").mkdir()


def open_key(site: Site, tools: Sidecar) -> None:
    site.path("tools.key").chmod(0o644)


def strange_key(site: Site, tools: Sidecar) -> None:
    replace_file(site.path("tools.key"), site.identity("other").key_pem)


def expired(site: Site, tools: Sidecar) -> None:
    identity = site.ca.leaf("/agent/tools/1", now=now() - 7200, lifetime=3600)
    replace_file(site.path("tools.crt"), identity.chain_pem)


def not_yet_valid(site: Site, tools: Sidecar) -> None:
    identity = site.ca.leaf("/agent/tools/1", now=now() + 7200, lifetime=3600)
    replace_file(site.path("tools.crt"), identity.chain_pem)


def nobody_named(site: Site, tools: Sidecar) -> None:
    tools.config["inbound"][0]["allow"] = []


def allow_absent(site: Site, tools: Sidecar) -> None:
    del tools.config["inbound"][0]["allow"]


def no_peer(site: Site, tools: Sidecar) -> None:
    entry = {"name": "o", "listen": "127.0.0.1:14001", "connect": "127.0.0.1:14002"}
    tools.config["outbound"] = [entry]


def short_pin(site: Site, tools: Sidecar) -> None:
    tools.config["inbound"][0]["allow"][0]["pins"] = ["sha256:AAAA"]


def wild_domain(site: Site, tools: Sidecar) -> None:
    tools.config["inbound"][0]["allow"][0]["caller"] = "spiffe://*/agent/planner/1"


def plaintext_listen(site: Site, tools: Sidecar) -> None:
    entry = {"name": "o", "listen": "0.0.0.0:14001", "connect": "127.0.0.1:14002", "peer": TOOLS}
    tools.config["outbound"] = [entry]


def plaintext_forward(site: Site, tools: Sidecar) -> None:
    tools.config["inbound"][0]["forward"] = "http://192.0.2.1:8080"


def bad_key_place(site: Site, tools: Sidecar) -> None:
    tools.config["identity"]["key"] = "tpm:0x81000001"


def pin_in_the_file(site: Site, tools: Sidecar) -> None:
    tools.config["identity"]["key"] = "pkcs11:object=k?module-path=x.so&pin-value=1234"


def not_served(site: Site, tools: Sidecar) -> None:
    tools.config["inbound"][0]["forward"] = "https://127.0.0.1:8080"


#: what is damaged, and what the message must name
DEFECTS: dict[str, tuple[Damage, str]] = {
    "threat_1 bundle missing": (bundle(None), "ca.crt: does not exist"),
    "threat_1 bundle empty": (bundle(b""), "ca.crt"),
    "threat_1 bundle garbage": (bundle(b"\x00garbage"), "ca.crt"),
    "threat_1 SPIFFE bundle without keys": (bundle(b'{"keys": []}'), "ca.crt: no certificate in the bundle"),
    "threat_1 SPIFFE bundle damaged": (bundle(b'{"keys": ['), "ca.crt: the bundle is not JSON"),
    "threat_1 bundle unreadable": (unreadable_bundle, "ca.crt"),
    "threat_60 key open to the world": (open_key, "tools.key: holds a private key and is open to everybody"),
    "key of another certificate": (strange_key, "tools.key"),
    "certificate expired": (expired, "tools.crt"),
    "certificate not yet valid": (not_yet_valid, "tools.crt"),
    "allow empty": (nobody_named, "inbound[0].allow: no caller is named"),
    "allow absent": (allow_absent, "inbound[0].allow: no caller is named"),
    "outbound without peer": (no_peer, "outbound[0].peer"),
    "pin too short": (short_pin, "inbound[0].allow[0].pins[0]"),
    "trust domain wild": (wild_domain, "inbound[0].allow[0].caller"),
    "plaintext off loopback": (plaintext_listen, "unsafe_plaintext_listen"),
    "forward off this machine": (plaintext_forward, "unsafe_plaintext_forward"),
    "key place that is none": (bad_key_place, "identity.key"),
    "threat_60 PIN in the configuration": (pin_in_the_file, "identity.key"),
    "key not served yet": (not_served, "forward: not served yet"),
}


@pytest.mark.threat(1, 60)
@pytest.mark.parametrize("defect", DEFECTS)
def test_threat_1_60_both_commands_name_the_defect_and_open_nothing(
    site: Site, defect: str, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, named = DEFECTS[defect]
    tools = site.tools(1)
    damage(site, tools)
    tools.launch()
    assert main(["check", str(tools.file)]) == 2  # the same code as the command's, without another process
    check = capfd.readouterr()
    assert tools.exit_code() == 2
    assert named in check.err
    assert tools.stderr == check.err
    assert (tools.stdout, check.out) == ("", "")
    assert not tools.socket.exists()
    assert not tools.log_file.exists()
    assert not listens(tools.port())
    assert "PRIVATE" not in tools.stderr
    assert "Traceback" not in tools.stderr


def test_check_names_every_fault_at_once(site: Site) -> None:
    tools = site.tools(1, drain_timeout="soon", colour="blue")
    open_key(site, tools)
    nobody_named(site, tools)
    tools.write()
    lines = site.command("check", str(tools.file)).stderr.splitlines()
    assert lines[-1].endswith(": 4 faults")
    for key in ("identity.key", "inbound[0].allow", "drain_timeout", "colour"):
        (line,) = (line for line in lines if f": {key}: " in line)
        assert line.startswith(f"{tools.file}:")


def test_check_says_what_a_sound_file_means_and_opens_nothing(site: Site) -> None:
    tools = site.tools(1)
    tools.write()
    done = site.command("check", tools.file.name)
    assert (done.returncode, done.stderr) == (0, "")
    assert TOOLS in done.stdout
    assert f"127.0.0.1:{tools.port()} (mutual TLS)" in done.stdout
    assert not tools.socket.exists()
    assert not tools.log_file.exists()


def test_unsafe_words_are_needed_and_shown(site: Site) -> None:
    tools = site.tools(1)
    plaintext_listen(site, tools)
    tools.config["outbound"][0]["unsafe_plaintext_listen"] = True
    tools.write()
    done = site.command("check", str(tools.file))
    assert done.returncode == 0
    assert "whoever reaches 0.0.0.0:14001 speaks with our identity" in done.stdout
