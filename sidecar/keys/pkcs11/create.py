"""Making a key in a token: it is born there and cannot leave it."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING, Any, Final

from pkcs11.constants import Attribute, MechanismFlag
from pkcs11.exceptions import (
    AttributeValueInvalid,
    DomainParamsInvalid,
    FunctionNotSupported,
    MechanismInvalid,
)
from pkcs11.mechanisms import KeyType, Mechanism

from sidecar.keys.errors import KeyCode, PrivateKeyError
from sidecar.keys.pkcs11 import failures, search
from sidecar.keys.pkcs11.module import module
from sidecar.keys.pkcs11.session import open_session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.asymmetric import ec
    from pkcs11.types import Session

    from sidecar.keys.uri import Pkcs11Key

#: CKA_ID of a key whose place names none. Random: a second key never gets the first one's.
_ID_BYTES: Final = 16

_PRIVATE: Final[dict[Attribute, Any]] = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
}


def create(spec: Pkcs11Key, curve: type[ec.EllipticCurve], pin: bytes | None) -> ec.EllipticCurvePublicKey:
    """Makes a key pair that signs and does nothing else. Raises PrivateKeyError, SignError; overwrites nothing."""
    if spec.object is None:
        raise PrivateKeyError(KeyCode.BAD_PLACE, "a new key needs a label", hint="add object= to the pkcs11: place")
    if curve not in search.EC_PARAMS:
        raise PrivateKeyError(
            KeyCode.UNSUPPORTED, f"{curve.__name__} is none of our curves", hint="take P-256 or P-384"
        )
    with _session(spec, pin, writable=True) as session:
        _demand_free(session, spec)
        made = _generate(session, spec, curve)
        try:
            # A token may take a template and do otherwise.
            return search.checked(session, made[1], spec).public_key
        except PrivateKeyError:
            for half in made:
                half.destroy()
            raise


def find(spec: Pkcs11Key, pin: bytes | None) -> tuple[ec.EllipticCurvePublicKey, bytes] | None:
    """Returns the public half and the identifier of a key that is there. Raises PrivateKeyError, SignError."""
    with _session(spec, pin) as session:
        found = search.find_key(session, spec, logged_in=pin is not None)
    return (found.public_key, found.id) if found else None


@contextlib.contextmanager
def _session(spec: Pkcs11Key, pin: bytes | None, *, writable: bool = False) -> Iterator[Session]:
    loaded = module(spec.module)
    with loaded.alone():
        loaded.start()
        opened = open_session(loaded, spec, pin, writable=writable)
        try:
            with failures.translated():
                yield opened.session
        finally:
            opened.close()


def _demand_free(session: Session, spec: Pkcs11Key) -> None:
    for attribute, value in ((Attribute.LABEL, spec.object), (Attribute.ID, spec.id)):
        if value is not None and search.objects(session, {attribute: value}):
            raise PrivateKeyError(
                KeyCode.EXISTS,
                f"the token has an object already that is {search.described(spec)}",
                hint="nothing is overwritten: choose another label and identifier, or delete it with the vendor's tool",
            )


def _generate(session: Session, spec: Pkcs11Key, curve: type[ec.EllipticCurve]) -> tuple[Any, Any]:
    parameters = session.create_domain_parameters(
        KeyType.EC, {Attribute.EC_PARAMS: search.EC_PARAMS[curve]}, local=True
    )
    try:
        return parameters.generate_keypair(
            id=spec.id or secrets.token_bytes(_ID_BYTES),
            label=spec.object,
            store=True,
            capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
            mechanism=Mechanism.EC_KEY_PAIR_GEN,
            private_template=_PRIVATE,
        )
    except (MechanismInvalid, DomainParamsInvalid, FunctionNotSupported, AttributeValueInvalid) as error:
        raise PrivateKeyError(
            KeyCode.UNSUPPORTED,
            f"the token makes no key on {curve.__name__} ({type(error).__name__})",
            hint="take the other curve, P-256 or P-384",
        ) from error
