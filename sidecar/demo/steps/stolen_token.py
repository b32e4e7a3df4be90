"""A token that its agent never sees, made by the sidecar beside it, is of no use on anybody else's connection.

The thief has the worst of all leaks: the one who received the token gives it away. The rule names the thief as it names the
planner, so nothing but the token can stop it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from sidecar.demo.lines import Line, await_line, rows
from sidecar.demo.outcome import Outcome, Section, Step, expect, fields, parts
from sidecar.demo.ports import HOST
from sidecar.demo.stage import ANY_AGENT, AUDIENCE, PLANNER, ROGUE, TOOLS_HOST
from sidecar.devcerts.layout import CERTIFICATE

if TYPE_CHECKING:
    from sidecar.demo.stage import Stage

#: Fields in which a client shows a credential (RFC 9110 11.6.2 and 11.7.1, RFC 6265 4.2).
_CREDENTIALS: Final = frozenset({"authorization", "proxy-authorization", "cookie"})
#: What an answer says where a token is no good (RFC 6750 3.1).
_INVALID: Final = 'error="invalid_token"'
_FIELDS: Final = (
    "src.identity",
    "token.subject",
    "token.id",
    "decision",
    "decision.rule",
    "decision.reason",
    "decision.id",
    "incident",
)


class Refusal(NamedTuple):
    """What the rogue was answered, and what the log says of it."""

    report: dict[str, Any]
    line: Line


def run(stage: Stage) -> Outcome:
    """Has the planner call, then the rogue with the planner's token, then the rogue with none."""
    proxy = f"http://{HOST}:{stage.ports.to_shared}"
    report = stage.crew.ask("planner-with-token", "sidecar.demo.planner", extra={"HTTP_PROXY": proxy})
    sent, seen = report["sent"], report["seen"] or {}
    _check_sent(sent)
    _check_seen(seen, _thumbprint(stage))
    served = _logged(stage, {"src.identity": PLANNER, "http.status": 200, "token.id": seen["jti"]})
    replay = _call(stage, "thief", str(stage.ports.server))
    _check_replay(replay, seen["jti"])
    bare = _call(stage, "without-token")
    _check_bare(bare)
    told = (
        ("HTTP_PROXY", f"{proxy}: all that it was told"),
        ("it sent", f"{', '.join(sent)}\nno Authorization: no credential in any of its requests"),
    )
    return Outcome(
        f"replayed: 401, {replay.line['decision.reason']}",
        (
            Section("the planner, an MCP client", told),
            Section("what the tools saw of the request", _readable(seen)),
            Section("access log of the tools' sidecar: let through", rows(served, *_FIELDS)),
            Section("the rogue, over mutual TLS, with that token out of the tools' memory", _stopped(replay)),
            Section("access log of the tools' sidecar: somebody else's token", rows(replay.line, *_FIELDS)),
            Section("the rogue, without a token", _stopped(bare)),
            Section("access log of the tools' sidecar: refused, and no incident", rows(bare.line, *_FIELDS)),
        ),
    )


def _thumbprint(stage: Stage) -> str:
    certificate = x509.load_pem_x509_certificate((stage.certs / "planner" / CERTIFICATE).read_bytes())
    return certificate.fingerprint(SHA256()).hex()


def _call(stage: Stage, name: str, *leaking: str) -> Refusal:
    """Calls as the rogue, over mutual TLS. Raises UnexpectedError if it is let through, or is told too much."""
    own = stage.certs / "rogue"
    report = stage.crew.ask(
        name,
        "sidecar.demo.tls_caller",
        str(stage.ports.shared),
        stage.certs / "ca.crt",
        own / "tls.crt",
        own / "tls.key",
        *leaking,
    )
    status = report.get("status")
    expect(status == 401, f"the rogue got {status} instead of 401", report)
    expect(report["challenge"], "the rogue was not asked for a token", report)
    body = report["body"]
    expect(set(body) == {"error", "decision_id"}, "the refusal says too much", body)
    return Refusal(report, _logged(stage, {"decision.id": body["decision_id"]}))


def _logged(stage: Stage, wanted: dict[str, object]) -> Line:
    return await_line(stage.sidecar("tools"), stage.log("tools"), {"listener": "shared"} | wanted)


def _check_sent(names: list[str]) -> None:
    """Accepts requests of the planner that were looked at, and had no credential."""
    expect("host" in names, "nobody saw what the planner sent", names)
    expect(not _CREDENTIALS & set(names), "the planner sent a credential", names)


def _check_seen(seen: dict[str, str], thumbprint: str) -> None:
    """Accepts one token, of the planner, for the tools, and bound to the certificate that came by mutual TLS."""
    expect("jti" in seen, "the tools saw no token", seen)
    expect(seen["sub"] == seen["x-sidecar-caller"] == PLANNER, "the token is somebody else's", seen)
    expect(seen["aud"] == AUDIENCE, "the token is for somebody else", seen)
    expect(seen["cnf"] == thumbprint, "the token is not bound to the planner's certificate", seen)
    shown = seen["x-forwarded-client-cert"].split(";")
    expect(f"Hash={thumbprint}" in shown, "the tools were told another certificate", seen)


def _check_replay(replay: Refusal, token_id: str) -> None:
    """Accepts the refusal of this very token, told as an incident."""
    _check_reason(replay.line, "token_bound_elsewhere", incident="token_bound_elsewhere")
    expect(replay.line.get("token.id") == token_id, "the token that was refused is another one", replay.line)
    expect(_INVALID in replay.report["challenge"], "the thief was not told that its token is no good", replay.report)


def _check_bare(bare: Refusal) -> None:
    """Accepts the refusal of a request without a token: the rule named its caller, else it were 403."""
    _check_reason(bare.line, "token_missing", incident=None)
    expect("error=" not in bare.report["challenge"], "a token that was not there is no good", bare.report)


def _check_reason(line: Line, reason: str, incident: str | None) -> None:
    expect(line["decision"] == "deny" and line["src.identity"] == ROGUE, "the log tells it otherwise", line)
    expect(line["decision.reason"] == reason, "the rogue was refused for another reason", line)
    expect(line.get("incident") == incident, "the log has another incident", line)


def _readable(seen: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return (
        ("x-sidecar-caller", seen["x-sidecar-caller"]),
        ("x-forwarded-client-cert", parts(seen["x-forwarded-client-cert"])),
        ("authorization", f"{seen['authorization']}, not shown here; it says:"),
        ("sub", seen["sub"]),
        ("aud", seen["aud"]),
        ("exp - iat", seen["life"]),
        ("cnf.x5t#S256", f"{seen['cnf']}\nwhich is the Hash above, the SHA-256 of the planner's certificate"),
    )


def _stopped(refusal: Refusal) -> tuple[tuple[str, str], ...]:
    report = refusal.report
    return (
        ("handshake", f"{report['version']}, complete: the certificate is good"),
        ("caller", f"{ANY_AGENT} in the rule: the rogue is named as the planner is"),
        ("answer", f"{report['status']}\nWWW-Authenticate: {report['challenge']}\n{fields(report['body'])}"),
    )


STEP: Final = Step(
    name="stolen token",
    title="The planner calls with a token that it never sees, and a thief replays it",
    sends=f"MCP with http://{TOOLS_HOST}/mcp by the planner; then GET /mcp with its token, by the rogue",
    expected="good on the planner's connections alone",
    run=run,
)
