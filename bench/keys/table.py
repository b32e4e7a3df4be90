"""All kinds of keys, in the order of their lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.keys.hsm import HsmKey
from bench.keys.kind import FileKey
from bench.keys.service import ServiceKey
from bench.keys.tpm import TpmKey

if TYPE_CHECKING:
    from bench.keys.kind import Kind

KINDS: Final[tuple[Kind, ...]] = (FileKey(), TpmKey(), HsmKey(), ServiceKey())
