from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.policy.decision import Denial, DenialReason, Permit, Reason
from sidecar.policy.paths import PathCode, PathPattern
from sidecar.policy.routes import (
    NO_PAGE,
    Route,
    RouteCode,
    RouteError,
    RouteTable,
    WebPage,
    listen_hosts,
    parse_host,
    parse_origin,
    web_page,
)

TOOLS = Route(
    rule="outbound.tools",
    listen=listen_hosts("127.0.0.1", 14001),
    hosts=frozenset((b"tools.internal", b"api.internal:8080")),
    origins=frozenset((b"http://ui.internal",)),
)
SOME_PATHS = Route(rule="outbound.tools", listen=TOOLS.listen, paths=(PathPattern.parse("/mcp/**"),))

POSTS = Route(rule="outbound.tools", listen=TOOLS.listen, methods=frozenset((b"POST",)))


def outcome(
    *,
    method: str = "GET",
    authority: str = "",
    host: str = "localhost",
    path: str = "/mcp",
    page: WebPage = NO_PAGE,
    entry: Route = TOOLS,
) -> tuple[str | DenialReason, int]:
    """Returns the rule and 200, or the reason for the denial and its status."""
    table = RouteTable(entry, "v1")
    verdict = table.route(
        method.encode(), authority.encode(), host.encode(), path.encode("latin-1"), page, decision_id="d"
    )
    assert (verdict.decision_id, verdict.policy_version) == ("d", "v1")
    return (verdict.rule, 200) if isinstance(verdict, Permit) else (verdict.reason, verdict.status)


PERMITTED = ("outbound.tools", 200)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:14001",
        "localhost",
        "localhost:14001",
        "tools.internal",
        "tools.internal:80",
        "api.internal:8080",
    ],
)
def test_origin_form_names_the_listener_or_one_of_its_hosts(host: str) -> None:
    assert outcome(host=host) == PERMITTED


@pytest.mark.threat(26)
@pytest.mark.parametrize(
    "host",
    [
        "",
        "169.254.169.254",
        "127.0.0.1",
        "127.0.0.1:14002",
        "127.0.0.1:80",
        "localhost:14002",
        "localhost.evil.example",
        "[::1]:14001",
        "0.0.0.0:14001",
        "tools.internal:8080",
        "tools.internal.",
        "TOOLS.internal",
        "xtools.internal",
        "api.internal",
        "api.internal:80",
        "api.internal:80800",
        "user@tools.internal",
        "tools.internal:",
    ],
)
def test_threat_26_any_other_host_is_denied_and_never_resolved(host: str) -> None:
    assert outcome(host=host) == (Reason.HOST_NOT_SERVED, 403)
    if host:
        assert outcome(authority=host, host=host) == (Reason.HOST_NOT_SERVED, 403)


@pytest.mark.parametrize("authority", ["tools.internal", "tools.internal:80", "api.internal:8080"])
@pytest.mark.parametrize("repeated", [True, False])
def test_absolute_form_names_one_of_the_hosts(authority: str, repeated: bool) -> None:
    assert outcome(authority=authority, host=authority if repeated else "") == PERMITTED


@pytest.mark.threat(26)
@pytest.mark.parametrize("authority", ["127.0.0.1:14001", "localhost", "localhost:14001", "169.254.169.254"])
def test_threat_26_absolute_form_cannot_name_the_listener_or_another_address(authority: str) -> None:
    assert outcome(authority=authority, host=authority) == (Reason.HOST_NOT_SERVED, 403)


@pytest.mark.threat(26, 17)
def test_threat_26_absolute_form_with_another_host_is_ambiguous() -> None:
    assert outcome(authority="tools.internal", host="api.internal:8080") == (Reason.HOST_MISMATCH, 400)
    assert outcome(authority="tools.internal", host="tools.internal:8080") == (Reason.HOST_MISMATCH, 400)


def test_absolute_form_may_leave_out_the_default_port_once() -> None:
    assert outcome(authority="tools.internal", host="tools.internal:80") == PERMITTED
    assert outcome(authority="tools.internal:80", host="tools.internal") == PERMITTED


@pytest.mark.threat(26)
@pytest.mark.parametrize("authority", ["169.254.169.254:80", "tools.internal:443", "127.0.0.1:22", ""])
def test_threat_26_a_tunnel_is_refused_wherever_it_leads(authority: str) -> None:
    assert outcome(method="CONNECT", authority=authority, host=authority, path="") == (Reason.METHOD_REFUSED, 405)


