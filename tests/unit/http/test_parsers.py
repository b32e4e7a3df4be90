from __future__ import annotations

import importlib.util
import sys

import pytest

from sidecar.http import parsers
from sidecar.http.parsers import BODY_PARSERS, H11Parser, best_parser
from tests.support.http import PARSERS


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_delimits_runs_however_they_are_cut(name: str) -> None:
    body = b"5\r\nhello\r\n00A\r\n0123456789\r\n000\r\n\r\n"
    for size in (1, 2, 3, len(body)):
        parser = BODY_PARSERS[name]()
        pieces: list[bytes] = []
        for start in range(0, len(body), size):
            assert not parser.done
            pieces += parser.feed(memoryview(body)[start : start + size])
        assert parser.done
        assert all(type(piece) is bytes for piece in pieces)
        assert b"".join(pieces) == b"hello0123456789"


@pytest.mark.parametrize("name", PARSERS)
def test_data_comes_before_its_chunk_is_complete(name: str) -> None:
    parser = BODY_PARSERS[name]()
    assert b"".join(parser.feed(b"5\r\nhe")) == b"he"
    assert b"".join(parser.feed(b"llo")) == b"llo"
    assert parser.feed(b"\r\n") == []
    assert not parser.done


@pytest.mark.parametrize("name", PARSERS)
def test_the_largest_chunk_size_is_taken(name: str) -> None:
    parser = BODY_PARSERS[name]()
    assert b"".join(parser.feed(b"f" * 16 + b"\r\nx")) == b"x"


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_refuses_what_is_no_chunk(name: str) -> None:
    parser = BODY_PARSERS[name]()
    with pytest.raises(Exception, match=r".") as caught:
        parser.feed(b"zz\r\n")
    assert type(caught.value).__module__.partition(".")[0] == name


@pytest.mark.needs("httptools")
def test_httptools_is_preferred() -> None:
    assert best_parser() is BODY_PARSERS["httptools"]


def test_h11_serves_where_httptools_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httptools", None)  # an import of it raises ImportError
    spec = importlib.util.spec_from_file_location("parsers_without_httptools", parsers.__file__)
    assert spec is not None
    assert spec.loader is not None
    without = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(without)
    assert list(without.BODY_PARSERS) == ["h11"]
    assert without.best_parser() is without.H11Parser


def test_every_parser_is_in_the_table() -> None:
    assert BODY_PARSERS["h11"] is H11Parser
