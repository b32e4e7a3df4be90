"""The configuration in force, as plain data: what operators are shown, and what the policy's version is a hash of."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from sidecar.config.kinds import spell_duration, spell_size
from sidecar.config.values import Protocol, Resumption, Tls

if TYPE_CHECKING:
    from types import ModuleType

    from sidecar.config.values import Config, Inbound, Outbound
    from sidecar.limits import Limits
    from sidecar.policy.rules import Rule

#: Hexadecimal digits of a policy version: enough to tell any two policies of one fleet apart at a glance.
_DIGITS = 16
_SIZES = ("_bytes", "min_rate")
_TIMES = ("_timeout", "_lifetime")


def effective(config: Config) -> dict[str, Any]:
    """Returns the whole configuration with every default filled in, in the file's own keys and spellings.

    There is nothing to redact: the format has no place for a secret, only for where one is.
    """
    return {
        "version": config.version,
        "source": str(config.source),
        "identity": {
            "certificate": str(config.identity.certificate),
            "key": str(config.identity.key),
            "trust": {str(domain): str(path) for domain, path in config.identity.trust.items()},
        },
        "inbound": [_inbound(config, entry) for entry in config.inbound],
        "outbound": [_outbound(config, entry) for entry in config.outbound],
        "tokens": [_of_tokens().source(each) for each in config.tokens],
        "issuers": [_of_tokens().issuer(each) for each in config.issuers],
        "admin": {"listen": str(config.admin.listen), "uids": sorted(config.admin.uids)},
        "health": {"listen": str(config.health.listen)} if config.health else None,
        "access_log": str(config.access_log or "stdout"),
        "log_full": config.log_full.value,
        "drain_timeout": spell_duration(config.drain_timeout),
        "resumption": config.resumption.value,
        "workers": config.workers,
        "limits": _limits(config.limits),
    }


def policy(config: Config) -> dict[str, Any]:
    """Returns what decides about requests, and nothing else, in one order however the file is written.

    Who may call what and with which token, and which names and peers the agent may reach with a token of which source.
    Where requests are forwarded, limits and trust are not policy: they change without a new policy version.
    """
    named = {rule.token.issuer for entry in config.inbound for rule in entry.allow if rule.token}
    found: dict[str, Any] = {
        "inbound": {entry.name: {rule.id: _rule_policy(rule) for rule in entry.allow} for entry in config.inbound},
        "outbound": {
            entry.name: {
                "listen": str(entry.listen),
                "hosts": _words(entry.hosts),
                "origins": _words(entry.origins),
                "pins": sorted(map(str, entry.pins)),
                **({"uids": sorted(entry.uids)} if entry.uids else {}),
                **_whom(entry),
                **_requests(entry),
                **({"token": entry.token, "token_header": _of_tokens().token_header(entry)} if entry.token else {}),
            }
            for entry in config.outbound
        },
        # The same rule lets through a request here and any bytes there.
        "tcp": sorted(
            [f"inbound.{entry.name}" for entry in config.inbound if entry.forward.protocol is Protocol.TCP]
            + [f"outbound.{entry.name}" for entry in config.outbound if entry.protocol is Protocol.TCP]
        ),
    }
    # Absent where there is nothing: a policy without tokens has the version that it always had.
    issuers = {each.name: _of_tokens().deciding(each) for each in config.issuers if each.name in named}
    return found | ({"issuers": issuers} if issuers else {})


def policy_version(config: Config) -> str:
    """Returns 16 hexadecimal digits that are equal for equal policies: of SHA-256 over the canonical JSON."""
    return hashlib.sha256(canonical(policy(config))).hexdigest()[:_DIGITS]


def canonical(value: dict[str, Any]) -> bytes:
    """Returns JSON with sorted keys, without blanks, in ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _of_tokens() -> ModuleType:
    from sidecar.config import effective_tokens  # noqa: PLC0415 - for configurations with tokens alone

    return effective_tokens


def _inbound(config: Config, entry: Inbound) -> dict[str, Any]:
    return {
        "name": entry.name,
        "listen": str(entry.listen),
        "forward": str(entry.forward),
        "proxy_protocol": entry.proxy_protocol.value if entry.proxy_protocol else None,
        "allow": [{"id": rule.id, **_rule(rule)} for rule in entry.allow],
        "resumption": config.resumption_of(entry).value,
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "caller": str(rule.caller),
        "pins": sorted(map(str, rule.pins)),
        "methods": _words(rule.methods),
        "paths": sorted(map(str, rule.paths)),
        "token": _of_tokens().requirement(rule.token) if rule.token else None,
    }


def _rule_policy(rule: Rule) -> dict[str, Any]:
    return {key: value for key, value in _rule(rule).items() if key != "token" or value is not None}


def _whom(entry: Outbound) -> dict[str, Any]:
    """Returns who may answer at an outbound entry, for the policy."""
    if entry.tls is Tls.MUTUAL:
        return {"peer": str(entry.peer)}
    service = {"tls": entry.tls.value, "service": entry.server_name or entry.service.host}
    flags = {"passthrough": entry.passthrough, "unsafe_private_addresses": entry.unsafe_private_addresses}
    return service | {name: flag for name, flag in flags.items() if flag}


def _requests(entry: Outbound) -> dict[str, Any]:
    """Returns what requests of an outbound entry may ask for, for the policy: absent where it is anything."""
    found = {"methods": _words(entry.methods), "paths": sorted(map(str, entry.paths))}
    return {name: words for name, words in found.items() if words}


def _outbound(config: Config, entry: Outbound) -> dict[str, Any]:
    return {
        "name": entry.name,
        "listen": str(entry.listen),
        "uids": sorted(entry.uids),
        "hosts": _words(entry.hosts),
        "connect": str(entry.connect),
        "tls": entry.tls.value,
        "peer": str(entry.peer) if entry.peer is not None else None,
        "pins": sorted(map(str, entry.pins)),
        "methods": _words(entry.methods),
        "paths": sorted(map(str, entry.paths)),
        "protocol": entry.protocol.value,
        "server_name": entry.server_name,
        "host": entry.host.decode("ascii") if entry.host is not None else None,
        "origins": _words(entry.origins),
        "resumption": config.resumption_of(entry).value if entry.tls is Tls.MUTUAL else Resumption.NEVER.value,
        "passthrough": entry.passthrough,
        "unsafe_private_addresses": entry.unsafe_private_addresses,
        "token": entry.token,
        "token_header": _of_tokens().token_header(entry) if entry.token else None,
    }


def _limits(limits: Limits) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in fields(limits):
        value = getattr(limits, each.name)
        if isinstance(value, float) and (each.name.endswith(_TIMES) or math.isinf(value)):
            value = spell_duration(value)
        elif each.name.endswith(_SIZES):
            value = spell_size(value)
        found[each.name] = value
    return found


def _words(words: frozenset[bytes]) -> list[str]:
    return sorted(word.decode("ascii") for word in words)
