from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config import addresses
from sidecar.config.faults import ConfigCode, Faults
from sidecar.config.schema import Kind, Ledger, Spot
from sidecar.config.values import Forward, Protocol, TcpAddress, UnixAddress
from sidecar.config.yaml import Scalar
from sidecar.errors import SidecarError
from sidecar.policy.routes import RouteCode

if TYPE_CHECKING:
    from enum import StrEnum

BASE = Path("/etc/sidecar")


def read(kind: Kind[Any], text: str) -> Any:
    return kind.read(Spot(Scalar(text, False, 1), "key", 1, Faults(BASE / "x.yaml"), BASE, {}, Ledger()))


def refused(kind: Kind[Any], text: str) -> tuple[StrEnum, str]:
    with pytest.raises(SidecarError) as caught:
        read(kind, text)
    return caught.value.code, str(caught.value)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8443", "127.0.0.1", 8443),
        ("0.0.0.0:1", "0.0.0.0", 1),
        ("localhost:65535", "127.0.0.1", 65535),
        ("[::1]:80", "::1", 80),
        ("[0:0::0001]:80", "::1", 80),
        ("[::]:80", "::", 80),
        ("[::ffff:127.0.0.1]:80", "127.0.0.1", 80),
    ],
)
def test_addresses_to_listen_on(text: str, host: str, port: int) -> None:
    for kind in (addresses.INBOUND_LISTEN, addresses.LISTEN):
        assert read(kind, text) == TcpAddress(host, port)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8443", '"8443" lacks its port'),
        (":8443", '":8443" names no address'),
        ("*:8443", '"*:8443" names no address'),
        ("127.0.0.1", '"127.0.0.1" lacks its port'),
        ("127.0.0.1:", '"" is not a port'),
        ("127.0.0.1:0", "port 0 means a port that nobody knows beforehand"),
        ("127.0.0.1:65536", '"65536" is not a port'),
        ("127.0.0.1:0443", '"0443" is not a port'),
        ("127.0.0.1:+1", '"+1" is not a port'),
        ("127.0.0.1:\uff11", '"\uff11" is not a port'),
        ("127.0.0.1:http", '"http" is not a port'),
        ("::1:80", '"::1:80" has too many colons'),
        ("[::1]", '"[::1]" lacks its port'),
        ("[::g]:80", '"::g" is not an IPv6 address'),
        ("[127.0.0.1]:80", '"127.0.0.1" is not an IPv6 address'),
        ("[fe80::1%eth0]:80", '"fe80::1%eth0" has a zone, which is not supported'),
        ("tools.internal:80", '"tools.internal:80" is a name, and one listens on an IP address'),
        ("http://127.0.0.1:80", '"http://127.0.0.1:80" is a URL, expected an address'),
        ("127.1:80", '"127.1" is not an IP address'),
        ("256.0.0.1:80", '"256.0.0.1" is not an IP address'),
        ("127.0.0.01:80", '"127.0.0.01" is not an IP address'),
    ],
)
def test_what_is_no_address_to_listen_on(text: str, message: str) -> None:
    assert refused(addresses.INBOUND_LISTEN, text) == (ConfigCode.BAD_ADDRESS, message)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("tools.example.org:8443", "tools.example.org", 8443),
        ("Tools.Example.ORG:8443", "tools.example.org", 8443),
        ("_svc.a_b:1", "_svc.a_b", 1),
        ("localhost:1", "localhost", 1),
        ("10.0.0.5:8443", "10.0.0.5", 8443),
        ("[2001:DB8::5]:8443", "2001:db8::5", 8443),
        ("xn--bcher-kva.example:1", "xn--bcher-kva.example", 1),
    ],
)
def test_addresses_to_connect_to(text: str, host: str, port: int) -> None:
    assert read(addresses.CONNECT, text) == TcpAddress(host, port)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bücher.example:1", '"bücher.example" is neither an IP address nor a DNS name'),
        ("a..b:1", '"a..b" is neither an IP address nor a DNS name'),
        ("tools.internal.:1", '"tools.internal." is neither an IP address nor a DNS name'),
        ("-a:1", '"-a" is neither an IP address nor a DNS name'),
        ("a b:1", '"a b" is neither an IP address nor a DNS name'),
        ("*.example.org:1", '"*.example.org" is neither an IP address nor a DNS name'),
        ("user@host:1", '"user@host" is neither an IP address nor a DNS name'),
        ("x" * 64 + ":1", f'"{"x" * 60}…" is neither an IP address nor a DNS name'),
        # What the C library's inet_aton makes addresses of is no name.
        ("2130706433:1", '"2130706433" is not an IP address'),
        ("0x7f.1:1", '"0x7f.1" is not an IP address'),
        ("127.0.0.0x1:1", '"127.0.0.0x1" is not an IP address'),
        ("0.0.0.0:1", "0.0.0.0 is an address to listen on, not one to connect to"),
        ("[::]:1", ":: is an address to listen on, not one to connect to"),
    ],
)
def test_what_is_no_address_to_connect_to(text: str, message: str) -> None:
    assert refused(addresses.CONNECT, text) == (ConfigCode.BAD_ADDRESS, message)


