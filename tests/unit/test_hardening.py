"""What `harden` does is seen in processes of their own: it cannot be taken back."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from sidecar import hardening

linux = pytest.mark.skipif(sys.platform != "linux", reason="prctl(2) is of Linux")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_no_core_is_written_and_the_limit_cannot_be_raised_by_itself() -> None:
    code = (
        "import resource; from sidecar.hardening import harden;"
        "print(harden(), resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    assert python(code) == f"[] (0, 0) {resource.getrlimit(resource.RLIMIT_NOFILE)}"


@linux
def test_it_is_not_dumpable_and_gets_no_privileges() -> None:
    code = (
        "import ctypes; from sidecar.hardening import harden;"
        "get = lambda option: ctypes.CDLL(None).prctl(option, 0, 0, 0, 0);"
        "before = get(3), get(39); harden(); print(before, (get(3), get(39)))"
    )
    assert python(code) == "(1, 0) (0, 1)"


@linux
def test_what_is_only_concealed_leaves_nothing_to_what_it_starts() -> None:
    shows = (
        "import ctypes, resource; get = lambda n: ctypes.CDLL(None).prctl(n, 0, 0, 0, 0);"
        "print(get(3), get(39), resource.getrlimit(resource.RLIMIT_CORE))"
    )
    code = (
        "import subprocess, sys; from sidecar.hardening import conceal; print(conceal(), end=' ', flush=True);"
        f"{shows}; sys.stdout.flush(); subprocess.run([sys.executable, '-c', {shows!r}], check=True)"
    )
    core = resource.getrlimit(resource.RLIMIT_CORE)
    assert python(code).splitlines() == [f"[] 0 0 {core}", f"1 0 {core}"]


@linux
def test_what_the_system_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(limit: int, _: object) -> None:
        assert limit == resource.RLIMIT_CORE
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    monkeypatch.setattr(hardening, "_prctl", lambda option, value: f"{option} {value} refused")
    assert hardening.harden() == [
        "core files cannot be switched off: not allowed to raise maximum limit",
        "other processes of this user can read its memory (PR_SET_DUMPABLE): 4 0 refused",
        "it may gain privileges (PR_SET_NO_NEW_PRIVS): 38 1 refused",
    ]


@linux
def test_an_unknown_option_is_an_error_of_the_system() -> None:
    assert hardening._prctl(999_999, 1) == os.strerror(22)


@linux
def test_a_python_without_ctypes_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)
    assert hardening._prctl(4, 1) == "no prctl in this C library"


def test_elsewhere_the_limit_is_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(hardening, "_prctl", lambda *_: pytest.fail("there is none"))
    assert hardening.harden() == []
