"""A configuration from the parent to its workers: the very bytes that the parent checked, and when it checked them.

A worker that is started later, in place of one that died, gets what is in force, whatever the files say by then. And what
was checked at one time is not checked again at another: our certificate may have expired meanwhile, and a worker is no
worse with it than the others that serve on. The PIN of a key in a device does not go along: the signer process has it.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sidecar import __version__
from sidecar.config.addresses import tcp_address
from sidecar.config.files import FileRead
from sidecar.config.load import Loaded, load
from sidecar.keys.spec import TpmKey
from sidecar.keys.uri import Pkcs11Key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.app.workers.channel import Content

#: What stands in the place of a PIN: no worker needs it, and the configuration is read in the same way.
_NO_PIN: Final = b"withheld"


def pack(loaded: Loaded, *, with_pin: bool = False) -> Content:
    """Returns what `unpack` takes. The PIN of our key is left out, but for the process that opens it."""
    withheld = frozenset() if with_pin else _pin_files(loaded)
    return {
        "version": __version__,
        "source": str(loaded.config.source),
        "now": loaded.checked,
        "agent": str(loaded.config.agent) if loaded.config.agent else None,
        "files": [
            [
                str(file.path),
                base64.b64encode(_NO_PIN if file.path in withheld else file.data).decode("ascii"),
                *_owner(file.status),
            ]
            for file in loaded.files
        ],
    }


def unpack(content: Content) -> Loaded:
    """Returns the configuration. Raises InvalidConfiguration, and ValueError or KeyError for what is none."""
    files: Mapping[Path, FileRead] = {file.path: file for file in map(_file, content["files"])}
    agent = tcp_address(content["agent"]) if content["agent"] is not None else None
    return load(Path(content["source"]), now=float(content["now"]), given=files).for_agent(agent)


def _pin_files(loaded: Loaded) -> frozenset[Path]:
    spec = loaded.material.key.spec
    source = spec.pin_source if isinstance(spec, TpmKey | Pkcs11Key) else None
    others = {ref.file for ref in loaded.token_secrets}
    return frozenset() if source is None or source in others else frozenset((source,))


def _owner(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mode, status.st_uid, status.st_gid


def _file(entry: list[Any]) -> FileRead:
    path, data, mode, uid, gid = entry
    # All that is ever asked of them is whose they are and who may read them.
    status = os.stat_result((mode, 0, 0, 1, uid, gid, 0, 0, 0, 0))
    return FileRead(Path(path), base64.b64decode(data), status)
