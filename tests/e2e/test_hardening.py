"""The proxy's memory stays its own: no core, no reader of the same user, no new privileges; and it needs no privilege itself.

Each test has a control: a plain Python process that is treated alike and shows that the attack works.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import COMMAND, LOOPBACK, ask
from tests.support.workers import worker_pids

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Sidecar, Site

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc and prctl(2) are of Linux")

#: Of nobody: in no passwd file.
UID = 54_321
AS_USER = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups")
#: What a test run may have set, and what would write to our own folder.
NO_COVERAGE = ("env", "-u", "COVERAGE_PROCESS_START", "-u", "COVERAGE_PROCESS_CONFIG")
CORES = ("sh", "-c", 'ulimit -c unlimited && exec "$0" "$@"')
SLEEPER = (sys.executable, "-c", "print(flush=True); input()")
#: Tries what would show another process's memory, and what it has open.
READ = """
import os, sys
pid = sys.argv[1]
for name in ("mem", "maps", "environ", "fd"):
    try:
        (os.listdir if name == "fd" else open)(f"/proc/{pid}/{name}")
        print(name, "opened")
    except PermissionError:
        print(name, "refused")
"""


def as_user(site: Site, sidecar: Sidecar, *wrapper: str) -> None:
    """Has a sidecar run as that user, in a folder that is theirs with all that is in it."""
    sidecar.wrapper = (*NO_COVERAGE, *wrapper, *AS_USER)
    sidecar.owner = UID
    for path in (site.folder, *site.folder.rglob("*")):
        os.chown(path, UID, UID)


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def core_limits(pid: int) -> list[str]:
    (line,) = [x for x in Path(f"/proc/{pid}/limits").read_text().splitlines() if x.startswith("Max core file size")]
    return line.split()[4:6]


@pytest.mark.threat(60)
def test_threat_60_the_running_proxy_has_no_core_and_no_new_privileges(site: Site, backend: Backend) -> None:
    tools = site.tools(backend)
    tools.wrapper = CORES
    tools.start()
    assert core_limits(tools.running.pid) == ["0", "0"]
    assert status_of(tools.running.pid)["NoNewPrivs"] == "1"
    assert "not hardened" not in tools.stderr


@pytest.mark.threat(60)
@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV])
def test_threat_60_a_crash_leaves_no_core(site: Site, backend: Backend, number: signal.Signals) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard == 0:
        pytest.skip("needs a hard limit of core files above 0, or the control cannot have one")
    tools = site.tools(backend)
    tools.wrapper = ("sh", "-c", 'ulimit -c "$(ulimit -H -c)" && exec "$0" "$@"')
    tools.start()
    control = site.process(*tools.wrapper, *SLEEPER, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert control.stdout is not None
    control.stdout.readline()
    assert ended_by(control, number) == os.CLD_DUMPED, "a process that is not hardened leaves one"
    before = {path for path in site.folder.iterdir() if "core" in path.name}
    assert ended_by(tools.running, number) == os.CLD_KILLED
    assert {path for path in site.folder.iterdir() if "core" in path.name} == before


def ended_by(process: subprocess.Popen[bytes], number: signal.Signals) -> int:
    """Kills a process, and returns whether the kernel says that it wrote a core: waitid(2), si_code."""
    process.send_signal(number)
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    assert ended.si_status == number
    return ended.si_code


@pytest.mark.threat(60)
@pytest.mark.needs("root", "setpriv")
def test_threat_60_no_other_process_of_its_user_reads_its_memory(site: Site, backend: Backend) -> None:
    tools = site.tools(backend)
    as_user(site, tools)
    tools.start()
    control = site.process(*AS_USER, *SLEEPER, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert control.stdout is not None
    control.stdout.readline()
    assert status_of(tools.running.pid)["Uid"].split() == [str(UID)] * 4
    assert looked_at(control.pid) == {"mem": "opened", "maps": "opened", "environ": "opened", "fd": "opened"}
    assert looked_at(tools.running.pid) == {
        "mem": "refused",
        "maps": "refused",
        "environ": "refused",
        "fd": "refused",
    }


@pytest.mark.threat(60)
@pytest.mark.needs("root", "setpriv")
def test_threat_60_the_agent_of_exec_cannot_read_what_is_kept_from_it_in_who_started_it(
    site: Site, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client secret in a variable is not the agent's; its parent has that variable, and is of the same user."""
    monkeypatch.setenv("TOOLS_SECRET", "hush")
    source = {"name": "issuer", "kind": "oauth2", "issuer": f"https://{LOOPBACK}:1", "client_id": "planner"}
    source |= {"client_auth": "client_secret_basic", "client_secret": {"env": "TOOLS_SECRET"}}
    planner = site.planner(backend.port, {"token": "issuer"}, tokens=[source])
    planner.write()
    as_user(site, planner)
    looks = 'for name in environ mem; do head -c 9999 "/proc/$PPID/$name"; done; env'
    command = [*planner.wrapper, *COMMAND, "exec", planner.file.name, "--", "sh", "-c", looks]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=site.folder)
    assert "SIDECAR_TOOLS_URL=" in done.stdout
    assert "hush" not in done.stdout
    assert done.stderr.count("Permission denied") == 2
    control = subprocess.run(
        [*AS_USER, "sh", "-c", f"sh -c '{looks}'; true"], capture_output=True, text=True, check=True
    )
    assert control.stdout.count("TOOLS_SECRET=hush") == 2


