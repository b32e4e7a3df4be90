"""From settings to a source: one row a kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sidecar.tokens.settings import ExecSource, FileSource, OAuth2Source, SelfSignedSource

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sidecar.tokens.settings import SourceSettings
    from sidecar.tokens.sources.source import Means, TokenSource


def make(settings: SourceSettings, means: Means) -> TokenSource:
    """Makes a source. Raises KeyError where a secret that it names was not read with the configuration."""
    return _KINDS[settings.kind](settings, means)


def _oauth2(settings: OAuth2Source, means: Means) -> TokenSource:
    from sidecar.tokens.sources.oauth2 import OAuth2  # noqa: PLC0415 - loads the client for issuers

    return OAuth2(settings, means)


def _self_signed(settings: SelfSignedSource, means: Means) -> TokenSource:
    from sidecar.tokens.sources.self_signed import SelfSigned  # noqa: PLC0415 - as the others

    return SelfSigned(settings, means)


def _file(settings: FileSource, means: Means) -> TokenSource:
    from sidecar.tokens.sources.file import File  # noqa: PLC0415 - as the others

    return File(settings, means)


def _exec(settings: ExecSource, means: Means) -> TokenSource:
    from sidecar.tokens.sources.exec import Exec  # noqa: PLC0415 - loads subprocess

    return Exec(settings, means)


#: A new kind is one more row, and one in the conformance suite.
_KINDS: Final[Mapping[str, Callable[[Any, Means], TokenSource]]] = {
    OAuth2Source.kind: _oauth2,
    SelfSignedSource.kind: _self_signed,
    FileSource.kind: _file,
    ExecSource.kind: _exec,
}