@pytest.mark.parametrize("text", ["http://127.0.0.1:8080", "http://127.0.0.1:8080/"])
def test_forward(text: str) -> None:
    assert read(addresses.FORWARD, text) == Forward(TcpAddress("127.0.0.1", 8080))


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("127.0.0.1:8080", ConfigCode.BAD_URL, '"127.0.0.1:8080" is not an http or tcp URL'),
        ("http:127.0.0.1:8080", ConfigCode.BAD_URL, '"http:127.0.0.1:8080" is not an http or tcp URL'),
        ("ftp://127.0.0.1:8080", ConfigCode.BAD_URL, '"ftp://127.0.0.1:8080" is not an http or tcp URL'),
        ("http://127.0.0.1:80/mcp", ConfigCode.BAD_URL, '"http://127.0.0.1:80/mcp" has a path or query'),
        ("http://127.0.0.1:80?x", ConfigCode.BAD_URL, '"http://127.0.0.1:80?x" has a path or query'),
        ("http://127.0.0.1", ConfigCode.BAD_ADDRESS, '"127.0.0.1" lacks its port'),
        ("http://0.0.0.0:80", ConfigCode.BAD_ADDRESS, "0.0.0.0 is an address to listen on, not one to connect to"),
        ("http://", ConfigCode.BAD_ADDRESS, '"" lacks its port'),
    ],
)
def test_what_is_no_place_to_forward_to(text: str, code: ConfigCode, message: str) -> None:
    assert refused(addresses.FORWARD, text) == (code, message)


@pytest.mark.threat(60)
def test_threat_60_a_password_in_a_url_is_not_shown() -> None:
    assert refused(addresses.FORWARD, "http://me:hunter2@127.0.0.1:80") == (
        ConfigCode.SECRET,
        "the URL holds a user name or password",
    )


@pytest.mark.parametrize(("text", "path"), [("unix:a.sock", "/etc/sidecar/a.sock"), ("unix:/run/a", "/run/a")])
def test_unix_sockets(text: str, path: str) -> None:
    assert read(addresses.UNIX, text) == UnixAddress(path)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("unix:a.sock", "/etc/sidecar/a.sock"),
        ("unix:/run/a", "/run/a"),
        ("unix:/run/./x/../a", "/run/a"),
        ("unix:../b", "/etc/b"),
    ],
)
def test_a_unix_socket_has_one_spelling_wherever_it_may_stand(text: str, path: str) -> None:
    for kind in (addresses.LISTEN, addresses.CONNECT):
        assert read(kind, text) == UnixAddress(path)
    for protocol in Protocol:
        found = read(addresses.FORWARD, f"{protocol}+{text}")
        assert found == Forward(UnixAddress(path), protocol)
        assert str(found) == f"{protocol}+unix:{path}"


def test_callers_do_not_come_over_a_unix_socket() -> None:
    code, message = refused(addresses.INBOUND_LISTEN, "unix:/run/a")
    assert (code, message) == (
        ConfigCode.BAD_ADDRESS,
        '"unix:/run/a" is a UNIX socket, and callers come from other machines, over TCP',
    )


