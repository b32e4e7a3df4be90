"""The way in: one path to a configuration with its identity material, or every fault at once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from sidecar.config.document import parse
from sidecar.config.faults import ConfigCode, Faults, InvalidConfiguration, Refused
from sidecar.config.files import Look, Snapshot
from sidecar.config.material import Material, MaterialReader

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sidecar.config.files import FileRead
    from sidecar.config.values import Config, TcpAddress
    from sidecar.tokens.settings import SecretRef

#: Looks that are tried when links move under us, as a volume is swapped.
_LOOKS: Final = 3


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that may be used: checked, with the bytes that were checked and a record of what was read.

    ``checked``: when, in seconds since the epoch. ``files``: what was read, where worker processes need it again, else
    none: it may hold our key. ``token_files``: the certificates (PEM, ASCII) of each file that a ``ca`` names. ``token_secrets``: client secrets.
    """

    config: Config
    material: Material
    snapshot: Snapshot
    token_files: Mapping[Path, bytes] = field(default_factory=dict)
    token_secrets: Mapping[SecretRef, str] = field(default_factory=dict, repr=False)
    checked: float = 0.0
    files: tuple[FileRead, ...] = field(default=(), repr=False)

    def for_agent(self, listener: TcpAddress | None) -> Loaded:
        """Returns the same with one more listener, for the agent of `sidecar exec`; it stands in no file."""
        return replace(self, config=replace(self.config, agent=listener))


def load(
    path: Path,
    *,
    now: float,
    environ: Mapping[str, str] | None = None,
    given: Mapping[Path, FileRead] | None = None,
) -> Loaded:
    """Reads and checks a configuration file and the files it names, as they are at ``now`` (seconds since the epoch).

    Opens files and nothing else: no socket, no device. ``environ`` gives ``XDG_RUNTIME_DIR``, and
    client secrets that are named by a variable. ``given``: the files, read before; nothing is opened then. Raises InvalidConfiguration, and nothing else, whatever the files hold.
    """
    file = path.absolute()
    for _ in range(_LOOKS):
        look = Look(given)
        faults = Faults(path)
        loaded = _load(file, look, faults, now, os.environ if environ is None else environ)
        if look.settled():
            break
    else:
        faults.add(
            ConfigCode.FILE_CHANGING, "the files were replaced while they were read", hint="try again in a moment"
        )
    if loaded is None or faults.found:
        raise InvalidConfiguration(faults.sorted(), look.snapshot(), left_out=faults.left_out)
    return loaded


def _load(file: Path, look: Look, faults: Faults, now: float, environ: Mapping[str, str]) -> Loaded | None:
    try:
        data = look.read(file).data
    except Refused as error:
        faults.refuse(error)
        return None
    parsed = parse(data, file, environ, faults)
    material = MaterialReader(look, faults, parsed.lines, now).read(parsed.sources, parsed.roles)
    files: Mapping[Path, bytes] = {}
    secrets: Mapping[SecretRef, str] = {}
    if parsed.token_refs.cas or parsed.token_refs.secrets:
        from sidecar.config.token_files import TokenFileReader  # noqa: PLC0415 - for files with tokens alone

        found = TokenFileReader(look, faults, parsed.lines, environ).read(parsed.token_refs)
        files, secrets = found.cas, found.secrets
    if parsed.config is None or material is None:
        return None
    kept = look.files if parsed.config.workers > 1 else ()
    return Loaded(parsed.config, material, look.snapshot(), files, secrets, checked=now, files=kept)
