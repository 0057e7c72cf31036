"""From the HTTP accept of prepared jobs to stored receipts, as fast as it goes.

The gateway has one processor, the sink and this client share another. The gateway's CPU time is taken from the
operating system between the first byte of the first counted job and the moment at which the last receipt is stored;
a warm-up job goes before. Receipts are read, and the ledger is taken, afterwards.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench import report
from bench.nginx import Nginx
from bench.processes import Child
from bench.pushy_server import PushyServer
from bench.simulators import Script
from bench.stage import Measured, Stage, stage
from bench.world import World, cpus, free_port

ORIGINS = 4
"""Of Web Push: the services that most subscriptions are of."""
UNLIMITED = "1e9"
"""FCM's default limit of 10,000 a second is a project's, not the gateway's."""
APPLE_CONNECTIONS = 30
"""What 100,000 a second of 270 bytes need where a connection carries 65,535 bytes a round trip of 40 ms."""
ERRORS = {"unregistered": 0.05, "throttled": 0.05, "unavailable": 0.02}
CURVES_SECONDS = 1.0
SINKS: Mapping[str, Callable[[Path, int, int | None], Nginx | PushyServer]] = {"nginx": Nginx, "pushy": PushyServer}
"""Other people's servers, which know APNs alone and answer 200 to everything."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What to run."""

    provider: str
    count: int
    workers: int = 1
    profile: str | None = None
    rtt: float = 0.0
    """Milliseconds."""
    streams: int | None = None
    """Of a connection, where it differs from the service's."""
    connections: int | None = None
    """Most of a worker; None leaves it to the provider, or to `APPLE_CONNECTIONS` under Apple's manners."""
    errors: bool = False
    """Counts a second campaign as well, of which the sink refuses what `ERRORS` says, and compares the two."""
    sink: Literal["own", "nginx", "pushy"] = "own"
    """Who answers: the fast simulator, or one of `SINKS`."""

    def __post_init__(self) -> None:
        if self.sink in SINKS and (self.provider != "apns" or self.errors or self.profile):
            raise ValueError(f"{self.sink} answers 200 to everything: it goes with --provider apns, without manners")
        if self.errors and self.provider != "apns":
            raise ValueError("the mix of errors is one of APNs: elsewhere a throttled answer stops the whole project")

    @property
    def limit(self) -> int | None:
        """Most connections of a worker."""
        return self.connections or (APPLE_CONNECTIONS if self.profile == "apple" else None)


def run(scenario: Scenario, repeat: int = 1) -> dict[str, Any]:
    """Run it so often, each time with everything started anew; returns the report of the median run."""
    return report.median([_run_once(scenario) for _ in range(repeat)])


def world(
    scenario: Scenario, *, code: Path | None = None, folder: Path | None = None, endpoint: str | None = None
) -> World:
    """The world of a scenario; `code` and `folder` as of `World`, `endpoint` instead of the simulators'."""
    gateway_cpu, sink_cpu = cpus()
    options = ["--rtt", str(scenario.rtt)] if scenario.rtt else []
    options += ["--streams", str(scenario.streams)] if scenario.streams else []
    options += ["--profile", f"{scenario.provider}={scenario.profile}"] if scenario.profile else []
    options += ["--origins", str(ORIGINS)] if scenario.provider == "webpush" else []
    prefix = f"CARILLON_APPS__SHOP__{scenario.provider.upper()}__"
    environment = {"CARILLON_APPS__SHOP__FCM__RATE": UNLIMITED} if scenario.provider == "fcm" else {}
    environment |= {prefix + "CONNECTIONS": str(scenario.limit)} if scenario.limit else {}
    environment |= {prefix + "ENDPOINT": endpoint} if endpoint else {}
    return World(
        [scenario.provider],
        mode="fast",
        workers=scenario.workers,
        simulator_options=options,
        environment=environment,
        gateway_cpu=gateway_cpu if scenario.workers == 1 else None,
        simulator_cpu=sink_cpu,
        folder=folder,
        code=code,
    )


def _run_once(scenario: Scenario) -> dict[str, Any]:
    if scenario.sink in SINKS:
        return _run_against_others(scenario)
    floors = [_curves()] if scenario.provider == "webpush" else []
    with world(scenario) as running:
        result = asyncio.run(_run(scenario, running))
    if floors:
        # Before and after: the machine's speed in between is between them.
        floors.append(_curves())
        floor = sum(floors) / len(floors)
        result |= {"curves_cpu_us": round(floor, 2), "ratio": round(result["gateway_cpu_us"] / floor, 3)}
    return result


def _run_against_others(scenario: Scenario) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="carillon-") as name:
        folder = Path(name)
        with (
            SINKS[scenario.sink](folder, free_port(), cpus()[1]) as sink,
            world(scenario, folder=folder, endpoint=sink.origin) as running,
        ):
            return asyncio.run(_run(scenario, running, sink))


def _curves() -> float:
    """What `bench.curves` says, on the gateway's processor."""
    with tempfile.TemporaryDirectory(prefix="carillon-") as folder:
        command = ["-m", "bench.curves", "--seconds", str(CURVES_SECONDS)]
        child = Child("curves", command, Path(folder), announces=True, cpu=cpus()[0])
        try:
            return float(child.first_line()["cpu_us"])
        finally:
            child.stop()


async def _run(scenario: Scenario, running: World, sink: Nginx | PushyServer | None = None) -> dict[str, Any]:
    async with stage(running, scenario.provider, sink.process if sink else None) as at:
        jobs = await at.warm_up(scenario.count, scenario.limit or 1)
        counted = await at.measure(at.recipients(scenario.count))
        extra: dict[str, Any] = {}
        if scenario.errors:
            jobs += counted.jobs
            clean, counted = counted, await _measure_errors(scenario, at)
            extra["clean_cpu_us"] = round(clean.gateway_cpu_us, 2)
            extra["ratio"] = round(counted.gateway_cpu_us / clean.gateway_cpu_us, 3)
        extra["connections"] = await at.connections()
        await at.enter_receipts(jobs)
        latencies = await at.enter_receipts(counted.jobs)
    if sink is not None:
        running.gateway.stop()
        sink.process.stop()
        at.ledger.taken(sink.taken())
    running.enter_taken(at.ledger)
    return _report(scenario, counted, latencies, at, extra)


async def _measure_errors(scenario: Scenario, at: Stage) -> Measured:
    at.world.play(scenario.provider, Script.shares(ERRORS, seed=1))
    return await at.measure(at.recipients(scenario.count))


def _report(
    scenario: Scenario, counted: Measured, latencies: list[float], at: Stage, extra: dict[str, Any]
) -> dict[str, Any]:
    balance = at.ledger.balance()
    return {
        "scenario": "throughput",
        "provider": scenario.provider,
        "workers": scenario.workers,
        "count": scenario.count,
        "profile": scenario.profile,
        "errors": scenario.errors,
        "sink": scenario.sink,
        **report.cost(counted),
        **extra,
        "latency_ms": report.latency(latencies),
        "ledger": report.ledger(balance),
        "clean": balance.clean,
        **report.surroundings(),
    }
