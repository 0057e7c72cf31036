"""docs/performance.md, written from reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.goals import RUNS, Goal, Run

Results = Mapping[str, Mapping[str, Any]]
"""Name of a run -> its command and its report."""

HEAD = """\
<!-- Written by `make bench` from bench/results/*.json; the log at the end is docs/performance-log.md. -->
# Performance

What Carillon costs, each figure with the command that repeats it (with `.venv/bin/` before `python`), beside the goal
that it was built for. The CPU is user and system time of all gateway processes, from the operating system, divided by
the notifications; with the service's simulator and the client on another processor, over TLS, with distinct targets
and variables for each recipient. Every run holds what the client was told, what the service saw and what the receipts
say against each other, and counts only if nothing is lost and nothing is told twice. Repeated runs start everything
anew; the table shows medians, and their spread.
"""


def text(results: Results, log: str, plots: Sequence[str]) -> str:
    """The page. `log` is what people wrote about the work, `plots` are paths as seen from the page."""
    parts = [HEAD, "\n".join(_machines(results)), "## Goals and figures\n", "\n".join(_table(results))]
    if "compare" in results:
        parts += ["## Other people's clients\n", "\n".join(_peers(results["compare"]["report"]))]
    if plots:
        parts += ["## Plots\n", "\n\n".join(f"![{_alt(path)}]({path})" for path in plots) + "\n"]
    return "\n".join([*parts, log])


def _machines(results: Results) -> Iterator[str]:
    """Where and with what: one line, or one for each where the runs differ."""
    seen = dict.fromkeys(_surroundings(kept["report"]) for kept in results.values() if "machine" in kept["report"])
    for line in seen:
        yield f"Measured on {line}.\n"


def _surroundings(report: Mapping[str, Any]) -> str:
    machine, versions = report["machine"], report["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{machine['cpus']} processors of an {machine['processor']}, {machine['system']}; {named}"


def _table(results: Results) -> Iterator[str]:
    yield "| what | goal | measured | command |"
    yield "|---|---|---|---|"
    for run in RUNS:
        kept = results.get(run.name)
        if kept is None:
            yield f"| {run.title} | {_goals(run.goals)} | not measured yet | `python -m bench {run.command}` |"
        else:
            yield f"| {run.title} | {_goals(run.goals)} | {_measured(run, kept['report'])} | `{kept['command']}` |"
    yield ""


def _goals(goals: Sequence[Goal]) -> str:
    return "; ".join(goal.text for goal in goals) or "none"


def _measured(run: Run, report: Mapping[str, Any]) -> str:
    if isinstance(report.get("skipped"), str):  # the whole run; a list tells of peers
        return f"skipped: {report['skipped']}"
    cells = [_answer(goal, report) for goal in run.goals] or [_cost(report)]
    cells += [f"({spread})"] if (spread := _spread(report)) else []
    if not report["clean"]:
        cells.append("**and the ledger is not clean**")
    return "; ".join(cells)


def _answer(goal: Goal, report: Mapping[str, Any]) -> str:
    value = goal.figure(report)
    if value is None:
        return f"{goal.what}: not measured"
    return f"{_number(value)} {goal.what}" if goal.met(value) else f"**{_number(value)} {goal.what}: missed**"


def _cost(report: Mapping[str, Any]) -> str:
    return f"{_number(report['gateway_cpu_us'])} us of CPU; {_number(report['per_second'])} a second"


def _spread(report: Mapping[str, Any]) -> str:
    found = report.get("spread", {}).get("gateway_cpu_us")
    return f"{report['repeat']} runs: {_number(found['min'])} to {_number(found['max'])} us" if found else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.3g}"


def _peers(report: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "Ready-made payloads over one connection, sending only, against the same sink in the same run; ours twice: the "
        "HTTP/2 client alone, and the whole path. The last columns say how many times ours it costs.\n"
    )
    yield "| who | in | what | service | us of CPU | least to most | a second | MiB | × our wire | × our whole path |"
    yield "|---|---|---|---|---:|---:|---:|---:|---:|---:|"
    for row in report["rows"]:
        name = f"{row['peer']} {row['version']}"
        low, high = row["spread"]
        cells = [
            f"**{name}**" if row["peer"] == "carillon" else name,
            row["language"],
            row["what"] if row["complete"] else f"{row['what']} (**not all were answered**)",
            row["service"],
            _number(row["cpu_us"]),
            f"{_number(low)} to {_number(high)}",
            _number(row["per_second"]),
            _number(row["rss_mib"]),
            _ratio(row["ratio_to_wire"]),
            _ratio(row["ratio_to_whole_path"]),
        ]
        yield "| " + " | ".join(cells) + " |"
    yield ""
    for row in report["rows"]:
        if row["note"]:
            yield f"- {row['peer']}: {row['note']}."
    for skip in report["skipped"]:
        yield f"- {skip['peer']} is missing: {skip['why']}."
    yield ""


def _ratio(value: float | None) -> str:
    return "" if value is None else _number(value)


def _alt(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".png").replace("-", " ")