@pytest.mark.threat(26)
@pytest.mark.parametrize(
    ("authority", "served"),
    [
        (b"tools.internal:80", True),
        (b"tools.internal:443", True),
        (b"api.internal:8080", True),
        (b"tools.internal:8080", False),
        (b"tools.internal", False),
        (b"api.internal:80", False),
        (b"api.internal:443", False),
        (b"169.254.169.254:80", False),
        (b"localhost:14001", False),
        (b"127.0.0.1:14001", False),
        (b"", False),
    ],
)
def test_threat_26_connect_names_one_of_the_hosts(authority: bytes, served: bool) -> None:
    verdict = RouteTable(TOOLS, "v1").connect(authority, decision_id="d")
    assert isinstance(verdict, Permit) == served
    if isinstance(verdict, Denial):
        assert (verdict.reason, verdict.status) == (Reason.HOST_NOT_SERVED, 403)


@pytest.mark.threat(61)
def test_threat_61_a_web_page_may_not_connect() -> None:
    verdict = RouteTable(TOOLS, "v1").connect(b"tools.internal:80", WebPage(b"http://evil.example"), decision_id="d")
    assert isinstance(verdict, Denial)
    assert verdict.reason is Reason.WEB_PAGE
    ui = RouteTable(TOOLS, "v1").connect(b"tools.internal:80", WebPage(b"http://ui.internal"), decision_id="d")
    assert isinstance(ui, Permit)


@pytest.mark.parametrize(
    ("authority", "inside"),
    [
        (b"tools.internal:80", {b"tools.internal", b"tools.internal:80"}),
        (b"tools.internal:443", {b"tools.internal:443"}),
        (b"api.internal:8080", {b"api.internal:8080"}),
        (b"other.internal:80", set()),
        (b"", set()),
    ],
)
def test_inside_a_connect_only_what_it_named_is_served(authority: bytes, inside: set[bytes]) -> None:
    table = RouteTable(TOOLS, "v1").bound_to(authority)
    everything = {b"localhost", b"127.0.0.1:14001", b"tools.internal", b"tools.internal:80", b"tools.internal:443"}
    for host in everything | {b"api.internal:8080", b"other.internal", b""}:
        for absolute in (b"", host):
            verdict = table.route(b"GET", absolute, host, b"/", decision_id="d")
            assert isinstance(verdict, Permit) == (host in inside), host
    page = table.route(b"GET", b"", b"tools.internal", b"/", WebPage(b"http://evil.example"), decision_id="d")
    assert isinstance(page, Denial)
    assert page.reason is Reason.WEB_PAGE


@pytest.mark.parametrize(
    ("authority", "url"),
    [
        (b"tools.internal:443", "http://tools.internal/"),
        (b"tools.internal:80", "http://tools.internal/"),
        (b"api.internal:8080", "http://api.internal:8080/"),
    ],
)
def test_an_agent_that_did_tls_itself_is_told_which_url_to_use(authority: bytes, url: str) -> None:
    assert RouteTable(TOOLS, "v1").url_of(authority) == url


def test_a_port_443_that_is_written_stays_in_the_url() -> None:
    table = RouteTable(Route("outbound.a", frozenset(), frozenset({b"a.internal:443"})), "v1")
    assert table.url_of(b"a.internal:443") == "http://a.internal:443/"


def test_an_echo_is_refused_because_it_would_show_what_is_added_to_requests() -> None:
    assert outcome(method="TRACE") == (Reason.METHOD_REFUSED, 405)


def test_an_entry_on_an_ipv6_address_is_named_in_brackets() -> None:
    entry = Route("outbound.six", listen_hosts("::1", 14001))
    assert outcome(entry=entry, host="[::1]:14001") == ("outbound.six", 200)
    assert outcome(entry=entry, host="::1:14001") == (Reason.HOST_NOT_SERVED, 403)


def test_hosts_may_be_addresses() -> None:
    entry = Route("outbound.six", frozenset(), frozenset((b"[fd00::1]", b"[fd00::2]:8080", b"10.0.0.1")))
    for host in ("[fd00::1]", "[fd00::1]:80", "[fd00::2]:8080", "10.0.0.1:80"):
        assert outcome(entry=entry, authority=host, host=host) == ("outbound.six", 200)
    for host in ("[fd00::2]", "[fd00::1]:8080", "localhost"):
        assert outcome(entry=entry, host=host) == (Reason.HOST_NOT_SERVED, 403)


def test_the_default_port_may_be_left_out_on_either_side() -> None:
    entry = Route("outbound.web", listen_hosts("127.0.0.1", 80), frozenset((b"web.internal:80",)))
    for host in ("127.0.0.1", "127.0.0.1:80", "localhost:80", "web.internal", "web.internal:80"):
        assert outcome(entry=entry, host=host) == ("outbound.web", 200)


