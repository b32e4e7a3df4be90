"""The PIN of a key, as a file holds it."""

from __future__ import annotations

from sidecar.keys.errors import KeyCode, PrivateKeyError

#: No token and no TPM takes a longer one.
_MAX_BYTES = 255


def read_pin(data: bytes) -> bytes:
    """Returns the PIN in a file's bytes: all of it, less one line end. Raises PrivateKeyError, which never quotes it."""
    pin = data.removesuffix(b"\n").removesuffix(b"\r")
    if not pin or len(pin) > _MAX_BYTES or b"\n" in pin or b"\0" in pin:
        raise PrivateKeyError(
            KeyCode.BAD_PIN,
            "does not hold one PIN",
            hint=f"the file holds the PIN alone, in one line of at most {_MAX_BYTES} bytes",
        )
    try:
        pin.decode()
    except UnicodeDecodeError:
        raise PrivateKeyError(KeyCode.BAD_PIN, "does not hold a PIN in UTF-8", hint="write the PIN as text") from None
    return pin