def looked_at(pid: int) -> dict[str, str]:
    command = [*NO_COVERAGE, *AS_USER, sys.executable, "-c", READ, str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.mark.needs("root", "setpriv", "unshare")
def test_any_user_and_a_read_only_root_are_enough(site: Site, backend: Backend) -> None:
    """Nothing is written but the socket and the log: the folder that the configuration names is all that can be."""
    tools = site.tools(backend)
    planner = site.planner(tools, {"uids": [os.geteuid()]})
    only = (
        f"mount --make-rprivate / && mount --bind {site.folder} {site.folder} && mount -o remount,bind,ro / "
        "&& for place in /dev/shm /run /var/tmp; do mount -t tmpfs -o ro none $place || exit; done "
        f'&& cd {site.folder} && exec "$0" "$@"'
    )
    for sidecar in (tools, planner):
        as_user(site, sidecar, "unshare", "--mount", "sh", "-c", only)
        sidecar.launch()
    for sidecar in (tools, planner):
        sidecar.await_ready()
    assert ask(site.agent(planner), "GET", "/").status == 200
    planner.config["outbound"][0]["hosts"] = ["other.internal"]
    planner.reload()
    assert planner.stop() == tools.stop() == 0
    assert planner.log(http_status=200)
    new = {str(path.relative_to(site.folder)) for path in site.folder.iterdir()}
    assert new == {
        f"{n}.{kind}" for n in ("tools", "planner") for kind in ("yaml", "crt", "key", "out", "err", "log")
    } | {"ca.crt"}


@pytest.mark.needs("root", "setpriv", "unshare")
def test_the_control_of_the_read_only_root_cannot_write(site: Site) -> None:
    only = 'mount --make-rprivate / && mount -o remount,bind,ro / && exec "$0" "$@"'
    command = ["unshare", "--mount", "sh", "-c", only, "sh", "-c", f"echo > {site.folder}/x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Read-only file system" in done.stderr


@pytest.mark.threat(60)
@pytest.mark.needs("root", "setpriv")
def test_threat_60_workers_are_hardened_as_well(site: Site, backend: Backend) -> None:
    tools = site.tools(backend, workers=2)
    as_user(site, tools)
    tools.start()
    for pid in worker_pids(tools):
        assert core_limits(pid) == ["0", "0"]
        assert set(looked_at(pid).values()) == {"refused"}
