"""Attacks the promises at full scale, keeps what was found as JSON, and writes docs/reliability-report.md from it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import report
from bench.attacks import COMMANDS, ROWS, Command

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench/results/reliability"
TESTS = ROOT / "tests/reliability"
PAGE = ROOT / "docs/reliability-report.md"

HEAD = """\
<!-- Written by `make test-long` from bench/results/reliability/*.json. -->
# Reliability report

What was done to break the promises of this gateway, how often, and what came of it. Each line has the command that
repeats it (with `.venv/bin/` before `python`); all of them: `make test-long`. The ledger holds three sides that share
no code against each other: what the caller was told, what the services saw, and what the receipts say. *Missing* are
accepted recipients without their receipt or with one of an acceptance that no service knows of; *extra* are receipts
and notifications that nobody is owed; *duplicates* are notifications that a service took once more, with the number
that the faults of the run allow.
"""

LANES = "4"
"""Attacks at a time on two processors, beside those that are commands: many of them wait more than they work."""

_STANDARD = frozenset(
    {"scenario", "provider", "ledger", "clean", "machine", "versions", "wall_seconds", "workers", "done", "origin"}
)
"""Fields of a scenario's report that are told otherwise, or not at all."""

Found = Mapping[str, Any]
"""One file of evidence."""


def run(rows: Sequence[str], console: Console) -> bool:
    """Attack these rows, all without any, and write the page; whether everything passed.

    Raises:
        ValueError: there is no such row.
    """
    unknown = set(rows) - set(ROWS)
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: no such row; there are {', '.join(ROWS)}")
    chosen = set(rows or ROWS)
    took = _forget(chosen)
    modules = sorted(_modules(chosen), key=lambda module: took.get(module[1], 0.0), reverse=True)
    commands = [each for each in COMMANDS if each.row in chosen]
    with ThreadPoolExecutor(1) as beside:
        running = [beside.submit(_command, each, console) for each in commands if not each.alone]
        passed = [_test([path for path, _ in modules], console)]
        passed += [each.result() for each in running]
    passed += [_command(each, console) for each in commands if each.alone]
    write()
    return all(passed)


def write() -> None:
    """Write the page from what is kept."""
    PAGE.write_text(text([json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]))


def _forget(rows: set[str]) -> dict[str, float]:
    """Remove what was found of these rows, so that it is not shown as if it had been found again; the seconds of the
    longest attack of each."""
    took: dict[str, float] = {}
    for path in RESULTS.glob("*.json"):
        found = json.loads(path.read_text())
        if found["row"] in rows:
            took[found["row"]] = max(took.get(found["row"], 0.0), found["seconds"])
            path.unlink()
    return took


def _modules(rows: set[str]) -> list[tuple[str, str]]:
    """The tests of these rows: their module and row."""
    found = []
    for path in sorted(TESTS.glob("test_*.py")):
        row = re.search(r'^ROW = "(R\d+)"', path.read_text(), re.MULTILINE)
        if row is not None and row[1] in rows:
            found.append((str(path.relative_to(ROOT)), row[1]))
    return found


def _test(modules: Sequence[str], console: Console) -> bool:
    if not modules:
        return True
    # One at a time, in the order of the modules: a long attack that starts last has everybody wait for it.
    lanes = ["-n", LANES, "--dist", "load", "--maxschedchunk", "1"]
    command = ["-m", "pytest", "-q", *lanes, "--long", "--evidence", str(RESULTS), *modules]
    console.print(f"[bold]attacks[/bold]: python {' '.join(command)}", highlight=False)
    return subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode == 0


def _command(each: Command, console: Console) -> bool:
    command = f"python -m bench {each.name} {each.arguments}"
    console.print(f"[bold]{each.name}[/bold]: {command}", highlight=False)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "bench", each.name, *each.arguments.split(), "--json"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        check=False,
    )
    last = (done.stdout.splitlines() or [""])[-1]
    found = json.loads(last) if last.startswith("{") else {"done": "could not be run", "ledger": None}
    evidence = {
        "row": each.row,
        "test": each.name,
        "scale": "long",
        "command": command,
        "done": found["done"],
        "figures": {name.replace("_", " "): value for name, value in found.items() if name not in _STANDARD},
        "ledger": found["ledger"],
        "passed": done.returncode == 0,
        "seconds": round(time.monotonic() - began, 1),
        **report.origin(),
        **report.surroundings(),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{each.name}.json").write_text(json.dumps(evidence, indent=1) + "\n")
    return done.returncode == 0


# The page


def text(found: Sequence[Found]) -> str:
    """The page, from files of evidence in any order."""
    return "\n".join([HEAD, *_surroundings(found), *_summary(found), *_table(found)]) + "\n"


def _surroundings(found: Sequence[Found]) -> Iterator[str]:
    """Where, with what, of which commit and when: a line for each machine or commit, as runs may differ."""
    dates: dict[str, list[str]] = {}
    for each in found:
        machine, versions = each["machine"], ", ".join(f"{name} {number}" for name, number in each["versions"].items())
        where = f"{machine['cpus']} processors of an {machine['processor']}, {machine['system']}; {versions}"
        dates.setdefault(f"Commit {each['commit']}, on {where}", []).append(each["date"])
    for line, days in dates.items():
        yield f"{line}; {min(days)} to {max(days)}.\n"


def _summary(found: Sequence[Found]) -> Iterator[str]:
    rows = {each["row"] for each in found}
    failed = [each for each in found if not each["passed"]]
    ledgers = [each["ledger"] for each in found if each["ledger"]]
    sums = {name: sum(ledger[name] for ledger in ledgers) for name in ("accepted", "missing", "extra")}
    yield (
        f"{len(found)} attacks on {len(rows)} of {len(ROWS)} rows, {len(failed)} failed; "
        f"{sums['accepted']:,} recipients in ledgers, missing {sums['missing']:,}, extra {sums['extra']:,}.\n"
    )


def _table(found: Sequence[Found]) -> Iterator[str]:
    yield "| row | attack | result | what was done | figures | missing | extra | duplicates (bound) | s | command |"
    yield "|---|---|---|---|---|---:|---:|---:|---:|---|"
    for row, title in ROWS.items():
        evidence = [each for each in found if each["row"] == row]
        if not evidence:
            yield f"| {row} | {title} | not run | | | | | | | |"
        for each in evidence:
            yield "| " + " | ".join([row, title, *_cells(each)]) + " |"


def _cells(each: Found) -> list[str]:
    ledger = each["ledger"]
    scale = "" if each["scale"] == "long" else " (at the short scale)"
    counts = [""] * 3
    if ledger is not None:
        counts = [f"{ledger['missing']:,}", f"{ledger['extra']:,}"]
        counts.append(f"{ledger['duplicates']:,} ({ledger['duplicates_bound']:,})")
    return [
        "passed" if each["passed"] else "**failed**",
        _cell(each["done"]) + scale,
        _cell("; ".join(f"{name} {_shown(value)}" for name, value in each["figures"].items())),
        *counts,
        f"{each['seconds']:,g}",
        f"`{each['command']}`",
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _shown(value: Any) -> str:
    match value:
        case bool() | None:
            return {True: "yes", False: "no", None: "none"}[value]
        case int() | float():
            return f"{value:,}"
        case dict():
            return ", ".join(f"{name} {_shown(below)}" for name, below in value.items())
        case list():
            return ", ".join(map(_shown, value))
    return str(value)
