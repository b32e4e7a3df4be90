"""The seam: whatever gives a token. A new kind is a new file, a row in `make`, and a row in the conformance suite."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sidecar.clock import Clock
    from sidecar.identity.svid import Svid
    from sidecar.keys.signer import Signer
    from sidecar.threads import Workers
    from sidecar.tls.contexts import Credentials
    from sidecar.tokens.settings import SecretRef
    from sidecar.tokens.token import Token


class TokenSource(Protocol):
    """Obtains tokens for one outbound entry as one identity: our certificate at the time, with its key.

    Keeps nothing of what it gives: `sidecar.tokens.lease` does. Nothing is written to disk.
    """

    #: Whether others may replace its tokens before their time, which is to be looked for.
    watched: ClassVar[bool]

    async def fetch(self) -> Token:
        """Obtains a token, new each time as far as the source makes new ones.

        Ends within the time limits of its settings. Raises SourceError; nothing else, whatever the issuer, file or
        command does.
        """

    async def revoke(self, token: Token) -> None:
        """Tells the issuer that a token is not used any more (RFC 7009); nothing where there is no such thing.

        Raises SourceError, as `fetch`.
        """

    async def changed(self) -> bool:
        """Says whether `fetch` would give another token than the last time, or none, although that one has not expired.

        Only asked where ``watched``; never raises.
        """


@dataclass(frozen=True, slots=True)
class Means:
    """What sources are made with: who we are, and how to reach others.

    ``credentials`` are ours for TLS; ``signer`` signs with the same key, and may block for as long as its device does. It
    and files are only ever used in ``local`` threads, issuers are talked to in ``workers``: one that hangs keeps nobody
    from signing. ``files`` and ``secrets`` hold what was read when the configuration was, and never appear in ``repr``.
    """

    svid: Svid
    credentials: Credentials
    signer: Signer
    clock: Clock
    workers: Workers
    local: Workers
    files: Mapping[Path, bytes] = field(repr=False)
    secrets: Mapping[SecretRef, str] = field(repr=False)
