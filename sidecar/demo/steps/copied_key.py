"""A key that was made in a TPM is of no use without that TPM; a key in a file is of use wherever it is copied to."""

from __future__ import annotations

import shlex
import shutil
from typing import TYPE_CHECKING, Final

from sidecar.demo import software_tpm
from sidecar.demo.outcome import Outcome, Section, Step, expect

if TYPE_CHECKING:
    from sidecar.demo.processes import Process
    from sidecar.demo.stage import Stage

#: How `sidecar key show` begins the line that says whether a key signs.
_SIGNS: Final = "signs "


def run(stage: Stage) -> Outcome:
    """Copies the planner's and the rogue's key files, and tries each where it can be tried."""
    loot = stage.folder / "copied"
    loot.mkdir(mode=0o700)
    shutil.copy(stage.certs / "planner" / "tls.tpm.pem", loot / "planner.tpm.pem")
    shutil.copy(stage.certs / "rogue" / "tls.key", loot / "rogue.key")
    places = {
        "owner": f"tpm:file=copied/planner.tpm.pem;tcti={software_tpm.tcti('planner')}",
        "thief": f"tpm:file=copied/planner.tpm.pem;tcti={software_tpm.tcti('tools')}",
        "file": "copied/rogue.key",
    }
    started = {who: stage.crew.start(f"copied-{who}", "sidecar", "key", "show", place) for who, place in places.items()}
    owner, thief, file = (stage.crew.finish(process) for process in started.values())
    expect(_signs(owner), "the planner's key does not sign in its own TPM", owner.tail())
    expect(not _signs(thief), "the planner's key signs in another TPM", thief.stdout.read_text())
    expect("(0x1df)" in thief.tail(), "the other TPM refused it for another reason", thief.tail())
    expect(_signs(file), "the copied key in a file does not sign", file.tail())
    return Outcome(
        "its own TPM signs, another one does not",
        (
            Section("in the planner's own TPM", _told(places["owner"], owner)),
            Section("in another TPM, the one of the tools", _told(places["thief"], thief)),
            Section("for comparison, the rogue's key, which is in a file", _told(places["file"], file)),
            Section(
                "what this does not show",
                (
                    ("swtpm", "the planner's TPM is a program: who copies planner-tpm/ too has the key"),
                    ("real TPM", "has no such files; an intruder can use the key while on the machine"),
                ),
            ),
        ),
    )


def _signs(shown: Process) -> bool:
    text = shown.stdout.read_text()
    return shown.popen.returncode == 0 and any(line.startswith(_SIGNS) for line in text.splitlines())


def _told(place: str, shown: Process) -> tuple[tuple[str, str], ...]:
    """The command, and of what it printed the part that matters here: protection and signature, or the refusal."""
    command = ("command", f"sidecar key show {shlex.quote(place)}")
    if shown.popen.returncode != 0:
        refusal = shown.stderr.read_text().splitlines()[0].removeprefix("sidecar: ")
        return (command, ("refused", refusal))
    pairs = (line.split(maxsplit=1) for line in shown.stdout.read_text().splitlines())
    return (command, *((name, value) for name, value in pairs if name in {"protection", "signs"}))


STEP: Final = Step(
    name="copied key",
    title="A thief has copied the planner's key file, and tries it in another TPM",
    sends="sidecar key show of the copy, which signs once: in the planner's TPM, and in the tools'",
    expected="no use without its own TPM",
    run=run,
)
