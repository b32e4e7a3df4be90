"""Identities whose key is in a device, for the sidecars of a `Site`: made, certified and named in the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.identity.issue import issue
from sidecar.identity.spiffe import SpiffeId
from sidecar.keys.spec import TpmKey
from sidecar.keys.tpm.create import create
from tests.support.ca import DAY, pem
from tests.support.processes import now, replace_file
from tests.support.swtpm import import_key

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ca import Ca
    from tests.support.processes import Sidecar, Site
    from tests.support.softhsm import SoftHsm
    from tests.support.swtpm import SlowRelay, Swtpm

P256 = ec.SECP256R1


def certify(site: Site, sidecar: Sidecar, public_key: ec.EllipticCurvePublicKey, *, ca: Ca | None = None) -> None:
    """Has a certificate issued for a key, in place of the sidecar's."""
    by = ca or site.ca
    spiffe_id = SpiffeId(by.domain, f"/agent/{sidecar.name}/1")
    certificate = issue(by.authority, public_key, spiffe_id, now=now(), lifetime=DAY)
    replace_file(site.path(f"{sidecar.name}.crt"), pem(certificate, *by.above))


def _no_software_key(site: Site, sidecar: Sidecar) -> None:
    site.path(f"{sidecar.name}.key").unlink()


def key_in_tpm(
    site: Site,
    sidecar: Sidecar,
    tpm: Swtpm,
    *,
    relay: SlowRelay | None = None,
    curve: type[ec.EllipticCurve] = P256,
    pin: bytes | None = None,
    handle: int | None = None,
) -> Path:
    """Gives a sidecar a key in that TPM, wrapped in a file or persistent, and reached through the relay if there is one."""
    file, pin_file = site.path(f"{sidecar.name}.tpm.pem"), site.path(f"{sidecar.name}.pin")
    made = create(TpmKey(handle=handle, file=None if handle else file, tcti=tpm.tcti), curve, pin)
    if made.pem is not None:
        replace_file(file, made.pem)
    if pin is not None:
        replace_file(pin_file, pin)
    certify(site, sidecar, made.public_key)
    _no_software_key(site, sidecar)
    name_tpm_key(site, sidecar, (relay or tpm).tcti, pin=pin is not None, handle=handle)
    return file


def name_tpm_key(
    site: Site, sidecar: Sidecar, tcti: str, *, pin: bool = False, handle: int | None = None, copyable: bool = False
) -> None:
    """Names a key in a TPM in the sidecar's configuration."""
    sidecar.config["identity"]["key"] = str(
        TpmKey(
            handle=handle,
            file=None if handle else site.path(f"{sidecar.name}.tpm.pem"),
            tcti=tcti,
            pin_source=site.path(f"{sidecar.name}.pin") if pin else None,
            copyable=copyable,
        )
    )


def known_key_in_tpm(site: Site, sidecar: Sidecar, tpm: Swtpm, key: ec.EllipticCurvePrivateKey) -> None:
    """Imports a key, whose value is thus known, and names it as what it is: one that could be copied."""
    replace_file(site.path(f"{sidecar.name}.tpm.pem"), import_key(tpm, key))
    certify(site, sidecar, key.public_key())
    _no_software_key(site, sidecar)
    name_tpm_key(site, sidecar, tpm.tcti, copyable=True)


def key_in_token(
    site: Site, sidecar: Sidecar, hsm: SoftHsm, *, curve: type[ec.EllipticCurve] = P256, label: str = ""
) -> None:
    """Gives a sidecar a key in that token."""
    from sidecar.keys import uri
    from sidecar.keys.pin import read_pin
    from sidecar.keys.pkcs11.create import create as create_in_token

    place = hsm.uri(label or sidecar.name)
    spec = uri.parse(place, site.folder)
    assert spec.pin_source is not None
    public_key = create_in_token(spec, curve, read_pin(spec.pin_source.read_bytes()))
    certify(site, sidecar, public_key)
    _no_software_key(site, sidecar)
    sidecar.config["identity"]["key"] = place
    sidecar.environ |= hsm.environment()
