"""Streams of HTTP/1.1 as good, odd and hostile senders make them: a grammar, and mutations of what it yields."""

from __future__ import annotations

from hypothesis import strategies as st

_TOKENS = st.sampled_from([b"x", b"X-Y", b"accept", b"a.b", b"x_y", b"~!#$"])
_VALUES = st.sampled_from([b"", b"a", b"a b", b"a\tb", b'a, b;c="d"', b"\xc3\xa9", b"x" * 40, b"a:b"])
_BLANKS = st.sampled_from([b" ", b"", b"\t", b"  "])
_HOSTS = st.sampled_from([b"a", b"A", b"a:80", b"a.example:8080", b"[::1]:1", b"127.0.0.1", b"b", b"a,b", b"", b"u@a"])

_FIELDS = st.one_of(
    st.builds(lambda name, before, value, after: name + b":" + before + value + after, _TOKENS, _BLANKS, _VALUES, _BLANKS),
    st.builds(lambda host: b"Host: " + host, _HOSTS),
    st.sampled_from(
        [
            b"Content-Length: 0", b"Content-Length: 5", b"content-length:\t5 ", b"Content-Length: 5, 5", b"Content-Length: +5",
            b"Content_Length: 5", b"Transfer-Encoding: chunked", b"transfer-encoding: CHUNKED", b"Transfer-Encoding: gzip",
            b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding : chunked", b"Connection: close",
            b"Connection: keep-alive, x", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"Upgrade: websocket",
            b"Expect: 100-continue", b"TE: trailers", b" folded", b": empty", b"none",
        ]
    ),
)  # fmt: skip

_METHODS = st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"CONNECT", b"M" * 32, b"M" * 33, b"get", b"G(T"])
_TARGETS = st.sampled_from(
    [
        b"/", b"/a/b?c=d", b"/%2e%2e/", b"//x", b"*", b"http://a/", b"http://A:80?q", b"https://a/", b"a:443", b"a.example:8080",
        b"/#", b"/\\", b"/{", b"/?{|}", b"/\xff", b"ftp://a/", b"http://u@a/", b"",
    ]
)  # fmt: skip
_VERSIONS = st.sampled_from([b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.10", b"http/1.1", b""])
_STATUSES = st.sampled_from(
    [b"200 OK"] * 4 + [b"100 Continue", b"101 ", b"103", b"204 No", b"304 ", b"404 No \xe9", b"999 ", b"20 x"]
)

_EXTENSIONS = st.sampled_from([b""] * 6 + [b";", b";a", b';a="b;c"', b";\xff\t", b" ;a", b";\x00"])
_ENDINGS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"", b"\r\r\n"])


@st.composite
def _chunk(draw: st.DrawFn) -> bytes:
    data = draw(st.sampled_from([b"x", b"hello", b"\r\n", b"0\r\n\r\n", b"y" * 300]))
    size = draw(st.sampled_from([b"%x", b"%x", b"%X", b"000%x", b"0x%x", b"+%x", b"%x ", b"%x_"])) % len(data)
    return size + draw(_EXTENSIONS) + draw(_ENDINGS) + data + draw(_ENDINGS)


@st.composite
def _chunked(draw: st.DrawFn) -> bytes:
    chunks = b"".join(draw(st.lists(_chunk(), max_size=3)))
    trailers = b"".join(field + b"\r\n" for field in draw(st.lists(_FIELDS, max_size=2)))
    return (
        chunks + draw(st.sampled_from([b"0", b"0", b"000", b"-0"])) + draw(_EXTENSIONS) + b"\r\n" + trailers + b"\r\n"
    )


_BODIES = st.one_of(st.just(b""), st.just(b"hello"), st.just(b"hello, longer"), _chunked())


@st.composite
def _coherent_body(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """Framing fields and a body that fit each other: without them little would pass the head."""
    kind = draw(st.sampled_from(["none", "length", "chunked", "any"]))
    if kind == "length":
        body = draw(st.sampled_from([b"", b"hello", b"z" * 50]))
        return [b"Content-Length: %d" % len(body)], body
    if kind == "chunked":
        return [b"Transfer-Encoding: chunked"], draw(_chunked())
    return ([], b"") if kind == "none" else (draw(st.lists(_FIELDS, max_size=1)), draw(_BODIES))


@st.composite
def request(draw: st.DrawFn) -> bytes:
    """One request, mostly a good one."""
    good = draw(st.integers(0, 3)) > 0
    if good:
        method = draw(st.sampled_from([b"GET", b"POST", b"HEAD", b"DELETE", b"M-SEARCH"]))
        target = draw(st.sampled_from([b"/", b"/a/b?c=d", b"http://a/x", b"/?[x]"]))
        line = method + b" " + target + b" HTTP/1.1"
        fields = [b"Host: a"] + [b"X-%d: y" % number for number in range(draw(st.integers(0, 2)))]
    else:
        line = b" ".join([draw(_METHODS), draw(_TARGETS), draw(_VERSIONS)])
        fields = draw(st.lists(_FIELDS, max_size=4))
    framing, body = draw(_coherent_body())
    fields = draw(st.permutations(fields + framing))
    empty = draw(st.sampled_from([b""] * 8 + [b"\r\n"]))
    return empty + b"\r\n".join([line, *fields]) + b"\r\n\r\n" + body


@st.composite
def response(draw: st.DrawFn) -> bytes:
    """One response, mostly a good one, perhaps after interim ones, perhaps with something behind it."""
    interim = draw(st.sampled_from([b""] * 4 + [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 \r\nLink: x\r\n\r\n"]))
    line = draw(st.sampled_from([b"HTTP/1.1 ", b"HTTP/1.1 ", b"HTTP/1.0 ", b"HTTP/2 "])) + draw(_STATUSES)
    framing, body = draw(_coherent_body())
    fields = draw(st.permutations(draw(st.lists(_FIELDS, max_size=1)) + framing))
    behind = draw(st.sampled_from([b""] * 6 + [b"\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]))
    return interim + b"\r\n".join([line, *fields]) + b"\r\n\r\n" + body + behind


_INSERTS = st.sampled_from(
    [
        b"\r",
        b"\n",
        b"\r\n",
        b"\x00",
        b"\x7f",
        b" ",
        b"\t",
        b":",
        b";",
        b",",
        b"0",
        b"f",
        b"_",
        b"\xff",
        b"\r\n\r\n",
        b"\r\n ",
    ]
)


@st.composite
def mutated(draw: st.DrawFn, streams: st.SearchStrategy[bytes]) -> bytes:
    """A stream with up to three places changed: bytes inserted, taken out, replaced, or the rest cut off."""
    data = draw(streams)
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 3]))):
        place = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["insert", "delete", "replace", "cut"]))
        if kind == "insert":
            data = data[:place] + draw(_INSERTS) + data[place:]
        elif kind == "delete":
            data = data[:place] + data[place + 1 :]
        elif kind == "replace":
            data = data[:place] + draw(_INSERTS) + data[place + 1 :]
        else:
            data = data[:place]
    return data


requests = mutated(st.lists(request(), min_size=1, max_size=3).map(b"".join))
responses = mutated(response())
chunked_bodies = mutated(_chunked())
cuts = st.lists(st.integers(0, 800), max_size=12)
