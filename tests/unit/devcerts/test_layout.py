from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.devcerts.errors import DevCertsCode, DevCertsError
from sidecar.devcerts.layout import Order

DIRECTORY = Path("certs")


def refused(*agents: str, trust_domain: str = "example.org", instance: str = "1") -> DevCertsCode:
    with pytest.raises(DevCertsError) as caught:
        Order.parse(DIRECTORY, agents, trust_domain=trust_domain, instance=instance)
    assert caught.value.hint
    return DevCertsCode(caught.value.code)


def test_an_identity_has_a_folder_of_its_own() -> None:
    order = Order.parse(DIRECTORY, ["planner", "tools"])
    assert [str(place.id) for place in order.places] == [
        "spiffe://example.org/agent/planner/1",
        "spiffe://example.org/agent/tools/1",
    ]
    assert [str(place.certificate) for place in order.places] == ["certs/planner/tls.crt", "certs/tools/tls.crt"]
    assert [str(place.key) for place in order.places] == ["certs/planner/tls.key", "certs/tools/tls.key"]


def test_another_instance_lies_below_its_agent() -> None:
    (place,) = Order.parse(DIRECTORY, ["planner"], instance="blue").places
    assert str(place.id) == "spiffe://example.org/agent/planner/blue"
    assert place.folder == DIRECTORY / "planner" / "blue"


def test_an_agent_named_twice_gets_one_identity() -> None:
    assert len(Order.parse(DIRECTORY, ["planner", "planner"]).places) == 1


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a b", "ä", "a%2fb", "a\n", "a*"])
def test_a_name_is_one_segment(name: str) -> None:
    assert refused(name) is DevCertsCode.NAME_INVALID
    assert refused("planner", instance=name) is DevCertsCode.NAME_INVALID


@pytest.mark.parametrize("name", ["ca.key", "ca.crt", "CA.KEY", "README.md", ".gitignore", ".hidden"])
def test_an_agent_never_stands_where_a_file_does(name: str) -> None:
    assert refused(name) is DevCertsCode.NAME_RESERVED


@pytest.mark.parametrize("instance", ["tls.key", "tls.crt", "TLS.crt", "tls.tpm.pem", "tls.pkcs11.uri", ".x"])
def test_an_instance_never_stands_where_a_file_does(instance: str) -> None:
    assert refused("planner", instance=instance) is DevCertsCode.NAME_RESERVED


def test_names_that_differ_in_case_alone_collide() -> None:
    assert refused("planner", "Planner") is DevCertsCode.NAMES_COLLIDE


@pytest.mark.parametrize("name", ["", "Example.org", "spiffe://example.org", "a/b", "a:1", "*.org"])
def test_a_trust_domain_is_one(name: str) -> None:
    assert refused("planner", trust_domain=name) is DevCertsCode.TRUST_DOMAIN_INVALID


def test_a_name_that_makes_the_whole_too_long() -> None:
    assert refused("a" * 2030) is DevCertsCode.NAME_INVALID


@given(st.text(max_size=12), st.text(max_size=8))
def test_no_name_leads_out_of_the_folder(name: str, instance: str) -> None:
    """Whatever the names, the files lie two or three levels below the folder, or the one error is raised."""
    try:
        order = Order.parse(DIRECTORY, [name], instance=instance)
    except DevCertsError:
        return
    (place,) = order.places
    parts = place.key.parts
    assert parts[0] == "certs"
    assert len(parts) in {3, 4}
    assert not {".", "..", ""} & set(parts)
    assert str(place.id) == f"spiffe://example.org/agent/{name}/{instance}"
