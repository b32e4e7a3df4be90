import pytest

from sidecar.http.xfcc import identity_block, xfcc_value

US = "spiffe://example.org/agent/tools/1"
CALLER = "spiffe://example.org/agent/planner/1"


def test_the_value_is_envoys() -> None:
    assert xfcc_value(US, bytes(range(32)), CALLER) == (
        "By=spiffe://example.org/agent/tools/1;"
        "Hash=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f;"
        "URI=spiffe://example.org/agent/planner/1"
    )


@pytest.mark.parametrize(
    ("name", "written"),
    [("a,b", '"a,b"'), ("a;URI=x", '"a;URI=x"'), ("a=b", '"a=b"'), ('a"b', '"a\\"b"')],
)
def test_a_value_that_could_end_itself_is_quoted(name: str, written: str) -> None:
    assert xfcc_value(US, b"", name).endswith(f";URI={written}")
    assert xfcc_value(name, b"", CALLER).startswith(f"By={written};")


def test_both_fields_in_one_block() -> None:
    block = identity_block(US, b"\xab", CALLER)
    assert block == (
        b"x-forwarded-client-cert: By=spiffe://example.org/agent/tools/1;Hash=ab;URI=spiffe://example.org/agent/planner/1\r\n"
        b"x-sidecar-caller: spiffe://example.org/agent/planner/1\r\n"
    )


@pytest.mark.threat(14)
@pytest.mark.parametrize("name", ["a\r\nX: y", "a\nb", "a\x00", "é"])
def test_threat_14_no_name_becomes_a_field(name: str) -> None:
    with pytest.raises(ValueError):
        identity_block(US, b"", name)
    with pytest.raises(ValueError):
        identity_block(name, b"", CALLER)
