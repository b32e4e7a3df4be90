"""What ``sidecar exec`` tells an agent by its environment: where its proxy is, and what each outbound entry is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.config.values import Protocol, TcpAddress
from sidecar.tokens.settings import OAuth2Source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidecar.config.values import Config, Outbound

#: Both spellings: some programs read one, some the other.
_PROXIES: Final = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy")
_NO_PROXIES: Final = ("NO_PROXY", "no_proxy")
#: What is this machine's own; the listeners of entries are among it.
NO_PROXY: Final = "localhost,127.0.0.1,::1"


def agent_environment(config: Config, proxy: str | None, environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of an agent: ``environ``, changed where the proxy is concerned and nowhere else.

    ``proxy`` is ``host:port`` of the listener that serves every outbound entry; without one, the variables that name a
    proxy stay as they are. Variables that hold a secret of the proxy's are left out.
    """
    secrets = {
        each.client_secret.env for each in config.tokens if isinstance(each, OAuth2Source) and each.client_secret
    }
    found = {name: value for name, value in environ.items() if name not in secrets}
    if proxy is not None:
        found |= dict.fromkeys(_PROXIES, f"http://{proxy}") | dict.fromkeys(_NO_PROXIES, NO_PROXY)
    for entry in config.outbound:
        found[variable(entry.name)] = url(entry, config.outbound)
    return found


def variable(name: str) -> str:
    """Returns ``SIDECAR_<NAME>_URL``; names of entries have no underscore, so that no two become one."""
    return f"SIDECAR_{name.upper().replace('-', '_')}_URL"


def url(entry: Outbound, entries: Sequence[Outbound]) -> str:
    """Returns by which URL the agent reaches an entry.

    That of its own listener where it is alone there; else its first host, or its name, which the proxy knows.
    """
    alone = sum(other.listen == entry.listen for other in entries) == 1
    scheme = "tcp" if entry.protocol is Protocol.TCP else "http"
    if alone and isinstance(entry.listen, TcpAddress) and not entry.passthrough:
        return f"{scheme}://{_local(entry.listen)}"
    host = min(entry.hosts, default=entry.name.encode("ascii")).decode("ascii")
    return f"{'https' if entry.passthrough else scheme}://{host}"


def _local(listen: TcpAddress) -> str:
    """The address to connect to: of a listener on all addresses, loopback."""
    if listen.ip is not None and listen.ip.is_unspecified:
        return str(TcpAddress("127.0.0.1" if listen.ip.version == 4 else "::1", listen.port))
    return str(listen)
