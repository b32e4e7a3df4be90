from __future__ import annotations

import dataclasses

import pytest

from sidecar.identity.peer import Peer, Role
from tests.support.ca import Ca


def test_roles_are_written_as_logged() -> None:
    assert [str(role) for role in Role] == ["client", "server"]


def test_a_proven_identity_does_not_change() -> None:
    identity = Ca().leaf()
    peer = Peer(identity.id, identity.pin, "1", bytes(32), 2.0, 1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        peer.id = Ca("example.com").leaf().id  # type: ignore[misc]  # that it is frozen is the point
