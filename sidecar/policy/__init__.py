"""Who may do what: rules compiled to look-ups, and the decisions they give. Pure: no IO, no clock."""

from __future__ import annotations

from sidecar.policy.decision import Denial, DenialReason, Permit, Reason
from sidecar.policy.paths import PathCode, PathError, PathPattern, PatternError, check_path
from sidecar.policy.routes import NO_PAGE, ConnectionRoute, Route, RouteTable, WebPage, listen_hosts, web_page
from sidecar.policy.rules import Rule
from sidecar.policy.table import PeerRules, Table, decide

__all__ = [
    "NO_PAGE",
    "ConnectionRoute",
    "Denial",
    "DenialReason",
    "PathCode",
    "PathError",
    "PathPattern",
    "PatternError",
    "PeerRules",
    "Permit",
    "Reason",
    "Route",
    "RouteTable",
    "Rule",
    "Table",
    "WebPage",
    "check_path",
    "decide",
    "listen_hosts",
    "web_page",
]