@pytest.mark.threat(60)
@pytest.mark.parametrize("text", ["http+unix://me:hunter2@host/x", "tcp+unix://hunter2"])
def test_threat_60_what_follows_two_slashes_is_not_shown(text: str) -> None:
    assert refused(addresses.FORWARD, text) == (
        ConfigCode.BAD_ADDRESS,
        "two slashes follow unix:, as in a URL with a host",
    )


@pytest.mark.parametrize("text", ["http+unix", "ftp+unix:/run/a", "+unix:/run/a", "http+unix+unix:/run/a"])
def test_what_is_no_scheme_of_a_unix_socket(text: str) -> None:
    assert refused(addresses.FORWARD, text)[0] is ConfigCode.BAD_URL


@pytest.mark.threat(25)
@pytest.mark.parametrize("text", ["127.0.0.1:14020", "localhost:1", "/run/a.sock", "tcp://127.0.0.1:1"])
def test_threat_25_administration_is_never_on_tcp(text: str) -> None:
    code, message = refused(addresses.UNIX, text)
    assert code is ConfigCode.ADMIN_ON_TCP
    assert message == f'"{text}" is not a UNIX socket, and administration is on nothing else'


@pytest.mark.parametrize("text", ["unix:@abstract", "unix:/run/"])
def test_a_unix_socket_is_a_file(text: str) -> None:
    assert refused(addresses.UNIX, text) == (ConfigCode.BAD_ADDRESS, f'"{text}" names no socket file')


@pytest.mark.parametrize("text", ["unix:", "unix:~/a.sock", "unix:$XDG_RUNTIME_DIR/a.sock"])
def test_the_path_of_a_unix_socket_is_a_path(text: str) -> None:
    assert refused(addresses.UNIX, text)[0] is ConfigCode.BAD_PATH


def test_the_system_bounds_the_path_of_a_unix_socket() -> None:
    most = addresses.SOCKET_PATH_BYTES
    path = "/" + "x" * (most - 1)
    assert read(addresses.UNIX, f"unix:{path}") == UnixAddress(path)
    code, message = refused(addresses.UNIX, f"unix:{path}y")
    assert code is ConfigCode.SOCKET_PATH_TOO_LONG
    assert message.startswith(f"the socket's path is {most + 1} bytes long, the system takes {most}: ")


def test_the_path_of_a_unix_socket_counts_in_bytes() -> None:
    assert refused(addresses.UNIX, "unix:/" + "ä" * 60)[0] is ConfigCode.SOCKET_PATH_TOO_LONG


@pytest.mark.parametrize(("text", "host"), [("Tools.internal", b"tools.internal"), ("a:8000", b"a:8000")])
def test_hosts(text: str, host: bytes) -> None:
    assert read(addresses.HOST, text) == host


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("*.internal", RouteCode.HOST_WILDCARD),
        ("http://a", RouteCode.HOST_MALFORMED),
        ("a/b", RouteCode.HOST_MALFORMED),
    ],
)
def test_what_is_no_host(text: str, code: RouteCode) -> None:
    assert refused(addresses.HOST, text)[0] is code


def test_origins() -> None:
    assert read(addresses.ORIGIN, "https://app.example.org:8443") == b"https://app.example.org:8443"
    assert refused(addresses.ORIGIN, "null")[0] is RouteCode.ORIGIN_MALFORMED


def test_server_names_are_dns_names() -> None:
    assert read(addresses.SERVER_NAME, "Tools.Example.org") == "tools.example.org"
    for text in ("127.0.0.1", "::1", "[::1]"):
        assert refused(addresses.SERVER_NAME, text) == (
            ConfigCode.BAD_ADDRESS,
            f'"{text}" is an IP address, which SNI never holds (RFC 6066 3)',
        )


@given(st.text() | st.text(alphabet="[]:.0123456789abxf%/@-"))
def test_no_address_raises_anything_else(text: str) -> None:
    """Invariant: a text is an address that reads back as itself, or is refused."""
    for parse in (addresses.tcp_address, addresses.dns_name):
        try:
            found = parse(text)
        except SidecarError:
            continue
        assert parse(str(found)) == found
