"""docs/performance.md says what the reports say, and every command on it exists."""

from __future__ import annotations

from typing import Any

import pytest
import typer.main

from bench import page
from bench.__main__ import app
from bench.goals import RUNS, Goal

MACHINE = {"machine": {"processor": "P", "cpus": 2, "system": "S"}, "versions": {"python": "3.11"}}
ROW = {
    "peer": "pushy", "version": "1", "language": "Java", "what": "send only", "service": "apns", "cpu_us": 8.1,
    "spread": [8.0, 8.2], "per_second": 123_000, "rss_mib": 263.0, "ratio_to_wire": 6.5, "ratio_to_whole_path": 1.6,
    "complete": True, "note": "",
}  # fmt: skip


def kept(**report: Any) -> dict[str, Any]:
    return {"command": "python -m bench x", "report": {"clean": True, **MACHINE, **report}}


def rows(text: str, title: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {title}"))


@pytest.mark.parametrize("command", [text for run in RUNS for text in (run.command, run.quick)])
def test_every_command_can_be_given(command: str) -> None:
    """Parsed by the program itself, without being run."""
    name, *arguments = command.split()
    commands = typer.main.get_command(app)
    found = commands.get_command(typer.Context(commands), name)  # type: ignore[attr-defined]
    assert found is not None
    found.make_context(name, [*arguments, "--json"])


def test_a_figure_stands_beside_its_goal() -> None:
    text = page.text({"apns": kept(gateway_cpu_us=5.25, per_second=150_000)}, "", [])
    row = rows(text, "APNs: HTTP")
    assert "≤ 8 us of CPU" in row
    assert "5.25 us of CPU" in row
    assert "150,000 a second" in row
    assert "missed" not in row


def test_a_missed_goal_and_an_unclean_ledger_are_said() -> None:
    text = page.text({"apns": kept(gateway_cpu_us=9.0, per_second=150_000, clean=False)}, "", [])
    row = rows(text, "APNs: HTTP")
    assert "**9 us of CPU: missed**" in row
    assert "ledger is not clean" in row


def test_repetitions_are_judged_by_their_median() -> None:
    spread = {"gateway_cpu_us": {"median": 7.0, "min": 6.0, "max": 9.0}, "per_second": {"median": 130_000}}
    row = rows(
        page.text({"apns": kept(gateway_cpu_us=9.0, per_second=1, spread=spread, repeat=3)}, "", []), "APNs: HTTP"
    )
    assert "7 us of CPU" in row
    assert "3 runs: 6 to 9 us" in row
    assert "missed" not in row


def test_what_was_not_run_or_skipped_is_said() -> None:
    text = page.text({"nginx": {"command": "c", "report": {"skipped": "nginx is not installed"}}}, "", [])
    assert "skipped: nginx is not installed" in rows(text, "APNs again")
    assert "not measured yet" in rows(text, "APNs: HTTP")


def test_peers_have_their_table_and_who_is_missing_is_named() -> None:
    result = kept(rows=[ROW], skipped=[{"peer": "gorush", "why": "no toolchain"}])
    text = page.text({"compare": result}, "the log", ["performance/peers.png"])
    assert "| pushy 1 | Java | send only | apns | 8.1 | 8 to 8.2 | 123,000 | 263 | 6.5 | 1.6 |" in text
    assert "gorush is missing: no toolchain" in text
    assert "![peers](performance/peers.png)" in text
    assert text.endswith("the log")
    assert "6.5 × our wire: pushy's send" in rows(text, "other people")


def test_goals_are_bounds_that_hold_their_ends() -> None:
    assert Goal("x", lambda report: 1.0, most=2.5).met(2.5)
    assert not Goal("x", lambda report: 1.0, most=2.5).met(2.51)
    assert Goal("x", lambda report: 1.0, least=9000).met(9000)
    assert Goal("us", lambda report: 1.0, least=9000).text == "≥ 9,000 us"
