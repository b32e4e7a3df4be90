"""Software TPMs (swtpm), one for each agent with a sidecar: they show the code path, and protect nothing.

The sockets are named by paths that start at the demo's folder, in which everything runs: the path of a UNIX socket has
about 100 bytes, and the folder may lie deep.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final

from sidecar.demo.outcome import UnexpectedError
from sidecar.keys import openssl
from sidecar.keys.errors import PrivateKeyError
from sidecar.keys.tpm import library

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.demo.processes import Crew, Process

OWNERS: Final = ("planner", "tools")
#: What is said of them wherever a key in one is shown.
WHAT: Final = "swtpm, a software TPM: shows the code path, protects nothing"

_PROGRAM: Final = "swtpm"


def name(agent: str) -> str:
    """What the TPM's process and the folder of its state are called."""
    return f"{agent}-tpm"


def tcti(agent: str) -> str:
    """How an agent's TPM is reached by what runs in the demo's folder."""
    return f"swtpm:path={agent}.tpm"


def key(agent: str) -> str:
    """What `identity.key` says of a key that `sidecar certs init --key tpm:…` made."""
    return f"tpm:file=certs/{agent}/tls.tpm.pem;tcti={tcti(agent)}"


def lacking() -> str | None:
    """Says what to do on this machine to see keys in a software TPM; None if all is there."""
    hints = [] if shutil.which(_PROGRAM) else [f"apt-get install {_PROGRAM}"]
    for load in (library.load, openssl.install):
        try:
            load()
        except PrivateKeyError as error:
            hints.append(error.hint or str(error))
    return "; ".join(hints) or None


def power_on(crew: Crew) -> tuple[Mapping[str, Process], str | None]:
    """Starts them before anything else; returns them by name, or none and what to do to see them."""
    hint = lacking()
    if hint is not None:
        return {}, hint
    try:
        return {name(agent): _start(crew, agent) for agent in OWNERS}, None
    except (OSError, UnexpectedError) as error:
        crew.stop()
        detail = error.detail if isinstance(error, UnexpectedError) else ""
        return {}, "\n".join(filter(None, (f"let {_PROGRAM} run here: {error}", detail)))


def _start(crew: Crew, agent: str) -> Process:
    (crew.folder / name(agent)).mkdir(mode=0o700)
    pid = crew.folder / f"{name(agent)}.pid"
    process = crew.launch(
        name(agent),
        *(_PROGRAM, "socket", "--tpm2", "--tpmstate", f"dir={name(agent)}", "--pid", f"file={pid.name}"),
        *("--server", f"type=unixio,path={agent}.tpm", "--ctrl", f"type=unixio,path={agent}.tpm.ctrl"),
        *("--flags", "not-need-init,startup-clear"),
    )
    # It writes its process id after it has begun to listen.
    process.until(lambda: pid.exists() and pid.stat().st_size > 0, "ready")
    return process
