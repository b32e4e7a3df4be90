from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from sidecar.config.limits import LIMITS
from sidecar.config.load import load
from sidecar.config.reference import key_tables, not_served_list, written
from sidecar.config.tables import TABLES
from sidecar.config.unserved import NOT_SERVED
from tests.support.ca import Ca
from tests.support.generated import ANEW
from tests.support.generated import REFERENCE as DOCUMENT

if TYPE_CHECKING:
    from tests.support.configuration import Workspace

#: Whole files: the first without tokens, the second with them, the third for services that have no sidecar.
EXAMPLES = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


def test_the_reference_is_what_the_parser_knows() -> None:
    text = DOCUMENT.read_text()
    assert written(text) == text, ANEW


def test_every_section_and_key_is_in_the_reference() -> None:
    text = DOCUMENT.read_text()
    for table in TABLES:
        assert f"<!-- keys: {table.name} -->" in text
        for key in table.keys:
            assert f"| `{key.name}` |" in key_tables()[table.name]


def test_every_limit_says_what_happens() -> None:
    for key in LIMITS.keys:
        assert re.search(r"closed|close|cut|40|41|42|43|50|min_rate|makes on average", key.doc), key.name


def test_defaults_are_written_as_in_the_file() -> None:
    tables = key_tables()
    assert "| `head_bytes` | size from 1KiB to 1MiB | `64KiB` |" in tables["limits"]
    assert "| `idle_timeout` | duration from 100ms to 24h | `1m` |" in tables["limits"]
    assert "| `connections` | number from 1 to 1000000 | `4096` |" in tables["limits"]
    assert "| `unsafe_plaintext_forward` | true or false | `false` |" in tables["inbound"]
    assert "| `access_log` | stdout or path | `stdout` |" in tables["top"]
    assert "| `log_full` | drop or deny | `drop` |" in tables["top"]
    assert "| `token_header` | field name, or name: scheme | `Authorization: Bearer` |" in tables["outbound"]
    assert "| `algorithms` | list of algorithm | `[ES256]` |" in tables["issuers"]
    assert "| `typ` | media type or none | `at+jwt` |" in tables["issuers"]
    assert "| `kind` | self-signed | required |" in tables["tokens.self-signed"]
    assert "| `cache` | memory or none | `memory` |" in tables["tokens.exec"]
    assert "| `lifetime` | duration from 10s to 5m | `5m` |" in tables["tokens.self-signed"]
    assert "| `listen` | unix:PATH | optional |" in tables["admin"]
    assert "| `caller` | SPIFFE ID, or a pattern that ends in /* or /** | required |" in tables["allow"]


def test_what_is_not_served_is_listed_once() -> None:
    lines = not_served_list().split("\n")
    assert len(lines) == len(set(lines))
    assert {line.removeprefix("- ") for line in lines} == set(NOT_SERVED.values())


def test_a_mark_of_an_unknown_section() -> None:
    with pytest.raises(KeyError):
        written("<!-- keys: nothing -->\n<!-- /keys -->")


@pytest.mark.parametrize("example", EXAMPLES, ids=["requests", "tokens", "services"])
def test_an_example_loads(workspace: Workspace, example: str) -> None:
    """With the files it names, as `sidecar certs init` lays them out."""
    folder = workspace.folder / "certs-dev"
    (folder / "planner").mkdir(parents=True)
    ca = Ca(now=workspace.now)
    (folder / "ca.crt").write_bytes(ca.pem)
    ca.leaf().write(folder / "planner")
    (workspace.folder / "issuer-ca.pem").write_bytes(ca.pem)
    (workspace.folder / "secret.txt").touch(mode=0o600)
    (workspace.folder / "secret.txt").write_text("secret\n")
    config = load(workspace.write(example), now=workspace.now, environ={"OLDER_SECRET": "secret"}).config
    names = [entry.name for entry in (*config.inbound, *config.outbound)]
    assert names in (["tools", "database", "tools"], ["tools", "tools"], ["llm", "local-llm", "packages"])


def test_the_examples_show_every_key_but_the_unsafe_ones() -> None:
    for table in TABLES:
        for key in table.keys:
            if table is not LIMITS and not key.name.startswith("unsafe_"):
                assert re.search(rf"\b{key.name}:", "".join(EXAMPLES)), key.name
