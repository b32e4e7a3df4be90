"""A configuration file alone, without anything that it names: for commands that need not be able to read the key."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from sidecar.config.document import parse
from sidecar.config.faults import Faults, InvalidConfiguration, Refused
from sidecar.config.files import Look

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sidecar.config.values import Config


class ReadConfiguration(NamedTuple):
    """What the file says, and on which lines its rules stand, by their key paths."""

    config: Config
    lines: Mapping[str, int]


def read_configuration(path: Path) -> ReadConfiguration:
    """Reads and checks the file itself. Raises InvalidConfiguration with every fault that shows in it alone."""
    faults, look = Faults(path), Look()
    try:
        found = parse(look.read(path.absolute()).data, path.absolute(), os.environ, faults)
    except Refused as error:
        found = None
        faults.refuse(error)
    if found is None or found.config is None or faults.found:
        raise InvalidConfiguration(faults.sorted(), look.snapshot(), left_out=faults.left_out)
    return ReadConfiguration(found.config, found.lines)
