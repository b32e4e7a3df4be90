from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sidecar import __version__
from sidecar.app.listening import places
from sidecar.app.workers.handed import pack, unpack
from sidecar.app.workers.serving import place_name, share
from sidecar.clock import Clock
from sidecar.config.load import load
from tests.support.ca import DAY
from tests.support.server import configuration

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.config.load import Loaded


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    config = configuration(tmp_path, 8080) | {"workers": 4, "limits": {"connections": 10}}
    (tmp_path / "sidecar.yaml").write_text(yaml.safe_dump(config))
    return load(tmp_path / "sidecar.yaml", now=Clock().wall())


def passed(loaded: Loaded) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(pack(loaded)))
    return found


def test_it_arrives_as_it_was_whatever_the_files_say_by_then(loaded: Loaded) -> None:
    packed = passed(loaded)
    assert packed["version"] == __version__
    for file in loaded.files:
        file.path.unlink()
    there = unpack(packed)
    assert there.config == loaded.config
    assert there.material == loaded.material
    assert there.snapshot.same_content(loaded.snapshot)


def test_what_was_good_when_it_was_checked_stays_so(loaded: Loaded) -> None:
    """Our certificate expires meanwhile: a worker that is started then serves on like the others."""
    expired = loaded.material.svid.not_after + DAY
    assert expired > Clock().wall()
    assert unpack(passed(loaded)).checked == loaded.checked < expired


def test_no_file_is_kept_where_there_is_one_process(loaded: Loaded) -> None:
    file = loaded.config.source
    file.write_text(file.read_text().replace("workers: 4", "workers: 1"))
    assert load(file, now=Clock().wall()).files == ()
    assert "PRIVATE KEY" not in repr(loaded)


def test_a_share_of_the_limits(loaded: Loaded) -> None:
    limits, part = loaded.config.limits, share(loaded).config.limits
    assert (part.connections, part.handshakes, part.head_bytes) == (3, limits.handshakes // 4, limits.head_bytes)


def test_places_have_names_of_their_own(loaded: Loaded) -> None:
    names = [place_name(place) for place in places(loaded.config)]
    assert len(set(names)) == len(names) == 2
