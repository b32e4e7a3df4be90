"""All kinds of tokens, in the order of their lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.tokens.issued import Issued
from bench.tokens.self_signed import SelfSigned

if TYPE_CHECKING:
    from bench.tokens.kind import Kind

KINDS: Final[tuple[Kind, ...]] = (SelfSigned(), Issued())
