"""A session with one token, logged in.

Whether somebody is logged in belongs to the process, not to a session: it ends when the last session is closed (PKCS#11
v3.1 5.6.2). So every key has one session of its own, nobody ever calls ``C_Logout``, and closing one key leaves the
others alone.

While somebody is logged in a token does not look at a PIN at all, so that the wrong PIN of a second key would show only
after the next restart. It is therefore compared with the one that opened the token; another one is refused, also where
it is the right one by now: to ask the token, everybody would have to be logged out first. A PIN
that a token refused is not tried again in this process, however often the configuration is read: each try feeds its lock.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final, Protocol, cast

from pkcs11.attributes import AttributeMapper, handle_ulong
from pkcs11.constants import Attribute, TokenFlag
from pkcs11.exceptions import PinLocked, PKCS11Error, UserAlreadyLoggedIn

from sidecar.keys.errors import KeyCode, PrivateKeyError, SignCode, SignError
from sidecar.keys.pkcs11 import failures
from sidecar.keys.uri import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pkcs11.types import Session, Token

    from sidecar.keys.pkcs11.module import Module, Place
    from sidecar.keys.uri import Pkcs11Key

#: What we decide by, as the bytes that the token gives: the library takes an empty value for False.
_RAW: Final = (Attribute.SENSITIVE, Attribute.EXTRACTABLE, Attribute.PRIVATE, Attribute.ALWAYS_AUTHENTICATE)


class TokenSession:
    """An open session; ``session`` is python-pkcs11's. All of it within `Module.alone`."""

    def __init__(self, module: Module, token: Token, *, writable: bool = False) -> None:
        with failures.translated():
            self.session: Session = token.open(rw=writable, attribute_mapper=_mapper())
        self._token = token
        self._module = module
        self._pin: bytes | None = None
        self._open = True
        module.sessions += 1

    def login(self, pin: bytes) -> None:
        """Logs in, with one try. Raises SignError."""
        place = self._place
        _demand_untried(self._module, place, pin)
        if self._token.flags & TokenFlag.USER_PIN_LOCKED:
            raise failures.sign_error(PinLocked())
        try:
            self._module.login(cast("_Handle", self.session).handle, pin)
        except UserAlreadyLoggedIn:
            pass  # by a session of ours, with the same PIN; or by another library in this process, which answers for it
        except PKCS11Error as error:
            found = failures.sign_error(error)
            if found.code is SignCode.FAILED:
                # Whatever it means, it may have been a try.
                found = SignError(SignCode.AUTH, f"the token lets nobody log in: {found}")
            if found.code is SignCode.AUTH:
                self._module.refused.add((place, pin))
            raise found from error
        self._pin = pin
        self._module.pins.setdefault(place, []).append(pin)

    def close(self) -> None:
        """Closes it; the last one that is closed logs out. Never raises: a token that is gone has no session either."""
        if not self._open:
            return
        self._open = False
        self._module.sessions -= 1
        if self._pin is not None:
            held = self._module.pins[self._place]
            held.remove(self._pin)
            if not held:
                del self._module.pins[self._place]
        try:
            self.session.close()
        except PKCS11Error:
            return

    @property
    def _place(self) -> Place:
        return self._token.slot.slot_id, self._token.serial


def open_session(module: Module, spec: Pkcs11Key, pin: bytes | None, *, writable: bool = False) -> TokenSession:
    """Opens a session with the token that a URI names, and logs in where there is a PIN. Raises SignError, PrivateKeyError."""
    session = TokenSession(module, choose(module, spec), writable=writable)
    try:
        if pin is not None:
            session.login(pin)
    except SignError:
        session.close()
        raise
    return session


class _Handle(Protocol):
    """What the stub of a session lacks."""

    handle: int


def _demand_untried(module: Module, place: Place, pin: bytes) -> None:
    if (place, pin) in module.refused:
        raise SignError(
            SignCode.AUTH,
            "the token has refused this PIN; it is not tried again",
            hint="correct the file of pin-source; where the token has changed, restart",
        )
    if place in module.pins and not hmac.compare_digest(pin, module.pins[place][0]):
        raise SignError(
            SignCode.AUTH,
            "the token is in use with another PIN, and checks none while it is",
            hint="where the token's PIN has been changed, restart",
        )


def choose(module: Module, spec: Pkcs11Key) -> Token:
    """Finds the one token that a URI names. Raises SignError where it is not there, PrivateKeyError where several are."""
    with failures.translated():
        present = list(_tokens(module))
    fitting = [token for token in present if _fits(token, spec)]
    names = ", ".join(shown(token.label) for token in present[:8])
    if not fitting:
        raise SignError(
            SignCode.UNAVAILABLE,
            f"the token of our private key is not there ({_described(spec)})",
            hint=f"the module shows {names}"
            if present
            else "the module shows no token: is it plugged in, and may this user open it?",
        )
    if len(fitting) > 1:
        raise PrivateKeyError(
            KeyCode.SEVERAL_KEYS,
            f"{len(fitting)} tokens fit ({_described(spec)})",
            hint=f"name one by token= and, where labels repeat, serial=; the module shows {names}",
        )
    return fitting[0]


def _tokens(module: Module) -> Iterator[Token]:
    for slot in module.slots():
        try:
            token = slot.get_token()
        except PKCS11Error:
            continue  # taken out meanwhile, or broken: a slot that is not ours is none of our business
        if token.flags & TokenFlag.TOKEN_INITIALIZED:
            yield token


def _fits(token: Token, spec: Pkcs11Key) -> bool:
    serial = token.serial.rstrip(b"\0 ").decode(errors="replace")
    return all(
        wanted is None or wanted == found
        for wanted, found in (
            (spec.token, token.label),
            (spec.manufacturer, token.manufacturer_id),
            (spec.model, token.model),
            (spec.serial, serial),
            (spec.slot, token.slot.slot_id),
        )
    )


def _described(spec: Pkcs11Key) -> str:
    named = {
        "token": spec.token,
        "manufacturer": spec.manufacturer,
        "model": spec.model,
        "serial": spec.serial,
        "slot-id": None if spec.slot is None else str(spec.slot),
    }
    return ", ".join(f"{name} {shown(value)}" for name, value in named.items() if value is not None) or "any token"


def _mapper() -> AttributeMapper:
    mapper = AttributeMapper()
    for attribute in _RAW:
        mapper.register_handler(attribute, lambda value: bytes([bool(value)]), bytes)
    mapper.register_handler(Attribute.KEY_TYPE, handle_ulong[0], bytes)
    return mapper
