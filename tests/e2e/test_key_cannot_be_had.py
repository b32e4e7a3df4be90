"""Ensures that nobody who can read everything of a proxy finds its private key there, where the key is in a device.

A key whose value is known is imported into a TPM, and used by the same code as any other. After a hundred handshakes in
both roles the whole memory of the process, its open files, and all that it wrote are searched for that value. The same search
finds a key that is in a file, so it would have found this one. That a key of our own making leaves neither a TPM nor a token
by their own commands is shown in tests/unit/keys/tpm/test_loaded.py (TPM2_Duplicate) and tests/unit/keys/pkcs11/test_device.py
(reading CKA_VALUE).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support import memory, raw
from tests.support.ca import key_pem
from tests.support.eventually import eventually
from tests.support.processes import COMMAND, ask, replace_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.backend import Backend
    from tests.support.processes import Sidecar, Site

HANDSHAKES = 100
OURS = "spiffe://example.org/agent/both/1"
#: Names no user of a machine has, so that what is found is found for a reason.
PIN = b"hush-hush-owl-at-4"

needs_memory = pytest.mark.skipif(not memory.permitted(), reason=memory.NEEDED)
needs_tpm = pytest.mark.needs("swtpm", "tpm2-pytss")
needs_token = pytest.mark.needs("softhsm", "python-pkcs11")


@pytest.fixture(params=[ec.SECP256R1, ec.SECP384R1], ids=["P-256", "P-384"])
def key(request: pytest.FixtureRequest) -> ec.EllipticCurvePrivateKey:
    """A key that no other test uses."""
    return ec.generate_private_key(request.param())


def forms(key: ec.EllipticCurvePrivateKey) -> memory.Forms:
    return memory.forms_of_number(key.private_numbers().private_value.to_bytes(key.key_size // 8))


def both_ends(site: Site) -> Sidecar:
    """A sidecar that calls itself, through a tunnel into its own inbound port: each connection costs it two signatures."""
    entry = raw.into("both", raw.server(site).port, OURS)
    port = int(entry["listen"].rpartition(":")[2])
    calls = raw.out_to("both", port) | {"peer": OURS}
    return site.sidecar("both", inbound=[entry], outbound=[calls], resumption="never")


def shake_hands(sidecar: Sidecar) -> None:
    for _ in range(HANDSHAKES):
        with raw.connect(sidecar.port("outbound")) as sock:
            raw.talks(sock)
    for role in ("client", "server"):
        assert sidecar.metric("handshakes_total", role=role, result="ok", resumed="false") == HANDSHAKES


def searched(sidecar: Sidecar, forms: memory.Forms) -> memory.Search:
    search = memory.search_process(sidecar.running.pid, forms)
    assert search.unread == []
    assert search.octets > 20_000_000, "an interpreter with OpenSSL has more than that"
    return search


@needs_memory
@needs_tpm
def test_a_key_in_a_tpm_is_nowhere_in_the_proxy(site: Site, key: ec.EllipticCurvePrivateKey) -> None:
    from tests.support.keyed import known_key_in_tpm
    from tests.support.swtpm import Swtpm

    both = both_ends(site)
    with Swtpm() as tpm:
        known_key_in_tpm(site, both, tpm, key)
        both.start()
        shake_hands(both)
        search = searched(both, forms(key))
        assert search.found == {}
        assert memory.search_folder(site.folder, forms(key)).found == {}
        eventually(
            lambda: both.metric("sign_duration_seconds_count") == 2 * HANDSHAKES, "every handshake to be the TPM's"
        )
        assert both.stop() == 0
    assert memory.search_folder(site.folder, forms(key)).found == {}


@needs_memory
def test_a_key_in_a_file_is_found_by_the_same_search(site: Site, key: ec.EllipticCurvePrivateKey) -> None:
    """So what is found nowhere above would have been found. It is not in anything that the proxy says, either."""
    both = both_ends(site)
    certify_file(site, both, key)
    both.start()
    shake_hands(both)
    found = searched(both, forms(key)).forms
    assert "octets, lowest first" in found, "as OpenSSL holds it"
    assert any(form.startswith("base64") for form in found), "as we hand it to OpenSSL"
    assert both.stop() == 0
    assert list(memory.search_folder(site.folder, forms(key)).found) == ["both.key"]


def certify_file(site: Site, sidecar: Sidecar, key: ec.EllipticCurvePrivateKey) -> None:
    from tests.support.keyed import certify

    certify(site, sidecar, key.public_key())
    replace_file(site.path(f"{sidecar.name}.key"), key_pem(key))


@needs_memory
def test_a_key_behind_a_service_is_in_the_service_alone(site: Site) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    both = both_ends(site)
    certify_file(site, both, key)
    socket, said = site.path("s.sock"), site.path("signer.err")
    with said.open("wb") as err:
        command = (*COMMAND, "signer", "--listen", f"unix:{socket}", "--key", "both.key")
        service = site.process(*command, stdout=subprocess.DEVNULL, stderr=err, env=dict(os.environ))
    eventually(lambda: b"the signer service is ready" in said.read_bytes(), "the service to be ready")
    both.config["identity"]["key"] = f"signer:unix:{socket}"
    both.start()
    shake_hands(both)
    assert searched(both, forms(key)).found == {}
    assert memory.search_process(service.pid, forms(key)).forms
    assert list(memory.search_folder(site.folder, forms(key)).found) == ["both.key"]


# -- what is said -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def in_tpm(site: Site, sidecar: Sidecar) -> Iterator[tuple[Path, bytes]]:
    from tests.support.keyed import key_in_tpm
    from tests.support.swtpm import Swtpm

    with Swtpm() as tpm:
        key_in_tpm(site, sidecar, tpm, pin=PIN)
        yield site.path(f"{sidecar.name}.pin"), PIN


@contextlib.contextmanager
def in_token(site: Site, sidecar: Sidecar) -> Iterator[tuple[Path, bytes]]:
    from tests.support import softhsm
    from tests.support.keyed import key_in_token

    with softhsm.SoftHsm() as hsm:
        key_in_token(site, sidecar, hsm)
        yield hsm.pin_file, softhsm.PIN


DEVICES = [pytest.param(in_tpm, marks=needs_tpm, id="tpm"), pytest.param(in_token, marks=needs_token, id="hsm")]


def misplaced(pin: str) -> list[str]:
    """Where people put a PIN, or name the wrong file for it."""
    return [
        f"tpm:file=tools.tpm.pem;pin={pin}",
        f"tpm:file=tools.tpm.pem;pin-source={pin}",
        f"tpm:file=tools.tpm.pem;{pin}",
        f"pkcs11:token=t;object=o?module-path=/m.so&pin-value={pin}",
        f"pkcs11:token=t;object=o?module-path=/m.so&pin-source={pin}",
        f"pkcs11:token=t;object=o?module-path=/m.so&{pin}",
        f"pkcs11:token=t;object=o;pin-value={pin}?module-path=/m.so",
    ]


@pytest.mark.parametrize("device", DEVICES)
def test_neither_pin_nor_wrapped_key_is_ever_said(site: Site, backend: Backend, device: Any) -> None:
    """Traffic, the admin socket's answers, `check`, reloads and starts that fail for the PIN's or the key's sake."""
    tools = site.tools(backend)
    with device(site, tools) as (pin_file, pin):
        wrapped = site.path("tools.tpm.pem")
        pem = wrapped.read_bytes() if wrapped.exists() else b""
        good = tools.config["identity"]["key"]
        tools.start()
        assert ask(site.caller(tools.port()), "GET", "/x").status == 200
        told = [tools.ask(path).body for path in ("/config", "/certs", "/connections", "/metrics", "/ready", "/live")]
        assert good.split(":")[0].encode() in told[0], "the configuration shows where the key is"
        for place in misplaced(pin.decode().replace(" ", "%20")):
            tools.config["identity"]["key"] = place
            tools.reload(result="failed")
        tools.config["identity"]["key"] = good
        if pem:
            replace_file(wrapped, pem[:200])
            tools.reload(result="failed")
            replace_file(wrapped, pem)
        replace_file(pin_file, pin[:-1] + b"\n")  # its wrong one, too, is nobody's business
        tools.reload(result="failed")
        checked = site.command("check", str(tools.file), SIDECAR_DEBUG="1")
        told += [checked.stdout.encode(), checked.stderr.encode()]
        assert tools.stop() == 0
        tools.launch()
        assert tools.exit_code() == 2  # whoever restarts what failed must not lock the device
    told += [tools.stdout.encode(), tools.stderr.encode(), tools.log_file.read_bytes()]
    everything = b"\n".join(told)
    assert len(everything) > 5000
    secrets = [pin[:-1], pin[:-1].replace(b" ", b"%20"), *(line for line in pem.splitlines() if b"-----" not in line)]
    assert [secret for secret in secrets if secret in everything] == []


@needs_memory
@pytest.mark.parametrize("device", DEVICES)
def test_a_pin_is_in_memory_and_in_no_file_but_its_own(site: Site, backend: Backend, device: Any) -> None:
    """Whoever reads the proxy's memory can have the PIN, and with it the use of the key while he reaches the device.

    docs/hardware-keys.md says so. If it is ever not found, that page may say more.
    """
    tools = site.tools(backend)
    with device(site, tools) as (pin_file, pin):
        tools.start()
        assert ask(site.caller(tools.port()), "GET", "/x").status == 200
        assert searched(tools, memory.forms_of_text(pin)).forms
        assert memory.search_folder(site.folder, memory.forms_of_text(pin), besides=[pin_file]).found == {}