@pytest.mark.parametrize("path", ["/a%2fb", "//a", "/a//b", "/;x", "/%5c", "/%c0%af"])
def test_without_paths_the_peer_decides_about_escapes_and_empty_segments(path: str) -> None:
    assert outcome(path=path) == PERMITTED


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/a/../b", PathCode.DOT_SEGMENT),
        ("/a/..%2fb", PathCode.DOT_SEGMENT),
        ("/a\\b", PathCode.BACKSLASH),
        ("/%00", PathCode.NUL),
        ("/%", PathCode.BAD_ESCAPE),
        ("/\x80", PathCode.CHARACTER),
        ("*", PathCode.RELATIVE),
    ],
)
def test_what_two_servers_read_differently_never_leaves(path: str, code: PathCode) -> None:
    assert outcome(path=path) == (code, 400)


def test_with_paths_only_these_are_served_and_the_strict_rules_hold() -> None:
    assert outcome(entry=SOME_PATHS, path="/mcp/x") == PERMITTED
    assert outcome(entry=SOME_PATHS, path="/mcpx") == (Reason.PATH_NOT_ALLOWED, 403)
    assert outcome(entry=SOME_PATHS, path="/mcp/a%2fb") == (PathCode.ENCODED_SLASH, 400)


def test_options_about_the_whole_server_has_no_path_that_a_rule_could_name() -> None:
    assert outcome(method="OPTIONS", path="*") == PERMITTED
    assert outcome(method="OPTIONS", path="*", entry=SOME_PATHS) == (Reason.PATH_NOT_ALLOWED, 403)


@pytest.mark.threat(61)
@pytest.mark.parametrize(
    ("origin", "site", "served"),
    [
        (None, None, True),
        (None, b"none", True),
        (None, b"same-origin", True),
        (None, b"cross-site", False),
        (None, b"same-site", False),
        (None, b"", False),
        (None, b"None", False),
        (None, b"same-origin, none", False),
        (b"http://evil.example", None, False),
        (b"http://evil.example", b"same-origin", False),
        (b"null", None, False),
        (b"", None, False),
        (b"http://localhost:14001", None, False),
        (b"http://127.0.0.1:14001", b"same-origin", False),
        (b"http://ui.internal", None, True),
        (b"http://ui.internal", b"cross-site", True),
        (b"http://ui.internal:80", None, False),
        (b"https://ui.internal", None, False),
        (b"http://ui.internal.evil.example", None, False),
        (b"http://ui.internal, http://ui.internal", None, False),
    ],
)
def test_threat_61_a_web_page_is_refused_unless_it_is_named(
    origin: bytes | None, site: bytes | None, served: bool
) -> None:
    assert outcome(page=WebPage(origin, site)) == (PERMITTED if served else (Reason.WEB_PAGE, 403))


@pytest.mark.threat(61)
def test_threat_61_a_page_learns_nothing_about_hosts_and_paths() -> None:
    page = WebPage(b"http://evil.example")
    assert outcome(page=page, host="nowhere") == outcome(page=page, path="/..") == (Reason.WEB_PAGE, 403)


def fields(*pairs: tuple[str, str]) -> list[tuple[bytes, bytes, bytes]]:
    return [(name.lower().encode(), name.encode(), value.encode()) for name, value in pairs]


@pytest.mark.threat(61)
def test_threat_61_what_a_browser_says_is_read_from_the_header() -> None:
    assert web_page(fields(("Host", "x"), ("X-Origin", "a"), ("Cookie", "b"))) is NO_PAGE
    assert web_page(fields(("Origin", "http://a"), ("Host", "x"))) == WebPage(b"http://a", None)
    assert web_page(fields(("Sec-Fetch-Site", "none"))) == WebPage(None, b"none")


@pytest.mark.threat(61)
def test_threat_61_two_origins_are_none_that_is_named() -> None:
    page = web_page(fields(("Origin", "http://ui.internal"), ("ORIGIN", "http://ui.internal")))
    assert outcome(page=page) == (Reason.WEB_PAGE, 403)
    site = web_page(fields(("Sec-Fetch-Site", "none"), ("Sec-Fetch-Site", "none")))
    assert outcome(page=site) == (Reason.WEB_PAGE, 403)


