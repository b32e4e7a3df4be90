"""Ensures that no key material stands in anything that the process says, whatever happens to it.

Traffic, a denial, a refused connection, reloads good and bad (one of them with the key file broken in the middle of a
line), every answer of the admin socket, an attempt to start that fails, and the end: none of it shows a line of the key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ask, replace_file

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Site


@pytest.mark.threat(21, 60)
def test_threat_60_no_key_material_anywhere(site: Site, backend: Backend) -> None:
    tools = site.tools(backend)
    key = site.identity("tools").key_pem
    scraps = [line for line in key.splitlines() if b"-----" not in line]
    assert len(scraps) >= 3
    tools.start()
    told = [tools.ask(path).body for path in ("/config", "/certs", "/connections", "/metrics", "/ready", "/live")]
    ask(site.caller(tools.port()), "GET", "/x?token=hush-hush", headers={"Authorization": "Bearer hush-hush"})
    ask(site.caller(tools.port(), "stranger"), "GET", "/x", headers={"Authorization": "Bearer hush-hush"})
    replace_file(site.path("tools.key"), key[:80])
    tools.reload(result="failed")
    replace_file(site.path("tools.key"), key.replace(b"BEGIN PRIVATE KEY", b"BEGIN CERTIFICATE"))
    tools.reload(result="failed")
    tools.config["identity"]["certificate"] = key.decode()
    tools.reload(result="failed")
    tools.config["identity"]["certificate"] = "tools.key"
    tools.reload(result="failed")
    told.append(site.command("check", str(tools.file), SIDECAR_DEBUG="1").stderr.encode())
    assert tools.stop() == 0
    tools.launch()
    assert tools.exit_code() == 2
    told += [tools.stdout.encode(), tools.stderr.encode(), tools.log_file.read_bytes()]
    everything = b"".join(told)
    assert len(everything) > 2000
    assert [scrap for scrap in scraps if scrap in everything] == []
    assert b"hush-hush" not in everything
