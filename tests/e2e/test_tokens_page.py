"""docs/tokens.md works as written: its commands do what it says, its files are accepted, its registrations are enough.

Commands, files and registrations are taken from the page, and followed in a fresh folder. Exchanged are ports,
`.venv/bin`, and what stands for other machines: the issuer is a real authorisation server, the cluster a key set and a
token of the test's own. What needs a cluster is marked on the page, and is read as far as it can be.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sidecar.app.tokens import REVOKE_SECONDS
from sidecar.cli import signer as signer_command
from sidecar.cli import token as token_command
from sidecar.cli.token import TokenCommandCode
from sidecar.config.load import load
from sidecar.proxy import again, hub
from sidecar.tokens import lease, leaves, self_signed, settings
from sidecar.tokens.codes import SourceCode, TokenCode
from sidecar.tokens.issuer import client, metadata, wire
from sidecar.tokens.sources import client_auth, command, credential
from sidecar.tokens.token import MAX_BYTES, Binding
from tests.support import jwts
from tests.support.ca import rsa_keypair
from tests.support.eventually import eventually
from tests.support.issuer import serve
from tests.support.page import Block, links_of, slugs
from tests.support.processes import now
from tests.support.tokens_page import BLOCKS, FIRST, PAGE, Follower, commands_of, texts
from tests.support.web import AUTHORITY, Web, https, page, sending

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.processes import Site

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ISSUER, CLUSTER = "With an issuer", "Kubernetes"
PLANNER = "spiffe://example.org/agent/planner/1"
ROGUE = "spiffe://example.org/agent/rogue/1"
AUDIENCE = "https://tools.example.org"
#: What differs from run to run in a line of the log.
VARYING = {"time", "src.addr", "src.pin", "dst.addr", "cert.serial", "bytes_sent", "duration_ms", "policy.version"} | {
    "decision.id",
    "trace.id",
    "token.id",
}


REGISTRATIONS = [json.loads(text) for text in texts("json", ISSUER)]


# -- the page itself ----------------------------------------------------------------------------------------------------


def test_every_block_is_of_a_kind_that_is_run_or_read() -> None:
    assert {block.language for block in BLOCKS} == {"sh", "yaml", "json", "python", "text"}
    assert [block.section for block in BLOCKS if block.marked] == [CLUSTER]


def test_every_code_has_its_remedy_and_no_other_has() -> None:
    table = PAGE.split("## Trouble")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = re.findall(r"`(\w+)`", "".join(rows))
    assert sorted(named) == sorted(code.value for kind in (TokenCode, SourceCode, TokenCommandCode) for code in kind)


def test_every_refusal_of_a_callers_token_stands_in_the_order_of_the_checks() -> None:
    table = PAGE.split("In this order:")[1].split("\n\n")[1]
    assert set(re.findall(r"`(token_\w+|issuer_\w+)`", table)) == {code.value for code in TokenCode}


def test_every_binding_is_explained() -> None:
    table = PAGE.split("| binding |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == [binding.value for binding in Binding]


def test_the_figures_are_those_of_the_code() -> None:
    text = " ".join(PAGE.split())
    refresh, pauses, reach = lease.REFRESH, lease.PAUSES, settings.Reach()
    judge = settings.Issuer("any", "https://a.example", "https://a.example/jwks")
    assert judge.leeway == self_signed.LEEWAY
    for said in (
        f"between {refresh[0]:.0%} and {refresh[1]:.0%} of its life".replace("%", " %"),
        "the last tenth, at most 5 s",
        f"after {pauses[0]:g} s, then twice as long each time, up to {pauses[1]:g} s",
        f"After another 401 within {lease.REJECTION_SECONDS:g} s",
        f"noticed within {2 * lease.LOOK_SECONDS:g} s",
        f"if its body has at most {again.KEPT_BYTES // 1024} KiB",
        f"`max_lifetime`** ({settings.MAX_LIFETIME / 60:g} minutes)",
        f"for at most {REVOKE_SECONDS:g} s",
        f"until at most {leaves.GRACE_SECONDS:g} s ago",
        f"for {leaves.GRACE_SECONDS:g} s after the caller last showed",
        f"asked for again after {metadata.KEEP_SECONDS:g} s",
        f"good for {client_auth.ASSERTION_SECONDS} s",
        f"An answer has at most {wire.MAX_BODY // 1024} KiB",
        f"has `timeout` ({reach.timeout:g} s), and all of them together {['', '', 'twice'][client.STEPS]} that",
        f"in one of {hub.TOKEN_THREADS} threads that no other issuer shares; when {hub.TOKEN_QUEUE} wait",
        f"a signed JWT of at most {MAX_BYTES // 1024} KiB",
        f"{command.MAX_OUTPUT // 1024} KiB for what it prints",
        f"within `leeway` ({judge.leeway:g} s)",
        f"`jwks_refresh` ({judge.jwks_refresh / 60:g} minutes)",
        f"`jwks_interval` ({judge.jwks_interval:g} s)",
        f"`jwks_max_age` ({judge.jwks_max_age / 3600:g} h)",
    ):
        assert said in text, said
    assert lease._MARGIN == (0.1, 5.0)


def test_links_lead_to_a_heading() -> None:
    links = links_of(PAGE)
    assert len(links) > 10
    for file, anchor in links:
        text = PAGE if not file else (ROOT / "docs" / file).read_text(encoding="utf-8")
        assert not anchor or anchor in slugs(text), (file, anchor)


def test_what_is_not_run_is_at_least_read() -> None:
    (unrun,) = [block for block in BLOCKS if block.marked]
    assert subprocess.run(["sh", "-n"], input=unrun.text, text=True, check=False).returncode == 0
    (words,) = map(shlex.split, unrun.commands)
    assert words[0] == "kubectl"


# -- the commands -------------------------------------------------------------------------------------------------------


@pytest.fixture
def follower(site: Site) -> Follower:
    return Follower(site)


@pytest.mark.needs("curl")
@pytest.mark.threat(22)
def test_in_five_minutes(follower: Follower) -> None:
    follower.follow_section(FIRST)
    seen = follower.of("made-up")
    assert f"x-token-subject: {PLANNER}" in seen
    assert "authorization" not in seen.lower()
    logged = json.loads(follower.of("grep /hello"))
    (shown,) = [json.loads(text) for text in texts("json", FIRST)]
    assert list(logged) == list(shown)
    assert {name: logged[name] for name in logged if name not in VARYING} == {
        name: shown[name] for name in shown if name not in VARYING
    }
    (refusal,) = texts("text", FIRST)
    assert steady(follower.of("/none")) == steady(refusal)

    assert f"x-token-subject: {PLANNER}" in follower.of("/own")
    assert "HTTP/1.1 401" in follower.of("--include --header")
    assert 'error="invalid_token"' in follower.of("--include --header")
    stolen = json.loads(follower.of("grep /stolen"))
    assert (stolen["decision.reason"], stolen["incident"]) == ("token_bound_elsewhere", "token_bound_elsewhere")
    assert (stolen["src.identity"], stolen["token.subject"]) == (ROGUE, PLANNER)
    assert 'sidecar_incidents_total{kind="token_bound_elsewhere"} 1.0' in follower.of("/metrics")

    follower.follow_section("What operators see")
    (sample,) = texts("json", "What operators see")
    assert outline(json.loads(follower.of("/tokens"))) == outline(json.loads(sample))


def steady(answer: str) -> list[str]:
    """Its words, without the decision's id."""
    return re.sub(r"[0-9a-f]{32}", "ID", answer).split()


