"""The HTTP/2 client alone: ready-made requests in, outcomes out, against the fast simulator on another processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import report
from bench.ledger import Ledger
from bench.processes import Child
from bench.world import World, cpus

WARM_UP = 20_000
STATES = {"0": "pending", "1": "accepted", "2": "rejected", "3": "unknown"}
"""As `bench.wire_client` writes them, in the words of receipts."""


def run(count: int, connections: int = 1, repeat: int = 1) -> dict[str, Any]:
    """Run it and return the report of the median run; `gateway_cpu_us` is the client's process alone."""
    return report.median([_run_once(count, connections) for _ in range(repeat)])


def _run_once(count: int, connections: int) -> dict[str, Any]:
    client_cpu, sink_cpu = cpus()
    with World(["apns"], mode="fast", simulator_cpu=sink_cpu, serve=False) as world:
        sink = world.simulators.usage()
        outcomes = world.folder / "outcomes"
        child = Child(
            "wire", _command(world, count, connections, outcomes), world.folder, announces=True, cpu=client_cpu
        )
        try:
            measured = child.first_line()
        finally:
            child.stop()
        sink_cpu_us = (world.simulators.usage().cpu_seconds - sink.cpu_seconds) / (count + _warm_up(count)) * 1e6
        ledger = _ledger(outcomes)
        world.enter_taken(ledger)
    return _report(count, measured, sink_cpu_us, ledger)


def _command(world: World, count: int, connections: int, outcomes: Path) -> list[str]:
    options = {
        "--origin": world.ready["services"]["apns"]["endpoints"][0],
        "--ca-file": world.ready["ca_file"],
        "--count": count,
        "--warm-up": _warm_up(count),
        "--connections": connections,
        "--ledger": outcomes,
    }
    return ["-m", "bench.wire_client", *(str(word) for pair in options.items() for word in pair)]


def _warm_up(count: int) -> int:
    return min(WARM_UP, count)


def _ledger(outcomes: Path) -> Ledger:
    ledger = Ledger()
    lines = [line.split() for line in outcomes.read_text().splitlines()]
    ledger.accepted({identifier: identifier for identifier, _ in lines})
    for identifier, state in lines:
        ledger.receipt({"recipient": identifier, "id": identifier, "state": STATES[state]})
    return ledger


def _report(count: int, measured: dict[str, Any], sink_cpu_us: float, ledger: Ledger) -> dict[str, Any]:
    balance = ledger.balance()
    return {
        "scenario": "wire",
        "provider": "apns",
        "workers": 1,
        "count": count,
        "connections": measured["connections"],
        "wall_seconds": round(measured["wall_seconds"], 3),
        "per_second": round(count / measured["wall_seconds"]),
        "cpu_seconds": {"gateway": round(measured["cpu_seconds"], 3), "sink": round(sink_cpu_us * count / 1e6, 3)},
        "gateway_cpu_us": round(measured["cpu_seconds"] / count * 1e6, 3),
        "sink_utilisation": round(sink_cpu_us * count / 1e6 / measured["wall_seconds"], 2),
        "rss_mib": {"gateway": round(measured["peak_mib"], 1)},
        "ledger": report.ledger(balance),
        "clean": balance.clean,
        **report.surroundings(),
    }