@given(
    st.text(max_size=8),
    st.binary(max_size=20),
    st.binary(max_size=20),
    st.binary(max_size=20),
    st.builds(WebPage, st.none() | st.binary(max_size=5), st.none() | st.binary(max_size=5)),
    st.booleans(),
)
def test_an_answer_is_always_given(
    method: str, authority: bytes, host: bytes, path: bytes, page: WebPage, some: bool
) -> None:
    """Whatever is asked, route returns a permit or a denial with a known status; it raises nothing."""
    table = RouteTable(SOME_PATHS if some else TOOLS, "v")
    verdict = table.route(method.encode(), authority, host, path, page, decision_id="d")
    assert verdict.status in {400, 403, 405} if isinstance(verdict, Denial) else verdict.rule == "outbound.tools"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tools.internal", b"tools.internal"),
        ("Tools.Internal:8080", b"tools.internal:8080"),
        ("a", b"a"),
        ("my_tool-1", b"my_tool-1"),
        ("10.0.0.1:65535", b"10.0.0.1:65535"),
        ("[FD00::1]:1", b"[fd00::1]:1"),
    ],
)
def test_a_host_is_a_name_with_or_without_a_port(text: str, expected: bytes) -> None:
    assert parse_host(text) == expected


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("*", RouteCode.HOST_WILDCARD),
        ("*.internal", RouteCode.HOST_WILDCARD),
        ("", RouteCode.HOST_MALFORMED),
        ("http://tools.internal", RouteCode.HOST_MALFORMED),
        ("tools.internal/", RouteCode.HOST_MALFORMED),
        ("tools.internal:", RouteCode.HOST_MALFORMED),
        ("tools.internal:0", RouteCode.HOST_MALFORMED),
        ("tools.internal:080", RouteCode.HOST_MALFORMED),
        ("tools.internal:65536", RouteCode.HOST_MALFORMED),
        ("user@tools.internal", RouteCode.HOST_MALFORMED),
        ("tools internal", RouteCode.HOST_MALFORMED),
        ("tools.internal\n", RouteCode.HOST_MALFORMED),
        ("fd00::1", RouteCode.HOST_MALFORMED),
        ("-a", RouteCode.HOST_MALFORMED),
        ("\u212aube", RouteCode.HOST_MALFORMED),  # KELVIN SIGN, which lower() turns into an ASCII k
    ],
)
def test_what_is_no_host_is_a_configuration_error(text: str, code: RouteCode) -> None:
    with pytest.raises(RouteError) as raised:
        parse_host(text)
    assert raised.value.code is code


@pytest.mark.parametrize(
    ("text", "expected"),
    [("http://UI.internal", b"http://ui.internal"), ("chrome-extension://abcdef", b"chrome-extension://abcdef")],
)
def test_an_origin_is_scheme_host_and_port(text: str, expected: bytes) -> None:
    assert parse_origin(text) == expected


@pytest.mark.parametrize("text", ["", "*", "null", "http://a/", "http://a/b", "a", "http://", "http://a:0", "http://é"])
def test_what_is_no_origin_is_a_configuration_error(text: str) -> None:
    with pytest.raises(RouteError) as raised:
        parse_origin(text)
    assert raised.value.code is RouteCode.ORIGIN_MALFORMED


ASKED = st.tuples(
    st.sampled_from([b"GET", b"OPTIONS", b"CONNECT", b"TRACE"]),
    st.sampled_from([b"", b"a", b"b"]),
    st.sampled_from([b"", b"a", b"b", b"localhost"]),
    st.sampled_from([b"/", b"/x", b"*", b"/./x", b"//"]),
    st.sampled_from([NO_PAGE, WebPage(origin=b"http://a"), WebPage(site=b"none"), WebPage(site=b"cross-site")]),
)


@given(st.lists(ASKED, max_size=10), st.booleans())
def test_what_repeats_itself_is_routed_as_if_it_came_for_the_first_time(
    requests: list[tuple[bytes, bytes, bytes, bytes, WebPage]], narrow: bool
) -> None:
    """Invariant: what was routed before changes no decision, in particular not that about a web page."""
    paths = (PathPattern.parse("/x"),) if narrow else ()
    entry = Route("outbound.a", frozenset({b"localhost"}), hosts=frozenset({b"a"}), paths=paths)
    table = RouteTable(entry, "v1")
    for asked in requests:
        assert table.route(*asked, decision_id="d") == RouteTable(entry, "v1").route(*asked, decision_id="d")


def test_an_entry_with_methods_takes_no_others() -> None:
    assert outcome(entry=POSTS, method="POST") == PERMITTED
    assert outcome(entry=POSTS, method="POST", path="//odd") == PERMITTED  # paths are the peer's to decide, as before
    for method in ("GET", "post", "OPTIONS"):
        assert outcome(entry=POSTS, method=method) == (Reason.METHOD_NOT_ALLOWED, 403)
    assert outcome(entry=POSTS, method="OPTIONS", path="*") == (Reason.METHOD_NOT_ALLOWED, 403)


def test_a_path_that_is_not_allowed_is_told_before_its_method() -> None:
    both = Route(rule="outbound.tools", listen=TOOLS.listen, paths=SOME_PATHS.paths, methods=POSTS.methods)
    assert outcome(entry=both, method="POST", path="/mcp/x") == PERMITTED
    assert outcome(entry=both, method="GET", path="/mcp/x") == (Reason.METHOD_NOT_ALLOWED, 403)
    assert outcome(entry=both, method="GET", path="/other") == (Reason.PATH_NOT_ALLOWED, 403)