def outline(value: Any) -> Any:
    """The same without numbers."""
    if isinstance(value, dict):
        return {name: outline(each) for name, each in value.items()}
    if isinstance(value, list):
        return [outline(each) for each in value]
    return 0 if isinstance(value, int | float) and not isinstance(value, bool) else value


@pytest.mark.needs("curl", "oauth-server")
@pytest.mark.parametrize("registration", REGISTRATIONS, ids=lambda each: each["token_endpoint_auth_method"])
def test_an_issuer_that_knows_no_more_than_the_page_says(follower: Follower, registration: dict[str, Any]) -> None:
    """The registration of the page is the whole registration, but for the key that a page cannot know.

    Both proxies run with the files of the first part, and take the others by themselves.
    """
    site, method = follower.site, registration["token_endpoint_auth_method"]
    (script,) = texts("python", ISSUER)
    site.path("jwk.py").write_text(script)
    follower.make_identities()
    follower.start()
    follower.follow(commands_of(ISSUER)[-1])
    keys = json.loads(follower.of("jwk.py"))
    if "jwks" in registration:
        assert outline_of_keys(registration["jwks"]) == outline_of_keys(keys)
        registration = registration | {"jwks": keys}
    resources = {AUDIENCE: {"scope": "tools:read"}}
    issuer = serve(site, registration, client_ca=site.path("certs-dev/ca.crt").read_bytes(), resources=resources)
    site.path("issuer-ca.pem").write_bytes(issuer.ca_file.read_bytes())
    follower.exchanged["https://issuer.example.org"] = issuer.issuer
    planner, tools = texts("yaml", ISSUER)
    assert "client_auth: tls_client_auth\n" in planner
    follower.write(planner=planner.replace("tls_client_auth", method), tools=tools)
    taken = 'sidecar_reloads_total{result="ok"} 1.0'
    for name in ("planner", "tools"):
        metrics = f"curl --unix-socket {name}.sock http://sidecar/metrics"
        eventually(lambda ask=metrics: taken in follower.shell.run(ask), f"{name} to take its new file")
    follower.follow(commands_of(ISSUER)[0])
    seen = follower.printed[commands_of(ISSUER)[0]]
    assert f"x-token-subject: {PLANNER}" in seen
    assert "authorization" not in seen.lower()
    (token,) = issuer.state()["tokens"]
    assert (token["client_id"], token["method"], token["scope"]) == (PLANNER, method, "tools:read")
    assert token["x5t"], "bound"


