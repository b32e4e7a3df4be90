"""tpm2-pytss, loaded when a key is in a TPM and not before: it brings seven shared libraries and 10 MB with it."""

from __future__ import annotations

import importlib
import os
from typing import Any, Final

from sidecar.keys.errors import KeyCode, PrivateKeyError

#: What tpm2-tss writes to stderr by itself, in its words. It would stand between our log lines, and the errors reach us.
_QUIET: Final = "all+NONE"


def load() -> Any:
    """Returns the module. Raises PrivateKeyError where it, or a library that it needs, is not installed.

    What its functions raise is ``TSS2_Exception``. A value inside a structure of its lives no longer than the outermost
    structure: ``get_capability(…)[1].data.handles`` without a name for the second item reads freed memory.
    """
    os.environ.setdefault("TSS2_LOG", _QUIET)
    try:
        return importlib.import_module("tpm2_pytss")
    except ImportError as error:
        raise PrivateKeyError(
            KeyCode.NO_LIBRARY,
            f"the key is in a TPM, and tpm2-pytss does not load: {error}",
            hint="apt-get install libtss2-dev gcc python3-dev pkg-config, then pip install 'agent-sidecar[tpm]'",
        ) from error
