"""Everyone's CPU per notification in one run: ours, and other people's clients in `bench.peers`.

All of them send the same payload to distinct targets over one TLS connection, from the same processor to a fast
simulator on another. Repetitions are interleaved and ratios are taken within each, so that the hour of the day moves
both sides. Peers only send; ours is measured twice, the HTTP/2 client alone and the whole path from the HTTP accept
to the stored receipt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench import report, throughput, wire
from bench.peers import running
from bench.peers.building import CannotBuild
from bench.peers.catalogue import LEFT_OUT, PEERS, Peer
from bench.processes import ProcessFailed
from bench.world import cpus

WHOLE_PATH = {"apns": 1.0, "fcm": 0.5, "webpush": 0.1}
"""Of the run's count: what our whole path is given for each service."""
SEND = "send only"
WHOLE = "whole path"
OURS = "carillon"


class Figure(NamedTuple):
    """One run of one contender."""

    cpu_us: float
    per_second: float
    rss_mib: float
    complete: bool
    """Whether all that was sent was answered, as both sides say."""
    sink_utilisation: float


@dataclass(slots=True)
class Contender:
    """Who is measured, how, and what came out so far."""

    name: str
    version: str
    language: str
    what: str
    service: str
    count: int
    measure: Callable[[], Figure]
    note: str = ""
    figures: list[Figure] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, str]:
        """Ratios are taken to the one of ours with the same."""
        return self.what, self.service


def run(count: int, repeat: int, names: Sequence[str] = ()) -> dict[str, Any]:
    """Measure all peers, or those named, `repeat` times in turns, and return the report.

    Raises:
        ValueError: a name is no peer's.
        ProcessFailed: our own side could not be run.
    """
    contenders, skipped = assemble(count, names)
    failed = []
    for _ in range(repeat):
        for contender in list(contenders):
            try:
                contender.figures.append(contender.measure())
            except ProcessFailed as error:
                if contender.name == OURS:
                    raise
                contenders.remove(contender)
                failed.append({"peer": contender.name, "why": str(error)})
    return {
        "scenario": "compare",
        "count": count,
        "repeat": repeat,
        "rows": rows(contenders),
        "skipped": skipped,
        "failed": failed,
        "clean": not failed and all(figure.complete for contender in contenders for figure in contender.figures),
        **report.surroundings(),
    }


def assemble(count: int, names: Sequence[str] = ()) -> tuple[list[Contender], list[dict[str, str]]]:
    """Build the peers; returns who can be measured, and who cannot and why."""
    unknown = set(names) - {peer.name for peer in PEERS} - set(LEFT_OUT)
    if unknown:
        known = ", ".join([*(peer.name for peer in PEERS), *LEFT_OUT])
        raise ValueError(f"{', '.join(sorted(unknown))}: no such peer; there are {known}")
    skipped = [{"peer": name, "why": why} for name, why in LEFT_OUT.items() if not names or name in names]
    peers = []
    for peer in PEERS:
        if names and peer.name not in names:
            continue
        try:
            peers.append(_peer(peer, peer.build(peer.folder), count))
        except CannotBuild as error:
            skipped.append({"peer": peer.name, "why": str(error)})
    return [*_ours(count, {peer.service for peer in peers} | {"apns"}), *peers], skipped


def _ours(count: int, services: set[str]) -> list[Contender]:
    whole = [
        Contender(OURS, "", "Python", WHOLE, service, _whole_count(service, count), _whole(service, count))
        for service in WHOLE_PATH
        if service in services
    ]
    return [Contender(OURS, "", "Python", SEND, "apns", count, lambda: _of(wire.run(count))), *whole]


def _whole_count(service: str, count: int) -> int:
    return max(1, int(count * WHOLE_PATH[service]))


def _whole(service: str, count: int) -> Callable[[], Figure]:
    scenario = throughput.Scenario(provider=service, count=_whole_count(service, count))
    return lambda: _of(throughput.run(scenario))


def _of(result: Mapping[str, Any]) -> Figure:
    return Figure(
        result["gateway_cpu_us"],
        result["per_second"],
        result["rss_mib"]["gateway"],
        result["clean"],
        result["sink_utilisation"],
    )


