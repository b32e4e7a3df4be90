from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from sidecar.tokens import settings as module
from sidecar.tokens.settings import ClientAuth, ExecSource, FileSource, OAuth2Source, SecretRef, SelfSignedSource
from sidecar.tokens.sources.exec import Exec
from sidecar.tokens.sources.file import File
from sidecar.tokens.sources.make import _KINDS, make
from sidecar.tokens.sources.oauth2 import OAuth2
from sidecar.tokens.sources.self_signed import SelfSigned
from tests.support.tokens import means

ROWS = [
    (OAuth2Source("x", "https://as.example", ClientAuth.TLS), OAuth2),
    (SelfSignedSource("x", "tools"), SelfSigned),
    (FileSource("x", Path("/nowhere")), File),
    (ExecSource("x", ("true",)), Exec),
]


@pytest.mark.parametrize(("settings", "kind"), ROWS)
def test_each_kind_has_a_row(settings: module.SourceSettings, kind: type) -> None:
    assert type(make(settings, means())) is kind


def test_there_are_no_other_kinds() -> None:
    assert {type(settings).kind for settings, _ in ROWS} == set(_KINDS)
    names = {name for name in vars(module) if name.endswith("Source")}
    assert names == {type(settings).__name__ for settings, _ in ROWS}
    assert get_args(module.SourceSettings) == ()  # a text, for the type checker alone


def test_a_secret_that_was_not_read_is_a_mistake_of_ours() -> None:
    secret = SecretRef(env="ABSENT")
    with pytest.raises(KeyError):
        make(OAuth2Source("x", "https://as.example", ClientAuth.SECRET_POST, client_secret=secret), means())


def test_what_is_not_asked_for_is_not_loaded() -> None:
    program = "import sys, sidecar.tokens.sources.make; print([m for m in sys.modules if m.startswith('sidecar.tokens.sources.')])"
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout == "['sidecar.tokens.sources.make']\n"
