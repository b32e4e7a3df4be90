"""What every token source does, whatever its tokens come from: the suite that a new kind has to pass."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from typing import TYPE_CHECKING

import pytest

from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.settings import Keeping
from sidecar.tokens.token import MAX_BYTES, Token, checked
from tests.support.eventually import soon
from tests.support.tls import PLANNER
from tests.support.token_sources import SUBJECTS, Subject
from tests.support.tokens import CANARY, jwt, thumbprint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidecar.tokens.sources.source import TokenSource

#: Those that stand for their kind; with a key in a device nothing else is new but the key.
PLAIN = [name for name in SUBJECTS if not name.endswith(("-tpm", "-pkcs11"))]
GIVEN = [name for name in PLAIN if not name.startswith("self-signed")]
FAILING = [
    *(
        (name, way)
        for name in ("oauth2", "oauth2-jwt")
        for way in ("refused", "html", "broken", "redirect", "not json")
    ),
    *(("oauth2", way) for way in ("no metadata", "another's metadata")),
    *(("self-signed", way) for way in ("device gone", "no signature", "of another curve", "certificate ends")),
    *(("file", way) for way in ("gone", "a folder", "for everybody", "empty", "binary")),
    *(("exec", w) for w in ("fails", "is killed", "prints too much", "prints nothing", "prints half", "prints binary")),
]

#: Files that this process opens to write; told by the interpreter for as long as a list is here.
_written: list[str] | None = None


def _heed(event: str, args: tuple[object, ...]) -> None:
    if _written is not None and event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR):
        _written.append(str(args[0]))


sys.addaudithook(_heed)


@pytest.fixture
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    with SUBJECTS[request.param][1](tmp_path) as made:
        yield made


def over(names: list[str]) -> pytest.MarkDecorator:
    rows = [pytest.param(name, marks=pytest.mark.needs(*SUBJECTS[name][0])) for name in names]
    return pytest.mark.parametrize("subject", rows, indirect=True)


def shown(error: SourceError) -> str:
    """All that a log could have of an error."""
    return "".join(traceback.format_exception(error)) + repr(error) + error.hint + repr(error.__context__)


async def said_of_revocation(source: TokenSource, token: Token) -> str:
    try:
        await source.revoke(token)
    except SourceError as error:
        return shown(error)
    return ""


@over(list(SUBJECTS))
async def test_it_gives_a_token_that_can_be_used(subject: Subject) -> None:
    before = subject.clock.clock.wall()
    token = await subject.make().fetch()
    assert checked(token.value) == token.value
    assert token.lifetime is not None
    assert token.expires is not None
    assert 0 < token.lifetime <= 300
    assert before < token.expires <= subject.clock.clock.wall() + 300


@over(list(SUBJECTS))
async def test_a_later_one_is_as_good(subject: Subject) -> None:
    source = subject.make()
    for token in [await source.fetch(), *await asyncio.gather(source.fetch(), source.fetch())]:
        assert token.lifetime is not None


@pytest.mark.threat(21)
@over(PLAIN)
async def test_nothing_of_it_is_in_a_repr(subject: Subject) -> None:
    source = subject.make()
    token = await source.fetch()
    for text in (repr(token), str(token), repr(source), repr(subject.means), repr(vars(source))):
        assert token.value not in text
        assert CANARY not in text


@over(PLAIN)
async def test_its_life_is_capped(subject: Subject) -> None:
    token = await subject.make(Keeping(max_lifetime=30)).fetch()
    assert token.lifetime is not None
    assert token.expires is not None
    assert 28 < token.lifetime <= 30
    assert token.expires <= subject.clock.clock.wall() + 30


@pytest.mark.threat(21)
@over(GIVEN)
@pytest.mark.parametrize(
    "value",
    [
        "",
        "\n",
        "two words",
        "a\rb",
        "a\nb",
        "a\r\nAuthorization: b",
        "a\0b",
        "a\x7fb",
        "a\tb",
        "é",
        "a" * (MAX_BYTES + 1),
    ],
)
async def test_what_no_field_may_hold_is_no_token(subject: Subject, value: str) -> None:
    assert subject.give is not None
    subject.give(value)
    with pytest.raises(SourceError) as caught:
        await subject.make().fetch()
    assert caught.value.code is SourceCode.BAD_TOKEN


@over(GIVEN)
async def test_an_opaque_token_is_one(subject: Subject) -> None:
    assert subject.give is not None
    subject.give("opaque-token.~+/=")
    token = await subject.make().fetch()
    assert token == Token("opaque-token.~+/=")


@over(GIVEN)
@pytest.mark.parametrize("late", [1, 3600])
async def test_one_that_has_expired_is_refused(subject: Subject, late: int) -> None:
    assert subject.give is not None
    subject.clock.wall = 300 + late
    with pytest.raises(SourceError) as caught:
        await subject.make().fetch()
    assert caught.value.code is SourceCode.EXPIRED
    assert caught.value.hint


@over(GIVEN)
@pytest.mark.parametrize("times", ['"exp":1,"exp":9999999999', '"exp":"soon"', '"exp":true', '"exp":1e300', '"exp":-1'])
async def test_a_jwt_that_can_be_read_in_two_ways_is_none(subject: Subject, times: str) -> None:
    assert subject.give is not None
    subject.give(jwt(f'{{"cnf":{{"x5t#S256":"{thumbprint(PLANNER)}"}},{times}}}'))
    with pytest.raises(SourceError) as caught:
        await subject.make().fetch()
    assert caught.value.code is SourceCode.BAD_TOKEN


def test_every_failure_is_tried(tmp_path: Path) -> None:
    for name in PLAIN:
        (tmp_path / name).mkdir()
        with SUBJECTS[name][1](tmp_path / name) as made:
            assert {way for each, way in FAILING if each == name.removesuffix("-jwt")} == set(made.failures)


@pytest.mark.threat(21)
@pytest.mark.parametrize(("subject", "way"), FAILING, indirect=["subject"])
async def test_a_failure_is_a_source_error_that_says_no_secret(subject: Subject, way: str) -> None:
    source = subject.make()
    token = Token(CANARY)
    subject.failures[way]()
    with pytest.raises(SourceError) as caught:
        await source.fetch()
    assert CANARY not in shown(caught.value)
    assert "BEGIN" not in shown(caught.value)
    assert CANARY not in await said_of_revocation(source, token)


@over(PLAIN)
async def test_after_a_failure_it_gives_tokens_again(subject: Subject) -> None:
    source = subject.make()
    subject.clock.wall = 10 * 24 * 3600  # nothing of ours is valid any more
    with pytest.raises(SourceError):
        await source.fetch()
    subject.clock.wall = 0
    assert (await source.fetch()).lifetime is not None


@over(PLAIN)
async def test_cancelled_it_leaves_nothing_behind(subject: Subject) -> None:
    source = subject.make()
    hangs = subject.hang()
    task = asyncio.get_running_loop().create_task(source.fetch())
    await soon(hangs, "the source to hang")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await soon(lambda: not subject.left(), "nothing to be left")
    subject.let_go()


@over([name for name in PLAIN if name != "exec"])  # has threads of its own
async def test_where_no_thread_is_free_it_says_so(subject: Subject) -> None:
    subject.means.workers.limit = subject.means.local.limit = 0
    with pytest.raises(SourceError) as caught:
        await subject.make().fetch()
    assert caught.value.code is SourceCode.BUSY


@over(PLAIN)
async def test_it_revokes_or_does_nothing(subject: Subject) -> None:
    source = subject.make()
    await source.revoke(await source.fetch())


@over(PLAIN)
async def test_it_knows_of_no_change_where_there_is_none(subject: Subject) -> None:
    source = subject.make()
    assert not await source.changed()
    await source.fetch()
    assert not await source.changed()


@pytest.mark.threat(21)
@over(PLAIN)
async def test_nothing_is_written_to_disk(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    global _written  # noqa: PLW0603 - the hook cannot be taken away again
    source, empty = subject.make(), tmp_path / "empty"
    empty.mkdir()
    for place in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(place, str(empty))
    monkeypatch.chdir(empty)
    _written = []
    try:
        token = await source.fetch()
        await source.revoke(token)
    finally:
        written, _written = _written, None
    # Descriptors of memory, and what discards: neither is a file.
    assert [path for path in written if not path.isdecimal() and path != os.devnull] == []
    assert list(empty.iterdir()) == []


async def test_the_hook_sees_what_is_written(tmp_path: Path) -> None:
    global _written  # noqa: PLW0603 - as above
    _written = []
    try:
        (tmp_path / "a").write_text("x")
    finally:
        written, _written = _written, None
    assert written == [str(tmp_path / "a")]