def outline_of_keys(keys: dict[str, Any]) -> dict[str, Any]:
    """Without what is the key itself."""
    return {"keys": [key | {"x": "", "y": "", "x5c": [""] * len(key["x5c"])} for key in keys["keys"]]}


def test_every_way_to_log_in_with_our_key_has_its_registration() -> None:
    ours = [each for each in settings.ClientAuth if "secret" not in each]
    assert [each["token_endpoint_auth_method"] for each in REGISTRATIONS] == ours
    table = PAGE.split("### One client for each instance")[1].split("|\n\n")[0]
    first = "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    methods = set(re.findall(r"`(\w+)`", first)) - {"client_auth", "token_endpoint_auth_method"}
    assert methods == set(settings.ClientAuth)


def test_a_service_that_signs_our_tokens(follower: Follower) -> None:
    follower.make_identities()
    follower.follow_section("With a signer service")
    assert "signs       yes" in follower.of("key show")
    (service,) = [line for line in commands_of("With a signer service") if line.endswith("&")]
    given = arguments(signer_command, shlex.split(service.removesuffix("&"))[2:])
    assert str(given.spiffe_id) == PLANNER
    assert given.client_assertion == [["https://issuer.example.org", PLANNER]]


@pytest.mark.needs("curl")
def test_rules_side_by_side(follower: Follower) -> None:
    (rules,) = texts("yaml", "Tokens of callers")
    follower.make_identities()
    follower.write(tools=rules)
    follower.start()
    caller = "curl --insecure --cert certs-dev/{0}/tls.crt --key certs-dev/{0}/tls.key -o {2} -w %{{http_code}} {1}"

    def status(name: str, path: str) -> str:
        return follower.shell.run(follower.here(caller.format(name, f"https://127.0.0.1:8443{path}", "body"))).strip()

    assert status("planner", "/status -H 'Authorization: Bearer whatever'") == "200"
    assert "Authorization: Bearer whatever" in follower.site.path("body").read_text(), "unread"
    assert status("rogue", "/status") == "200"
    assert status("planner", "/hello") == "401"
    assert status("rogue", "/hello") == "403"
    assert follower.shell.run(follower.here("curl -f http://127.0.0.1:14001/hello")), "with its token"


# -- the files ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster() -> Iterator[Web]:
    """Serves the key of `service_account_token`, as the API server does."""
    keys = {"keys": [jwts.jwk(CLUSTER_KEY.public_key(), kid="cluster-1", alg="RS256")]}
    with Web(sending(page(json.dumps(keys).encode())), https()) as served:
        yield served


CLUSTER_KEY = rsa_keypair("cluster")


def service_account_token(issuer: str, audience: str, account: str, seconds: int) -> bytes:
    """One as Kubernetes projects it, in header and claims."""
    moment = int(now())
    about = {"namespace": "agents", "pod": {"name": "planner"}, "serviceaccount": {"name": account}}
    said = {"aud": [audience], "exp": moment + seconds, "iat": moment, "iss": issuer, "jti": "7f3c", "nbf": moment}
    said |= {"kubernetes.io": about, "sub": f"system:serviceaccount:agents:{account}"}
    texts = jwts.dump({"alg": "RS256", "kid": "cluster-1"}), jwts.dump(said)
    return jwts.compact(*texts, lambda message: jwts.signature(CLUSTER_KEY, "RS256", message))


@pytest.mark.needs("curl")
def test_a_service_account_token(follower: Follower, cluster: Web) -> None:
    pod, planner, tools = texts("yaml", CLUSTER)
    (account,) = re.findall(r"serviceaccount: {name: (\w+)}", tools)
    issuer = yaml.safe_load(tools)["issuers"][0]["issuer"]
    lifetime = projected(yaml.safe_load(pod))["expirationSeconds"]
    site = follower.site
    site.path("tools-token").write_bytes(service_account_token(issuer, AUDIENCE, account, lifetime))
    site.path("kube-root-ca.crt").write_bytes(AUTHORITY.pem)
    follower.exchanged |= {
        f"{issuer}/openid/v1/jwks": cluster.url("/openid/v1/jwks"),
        "/etc/sidecar/kube-root-ca.crt": "kube-root-ca.crt",
        "/var/run/secrets/tokens/tools": "tools-token",
    }
    follower.make_identities()
    follower.write(planner=planner, tools=tools)
    follower.start()
    follower.follow("curl --include http://127.0.0.1:14001/hello")
    assert "HTTP/1.1 200" in follower.of("/hello")
    site.path("tools-token").write_bytes(service_account_token(issuer, AUDIENCE, "another", lifetime))
    ask = follower.here("curl --include http://127.0.0.1:14001/hello")
    eventually(lambda: "HTTP/1.1 401" in follower.shell.run(ask), "the token of another service account to be refused")


