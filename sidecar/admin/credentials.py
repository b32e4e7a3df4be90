"""Whom the administration socket serves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sidecar.sockets import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable


def allowed_uids(more: Iterable[int] = ()) -> frozenset[int]:
    """The uids that the administration socket serves: our own, root, and those that the configuration names."""
    return frozenset((os.geteuid(), ROOT, *more))
