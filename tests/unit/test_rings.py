"""The house: imports point inward only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "sidecar"

PURE, ENGINE, SHELL = 0, 1, 2
RINGS = {
    "sidecar": PURE,  # __version__ alone
    "sidecar.errors": PURE,
    "sidecar.limits": PURE,
    "sidecar.identity": PURE,
    "sidecar.policy": PURE,
    "sidecar.tokens": PURE,
    "sidecar.tokens.issuer": SHELL,
    "sidecar.tokens.sources": SHELL,
    "sidecar.tokens.jws_write": SHELL,  # signs, which may wait for a device
    "sidecar.tokens.lease": SHELL,
    "sidecar.tokens.work": SHELL,
    "sidecar.tls": ENGINE,
    "sidecar.http": ENGINE,
}
#: No IO, no event loop, no clock in the pure ring; no event loop and no socket in an engine.
FOREIGN_TO_PURE = {"asyncio", "socket", "ssl", "os", "time", "threading", "subprocess", "selectors", "random", "io"}
FOREIGN_TO_ENGINE = {"asyncio", "socket", "time", "threading", "subprocess", "selectors", "random"}
#: module -> foreign modules it may use all the same, with the reason.
EXCEPTIONS: dict[str, set[str]] = {}
#: Neither knows the other: TLS knows no policy, HTTP knows no TLS; one pure part does not decide for the other.
STRANGERS = [
    ("sidecar.tls", "sidecar.http"),
    ("sidecar.tls", "sidecar.policy"),
    ("sidecar.http", "sidecar.tls"),
    ("sidecar.http", "sidecar.policy"),
    ("sidecar.identity", "sidecar.policy"),
    ("sidecar.app", "sidecar.cli"),
]
#: The only importers of the configuration: everything else is handed frozen values.
CONFIG_READERS = ("sidecar.app", "sidecar.cli", "sidecar.config")


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Returns all modules that a file imports, at any depth, absolute ones as they are, relative ones resolved."""
    found: set[str] = set()
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(package[: len(package) - node.level + 1] + ([base] if base else []))
            found.add(base)
            if base == "sidecar":
                found |= {f"sidecar.{alias.name}" for alias in node.names}
    return found


def ring(module: str) -> int:
    """The ring of the innermost package or module that has one; the root's own holds for its file alone."""
    parts = module.split(".")
    if len(parts) == 1:
        return RINGS[module]
    names = [".".join(parts[:end]) for end in range(len(parts), 1, -1)]
    return next((RINGS[name] for name in names if name in RINGS), SHELL)


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


FILES = sorted(PACKAGE.rglob("*.py"))


def faults_of(module: str, imported: set[str]) -> list[str]:
    faults = []
    own = ring(module)
    foreign = {PURE: FOREIGN_TO_PURE, ENGINE: FOREIGN_TO_ENGINE, SHELL: set()}[own] - EXCEPTIONS.get(module, set())
    for name in sorted(imported):
        if inside(name, "sidecar"):
            if ring(name) > own:
                faults.append(f"{module} imports {name}, which lies further out")
            faults += [
                f"{a} must not know {b}: {module}" for a, b in STRANGERS if inside(module, a) and inside(name, b)
            ]
            if inside(name, "sidecar.config") and not any(inside(module, reader) for reader in CONFIG_READERS):
                faults.append(f"{module} reads the configuration; hand it frozen values instead")
        elif name.split(".")[0] in foreign:
            faults.append(f"{module} imports {name}, which its ring does without")
    return faults


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_inward(path: Path) -> None:
    assert faults_of(module_name(path), imports_of(path)) == []


def test_the_rule_can_fail() -> None:
    assert faults_of("sidecar.identity.x", {"asyncio"})
    assert faults_of("sidecar.identity.x", {"sidecar.tls.engine"})
    assert faults_of("sidecar.http.x", {"sidecar.proxy"})
    assert faults_of("sidecar.tls.x", {"sidecar.policy.table"})
    assert faults_of("sidecar.proxy.x", {"sidecar.config.values"})
    assert not faults_of("sidecar.app", {"sidecar.config.values", "asyncio"})


def test_every_named_part_exists() -> None:
    for name in RINGS:
        path = PACKAGE.parent.joinpath(*name.split("."))
        assert path.is_dir() or path.with_suffix(".py").exists(), name