def projected(pod: dict[str, Any]) -> dict[str, Any]:
    (volume,) = [each for each in pod["spec"]["volumes"] if "projected" in each]
    (source,) = volume["projected"]["sources"]
    return dict(source["serviceAccountToken"])


def test_the_parts_of_the_pod_fit_together() -> None:
    pod, planner, tools = map(yaml.safe_load, texts("yaml", CLUSTER))
    agent, sidecar = pod["spec"]["containers"]
    (mounted,) = [each for each in sidecar["volumeMounts"] if each["name"] == "tokens"]
    token = projected(pod)
    assert "volumeMounts" not in agent
    assert pod["spec"]["automountServiceAccountToken"] is False, "the agent has no other token of it either"
    assert planner["tokens"][0]["path"] == f"{mounted['mountPath']}/{token['path']}"
    rule = tools["inbound"][0]["allow"][0]["token"]
    assert rule["audience"] == token["audience"]
    assert token["expirationSeconds"] <= settings.MAX_LIFETIME, "the rule has the default"
    who = rule["claims"]["kubernetes.io"]
    assert who["serviceaccount"]["name"] == pod["spec"]["serviceAccountName"]
    assert who["namespace"] == pod["metadata"]["namespace"]


def test_what_a_command_prints() -> None:
    (text,) = texts("json", "A command that prints a token")
    shown = json.loads(text)["status"]
    read = credential.read(text.encode())
    assert read.value == shown["token"]
    assert read.expires is not None


def test_the_setting_of_a_tool() -> None:
    (text,) = texts("json", "For tools that ask for a token")
    words = shlex.split(json.loads(text)["apiKeyHelper"])
    assert words[1] == "token"
    given = arguments(token_command, words[2:])
    assert given.file == Path("/etc/sidecar/planner.yaml")
    (source,) = yaml.safe_load(texts("yaml", FIRST)[0])["tokens"]
    assert (given.name, source["helper"]) == (source["name"], True)


def arguments(of: Any, words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    of.add_arguments(parser)
    return parser.parse_args(words)


CONFIGURATIONS = [
    block for block in BLOCKS if block.language == "yaml" and not block.text.startswith(("apiVersion:", "version:"))
]


@pytest.mark.parametrize("block", CONFIGURATIONS, ids=lambda block: f"{block.section}: {block.text.splitlines()[0]}")
def test_every_configuration_is_accepted(follower: Follower, block: Block) -> None:
    """Each in the place of the same sections of the first part's files, with the page's own ports."""
    name = "tools" if "inbound:" in block.text else "planner"
    site = follower.site
    follower.make_identities()
    for file in ("issuer-ca.pem", "kube-root-ca.crt"):
        site.path(file).write_bytes(AUTHORITY.pem)
    follower.exchanged = {"/etc/sidecar/kube-root-ca.crt": "kube-root-ca.crt"}
    follower.write(**{name: block.text})
    load(site.path(f"{name}.yaml"), now=now(), environ={})


def test_the_readmes_section_is_accepted(site: Site) -> None:
    """Its lines, put where it says into the files of "By hand"."""
    run = ["certs", "init", "certs-dev", "--agent", "planner", "--agent", "tools"]
    assert site.command(*run).returncode == 0
    section = README.split("\n## Tokens\n")[1].split("\n## ")[0]
    (source,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    entry, rule = re.findall(r"`(token: [^`]+)`", section)
    planner, tools = of_the_readme("planner") | yaml.safe_load(source), of_the_readme("tools")
    planner["outbound"][0] |= yaml.safe_load(entry)
    tools["inbound"][0]["allow"][0] |= yaml.safe_load(rule)
    for name, whole in {"planner": planner, "tools": tools}.items():
        site.path(f"{name}.yaml").write_text(yaml.safe_dump(whole))
        said = site.command("check", f"{name}.yaml")
        assert said.returncode == 0, said.stderr
        assert "self-signed" in said.stdout


def of_the_readme(name: str) -> dict[str, Any]:
    found = re.search(rf"^`{name}\.yaml`.*?```yaml\n(.*?)```", README, re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return dict(yaml.safe_load(found[1]))
