"""docs/reliability-report.md, written from files of evidence."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench import reliability
from bench.attacks import COMMANDS, ROWS


def found(row: str = "R2", **changes: Any) -> dict[str, Any]:
    return {
        "row": row,
        "test": "crash",
        "scale": "long",
        "command": "python -m bench crash --kills 60",
        "done": "60 kills",
        "figures": {"seed": 1234567, "phases": {"accept": 3}},
        "ledger": {
            "accepted": 50_000,
            "receipts": 50_000,
            "missing": 0,
            "extra": 0,
            "non_terminal": 0,
            "duplicates": 12,
            "duplicates_bound": 1500,
        },
        "passed": True,
        "seconds": 12.5,
        "commit": "0123456789",
        "date": "2026-01-02T03:04+00:00",
        "machine": {"processor": "Processor", "cpus": 2, "system": "Linux"},
        "versions": {"python": "3.11"},
        **changes,
    }


def lines(text: str, row: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith(f"| {row} ")
    ]


def test_each_row_is_there_once_or_as_often_as_it_was_attacked() -> None:
    """What was not run is said to be not run."""
    text = reliability.text([found(), found(test="another"), found("R10", ledger=None)])
    assert {row: len(lines(text, row)) for row in ROWS} == dict.fromkeys(ROWS, 1) | {"R2": 2}
    assert lines(text, "R3")[0][2] == "not run"


def test_a_line_tells_what_was_found() -> None:
    ((_, title, result, done, figures, missing, extra, duplicates, seconds, command),) = lines(
        reliability.text([found()]), "R2"
    )
    assert (title, result, done) == (ROWS["R2"], "passed", "60 kills")
    assert figures == "seed 1,234,567; phases accept 3"
    assert (missing, extra, duplicates, seconds) == ("0", "0", "12 (1,500)", "12.5")
    assert command == "`python -m bench crash --kills 60`"


def test_a_failure_and_a_small_scale_are_not_hidden() -> None:
    text = reliability.text([found(passed=False, scale="short")])
    ((_, _, result, done, *_),) = lines(text, "R2")
    assert (result, done) == ("**failed**", "60 kills (at the short scale)")
    assert "1 failed" in text


def test_each_commit_and_machine_is_named() -> None:
    """A page may be made of several runs: nobody is to think that it was one."""
    text = reliability.text([found(), found("R3", commit="fedcba9876"), found("R4", date="2026-01-03T00:00+00:00")])
    assert "Commit 0123456789, on 2 processors of an Processor, Linux; python 3.11; 2026-01-02" in text
    assert "to 2026-01-03T00:00" in text
    assert "Commit fedcba9876" in text


def test_every_attack_belongs_to_a_row() -> None:
    rows = {
        match[1]
        for path in reliability.TESTS.glob("test_*.py")
        if (match := re.search(r'^ROW = "([^"]*)"', path.read_text(), re.MULTILINE))
    }
    assert rows | {command.row for command in COMMANDS} <= set(ROWS)
    assert all(re.search(r"^ROW = ", path.read_text(), re.MULTILINE) for path in reliability.TESTS.glob("test_*.py"))


def test_the_longest_attack_starts_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the last run took; what that found is gone, and other rows are as they were."""
    for row, seconds in (("R3", 50.0), ("R4", 300.0), ("R18", 1.0)):
        (tmp_path / f"{row}.json").write_text(json.dumps(found(row, seconds=seconds)))
    started: list[str] = []
    monkeypatch.setattr(reliability, "RESULTS", tmp_path)
    monkeypatch.setattr(reliability, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(reliability, "_test", lambda modules, _: started.extend(modules) or True)
    assert reliability.run(["R3", "R4"], Console())
    assert started == ["tests/reliability/test_watermark.py", "tests/reliability/test_power_loss.py"]
    assert [path.name for path in tmp_path.glob("*.json")] == ["R18.json"]


def test_rows_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="R99: no such row"):
        reliability.run(["R99"], Console())
