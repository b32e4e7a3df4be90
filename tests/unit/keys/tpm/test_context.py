from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.tpm import library
from sidecar.keys.tpm.context import Context
from sidecar.keys.tpm.create import create
from sidecar.keys.tpm.tss2 import OWNER
from tests.support.swtpm import HANDLE

if TYPE_CHECKING:
    from tests.support.swtpm import Swtpm

pytestmark = pytest.mark.needs("swtpm", "tpm2-pytss")


def test_a_connection_is_closed_when_the_context_on_it_fails(tpm: Swtpm, monkeypatch: pytest.MonkeyPatch) -> None:
    tss = library.load()
    closed: list[object] = []

    def fail(_: object) -> None:
        raise tss.TSS2_Exception(0x70017)

    monkeypatch.setattr(tss, "ESAPI", fail)
    monkeypatch.setattr(tss.TCTILdr, "close", lambda tcti: closed.append(tcti))  # noqa: PLW0108 - bound, unlike append
    with pytest.raises(SignError) as caught:
        Context(tpm.tcti)
    assert caught.value.code is SignCode.FAILED
    assert len(closed) == 1


def test_the_storage_key_is_flushed_however_the_block_ends(tpm: Swtpm) -> None:
    with Context(tpm.tcti) as context:
        with contextlib.suppress(KeyError), context.storage_key(OWNER):
            assert len(tpm.transient_handles()) == 1
            raise KeyError
        assert tpm.transient_handles() == []


def test_the_storage_key_is_the_same_each_time(tpm: Swtpm) -> None:
    """Else nothing that it wrapped would load."""
    areas: set[bytes] = set()
    for _ in range(2):
        with Context(tpm.tcti) as context, context.storage_key(OWNER) as primary:
            areas.add(context.public(primary))
        tpm.restart()
    assert len(areas) == 1


def test_which_handles_are_occupied(tpm: Swtpm) -> None:
    create(tpm.spec(handle=HANDLE), ec.SECP256R1, None)
    with Context(tpm.tcti) as context:
        assert [context.is_occupied(handle) for handle in range(HANDLE - 1, HANDLE + 2)] == [False, True, False]


def test_whether_a_handle_names_an_object(tpm: Swtpm) -> None:
    create(tpm.spec(handle=HANDLE), ec.SECP256R1, None)
    with Context(tpm.tcti) as context:
        handle = context.persistent(HANDLE)
        area = context.public(handle)
        assert context.names(handle, area) is True
        assert context.names(handle, area + b"x") is False
        tpm.evict(HANDLE)
        assert context.names(handle, area) is None
        context.flush(handle)  # means nothing, and says nothing


def test_a_context_whose_tpm_is_gone_can_be_closed(tpm: Swtpm) -> None:
    context = Context(tpm.tcti)
    tpm.kill()
    context.close()
