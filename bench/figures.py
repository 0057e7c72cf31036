"""Runs what docs/performance.md shows, keeps the reports as JSON, and writes the page and its plots from them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import page, plots
from bench.goals import RUNS, Run

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench/results"
PAGE = ROOT / "docs/performance.md"
LOG = ROOT / "docs/performance-log.md"
PLOTS = ROOT / "docs/performance"


def run(names: Sequence[str], *, quick: bool, console: Console) -> bool:
    """Run the scenarios of these names, all without any, and write everything; whether all of them ran cleanly.

    Raises:
        ValueError: there is no such scenario.
    """
    unknown = set(names) - {each.name for each in RUNS}
    if unknown:
        raise ValueError(
            f"{', '.join(sorted(unknown))}: not measured here; there are {', '.join(r.name for r in RUNS)}"
        )
    chosen = [each for each in RUNS if not names or each.name in names]
    clean = [_measure(each, quick, console) for each in chosen]
    write()
    return all(clean)


def write() -> None:
    """Write the page and its plots from the reports that are kept."""
    results = load(RESULTS)
    PLOTS.mkdir(parents=True, exist_ok=True)
    drawn = plots.draw(results, PLOTS)
    PAGE.write_text(page.text(results, LOG.read_text(), [f"{PLOTS.name}/{path.name}" for path in drawn]))


def load(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> what was kept: the command and its report."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def _measure(each: Run, quick: bool, console: Console) -> bool:
    arguments = each.quick if quick else each.command
    console.print(f"[bold]{each.name}[/bold]: python -m bench {arguments}", highlight=False)
    # A process of its own, so that it is what the printed command does, and nothing of one run is left for the next.
    done = subprocess.run(
        [sys.executable, "-m", "bench", *arguments.split(), "--json"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        check=False,
    )
    lines = done.stdout.splitlines()
    if not lines or not lines[-1].startswith("{"):
        console.print(f"{each.name} could not be run (exit status {done.returncode})", style="red")
        return False
    report = json.loads(lines[-1])
    RESULTS.mkdir(parents=True, exist_ok=True)
    kept = {"command": f"python -m bench {arguments}", "report": report}
    (RESULTS / f"{each.name}.json").write_text(json.dumps(kept, indent=1) + "\n")
    return done.returncode == 0
