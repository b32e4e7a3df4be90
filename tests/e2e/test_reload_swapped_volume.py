"""Ensures that a volume that Kubernetes swaps is taken whole: certificate, key and bundle of one time, never of two.

A secret's volume is a folder of links into ``..data``, which is itself a link that one rename replaces. A pair whose
halves come from different times would be refused because the key does not match: over two hundred swaps, some of them in
the middle of a look, that must not happen once.
"""

from __future__ import annotations

import itertools
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.ca import DAY, keypair
from tests.support.eventually import eventually
from tests.support.processes import ask, now, replace_file

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.backend import Backend
    from tests.support.processes import Sidecar, Site

NAMES = ("tls.crt", "tls.key", "ca.crt")


class Volume:
    """A mounted secret."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        self.folder = folder
        self.count = itertools.count()
        folder.mkdir()
        self.swap()
        for name in NAMES:
            (folder / name).symlink_to(f"..data/{name}")

    def swap(self) -> str:
        """Puts a new pair in the place of the old one, as the kubelet does; returns its serial number."""
        number = next(self.count)
        made = self.site.ca.leaf("/agent/tools/1", key=keypair(f"volume {number % 2}"), now=now(), lifetime=DAY)
        new = self.folder / f"..{number}"
        new.mkdir()
        for name, content in zip(NAMES, (made.chain_pem, made.key_pem, self.site.ca.pem), strict=True):
            replace_file(new / name, content)
        link = self.folder / "..data_tmp"
        link.symlink_to(new.name)
        link.replace(self.folder / "..data")
        return f"{made.leaf.serial_number:x}"


@pytest.mark.threat(24)
def test_threat_24_a_swapped_volume_is_seen_whole(site: Site, backend: Backend) -> None:
    volume = Volume(site, site.path("volume"))
    tools = site.tools(backend)
    tools.config["identity"] = {
        "certificate": "volume/tls.crt",
        "key": "volume/tls.key",
        "trust": {"example.org": "volume/ca.crt"},
    }
    tools.start()
    caller = site.caller(tools.port())
    for _ in range(5):
        for _ in range(20):
            volume.swap()
        tools.signal(signal.SIGHUP)
        for _ in range(20):
            volume.swap()
        tools.reload()
        assert ask(caller, "GET", "/x").status == 200
    serial = volume.swap()
    eventually(lambda: serial_of(tools) == serial, "the last swap to be taken without a signal")
    faults = [line for line in tools.stderr.splitlines() if " error " in line and "reload refused" not in line]
    # The one thing that may go wrong is that swaps follow each other faster than files can be read.
    assert [line for line in faults if "the files were replaced while they were read" not in line] == []
    assert ask(site.caller(tools.port()), "GET", "/y").status == 200


def serial_of(tools: Sidecar) -> str:
    return str(tools.ask("/certs").json["certs"][0]["serial"])
