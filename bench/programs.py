"""Programs of this machine: whether they are there, and what they say of themselves."""

from __future__ import annotations

import os
import shutil
import subprocess

#: Where system programs lie that an ordinary user's search path may lack.
_SYSTEM = ("/usr/sbin", "/sbin")


def find(program: str) -> str | None:
    """Returns the path of a program, or None."""
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *_SYSTEM]))


def lacking(program: str, *, package: str) -> str | None:
    """Says that a program is not there and which Debian package has it; None when it is there."""
    return None if find(program) else f"{program} is not installed: apt-get install {package}"


def path_of(program: str) -> str:
    """Returns the path of a program that `lacking` has found; its bare name when it has gone since."""
    return find(program) or program


def first_line(program: str, *arguments: str, holding: str = "") -> str:
    """Returns the first line a program prints, on either stream, that holds a word."""
    command = [path_of(program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    lines = (done.stdout + "\n" + done.stderr).splitlines()
    return next((line.strip() for line in lines if line.strip() and holding in line), "version unknown")