def _peer(peer: Peer, command: Sequence[str], count: int) -> Contender:
    own = max(1, int(count * peer.share))
    cpu, sink_cpu = cpus()

    def measure() -> Figure:
        measured = running.run(peer, command, own, cpu=cpu, sink_cpu=sink_cpu)
        return Figure(
            measured.cpu_us, measured.per_second, measured.rss_mib, measured.complete, measured.sink_utilisation
        )

    note = f"{peer.mode} sink: {peer.why}" if peer.why else ""
    return Contender(peer.name, peer.version, peer.language, SEND, peer.service, own, measure, note)


def rows(contenders: Sequence[Contender]) -> list[dict[str, Any]]:
    """A row for each, cheapest first; ratios are medians of those within each repetition."""
    ours = {contender.key: contender for contender in contenders if contender.name == OURS}
    made = [_row(contender, ours) for contender in contenders if contender.figures]
    return sorted(made, key=lambda row: (list(WHOLE_PATH).index(row["service"]), row["cpu_us"]))


def _row(contender: Contender, ours: Mapping[tuple[str, str], Contender]) -> dict[str, Any]:
    figures = contender.figures
    costs = [figure.cpu_us for figure in figures]
    return {
        "peer": contender.name,
        "version": contender.version or report.surroundings()["versions"]["carillon"],
        "language": contender.language,
        "what": contender.what,
        "service": contender.service,
        "count": contender.count,
        "cpu_us": round(median(costs), 2),
        "spread": [round(min(costs), 2), round(max(costs), 2)],
        "per_second": round(median(figure.per_second for figure in figures)),
        "rss_mib": round(max(figure.rss_mib for figure in figures), 1),
        "ratio_to_wire": _ratio(contender, ours.get((SEND, contender.service))),
        "ratio_to_whole_path": _ratio(contender, ours.get((WHOLE, contender.service))),
        "sink_utilisation": round(median(figure.sink_utilisation for figure in figures), 2),
        "complete": all(figure.complete for figure in figures),
        "note": contender.note,
    }


def _ratio(contender: Contender, ours: Contender | None) -> float | None:
    if ours is None or ours is contender:
        return None
    pairs = zip(contender.figures, ours.figures, strict=False)  # the last repetition may have failed on one side
    ratios = [theirs.cpu_us / own.cpu_us for theirs, own in pairs if own.cpu_us]
    return round(median(ratios), 2) if ratios else None


def print_table(result: Mapping[str, Any]) -> None:
    """The rows for people, service by service, and who is missing."""
    console = Console()
    console.print(f"compare · {result['count']:,} × {result['repeat']} · CPU a notification, one core, one connection")
    for service in WHOLE_PATH:
        found = [row for row in result["rows"] if row["service"] == service]
        if found:
            console.print(_table(service, found))
    for row in result["rows"]:
        if not row["complete"]:
            console.print(f"{row['peer']}: not every notification was answered, so its figure is none", style="red")
        if row["note"]:
            console.print(f"{row['peer']}: {row['note']}", highlight=False)
    for fate, style in (("skipped", "yellow"), ("failed", "red")):
        for who in result[fate]:
            console.print(f"{fate} {who['peer']}: {who['why']}", style=style, highlight=False, markup=False)


def _table(service: str, found: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(service, no_wrap=True)
    for heading in ("us", "±", "a second", "MiB", "× wire", "× path"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in found:
        table.add_row(*_cells(row), style="bold" if row["peer"] == OURS else None)
    return table


def _cells(row: Mapping[str, Any]) -> list[str]:
    ratios = [row["ratio_to_wire"], row["ratio_to_whole_path"]]
    least, most = row["spread"]
    return [
        f"{OURS}, {row['what']}" if row["peer"] == OURS else f"{row['peer']} {row['version']} ({row['language']})",
        f"{row['cpu_us']:,}",
        f"{(most - least) / 2 / row['cpu_us']:.0%}" if row["cpu_us"] else "",
        f"{row['per_second']:,}",
        f"{row['rss_mib']:,}",
        *("" if ratio is None else f"{ratio:,}" for ratio in ratios),
    ]
