"""A key in a PKCS#11 token: SoftHSM, which is a library in our own process."""

from __future__ import annotations

import importlib.util
import os
import secrets
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from bench.errors import CouldNotRunError
from bench.keys.kind import Given, OwnKey, certify, unsuitable
from bench.processes import PATIENCE
from bench.programs import lacking, path_of

if TYPE_CHECKING:
    from bench.site import Site

_TOKEN: Final = "bench"  # noqa: S105 - the name of a token


@dataclass(frozen=True, slots=True)
class HsmKey:
    """A token of its own for each row."""

    name: str = "hsm"
    title: str = "key in an HSM (SoftHSM)"

    def missing(self) -> str | None:
        """Says that SoftHSM or python-pkcs11 is not there."""
        lack = lacking("softhsm2-util", package="softhsm2")
        if lack is None and library() is None:
            return "libsofthsm2.so is not installed: apt-get install softhsm2"
        if lack is None and importlib.util.find_spec("pkcs11") is None:
            return "python-pkcs11 is not installed: pip install 'agent-sidecar[pkcs11]'"
        return lack or unsuitable()

    def begin(self, site: Site) -> Given:
        """Makes a token, and has a key made in it."""
        tokens, pin_file = site.crew.path("tokens"), site.crew.path("pin")
        tokens.mkdir(mode=0o700)
        config = site.file("softhsm2.conf", f"directories.tokendir = {tokens}\nlog.level = ERROR\n")
        environment = (("SOFTHSM2_CONF", str(config)),)
        pin = secrets.token_hex(8)
        pin_file.touch(mode=0o600)
        pin_file.write_text(pin)
        _make_token(pin, environment)
        source = f"module-path={quote(str(library()))}&pin-source=file:{quote(str(pin_file))}"
        certificate = certify(site, self.name, f"pkcs11:token={_TOKEN}?{source}", environment)
        place = certificate.with_name("tls.pkcs11.uri").read_text().strip()
        return Given(OwnKey(place, certificate, environment))


def library() -> Path | None:
    """Where distributions put the module."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    folders = ("/usr/lib/softhsm", f"/usr/lib/{multiarch}/softhsm", "/usr/lib64/softhsm", "/usr/lib64/pkcs11")
    return next((path for folder in folders if (path := Path(folder, "libsofthsm2.so")).exists()), None)


def _make_token(pin: str, environment: tuple[tuple[str, str], ...]) -> None:
    done = subprocess.run(
        [path_of("softhsm2-util"), "--init-token", "--free", "--label", _TOKEN, "--pin", pin, "--so-pin", pin],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | dict(environment),
        timeout=PATIENCE,
    )
    if done.returncode != 0:
        raise CouldNotRunError(f"softhsm2-util makes no token: {(done.stderr or done.stdout).strip()}")
