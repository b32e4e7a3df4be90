"""Keys in PKCS#11 tokens: HSMs, smart cards, SoftHSM."""

from __future__ import annotations

from sidecar.keys.errors import KeyCode, PrivateKeyError

try:
    import pkcs11 as _library  # noqa: F401 - all modules of this package need it; here its absence gets its name
except ImportError as error:
    raise PrivateKeyError(
        KeyCode.NO_LIBRARY,
        "a pkcs11: key needs the package python-pkcs11, which is not installed or does not load",
        hint="pip install 'agent-sidecar[pkcs11]'",
    ) from error
