"""The place for results in `bench/README.md`: what ran where, the tables, the chart."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, Final

from bench.chart import draw
from bench.errors import UsageError
from bench.result import Result
from bench.table import LEGEND, as_markdown, figures, judged, split, troubles

if TYPE_CHECKING:
    from pathlib import Path

BEGIN: Final = "<!-- results -->"
END: Final = "<!-- /results -->"


def write_page(result_file: Path, page: Path) -> None:
    """Writes a result between the marks of a page, and itself and its chart into `results/` beside the page.

    Raises:
        UsageError: the file is no result, or the page has no such marks.

    """
    result = Result.read(result_file)
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UsageError(f"{page} has no {BEGIN} and {END}, between which the result would go")
    folder = page.parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / "chart.svg").write_text(draw(result))
    kept = folder / "result.json"
    if not kept.exists() or not kept.samefile(result_file):
        shutil.copyfile(result_file, kept)
    page.write_text(f"{before}{BEGIN}\n{section(result)}{END}{after}")


def section(result: Result) -> str:
    """The Markdown between the marks."""
    budgets, beyond = split(result)
    parts = [f"{about(result.about)}\n"]
    if budgets:
        parts += ["### The budgets\n", as_markdown(judged(result, budgets))]
    parts += ["### Figures\n", f"{LEGEND[0].upper()}{LEGEND[1:]}.\n"]
    parts += [as_markdown(figures(result, lines)) for lines in (budgets, beyond) if lines]
    parts += [f"* {trouble}" for trouble in troubles(result)]
    parts += [
        "![chart](results/chart.svg)\n",
        "Every round of every cell: [results/result.json](results/result.json).\n",
    ]
    return "\n".join(parts)


def about(facts: dict[str, Any]) -> str:
    """Machine, versions, date and command, as a list."""
    machine, versions, settings = facts["machine"], facts["versions"], facts["settings"]
    peers = {name: version for name, version in facts["peer_versions"].items() if not version.startswith("missing")}
    system = f"{machine['system']}, Linux {machine['kernel']}"
    lines = [
        f"* {facts['date']}, `{facts['command']}`: {settings['rounds']} x {settings['seconds']} s a cell",
        f"* {machine['cores']} cores, {machine['cpu']}, {machine['architecture']}, {machine['memory_mb'] // 1000} GB, {system}",
        f"* {', '.join(f'{name} {version}' for name, version in versions.items())}",
        f"* {'; '.join(f'{name}: {version}' for name, version in peers.items())}",
    ]
    return "\n".join(lines) + "\n"
