"""`python -m bench SCENARIO`: load on a gateway that it starts itself, against simulators that it starts as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from bench import (
    chaos,
    compare,
    crash,
    figures,
    guard,
    ingest,
    latency,
    reliability,
    report,
    scale,
    soak,
    throughput,
    wire,
)
from bench.kafka import throughput as on_kafka
from bench.processes import Missing, ProcessFailed, terminable

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Provider = Literal["apns", "fcm", "webpush"]
Sink = Literal["own", "nginx", "pushy"]
QueueKind = Literal["embedded", "kafka"]
Repeat = Annotated[int, typer.Option(min=1, help="Runs, each started anew; the median's report is shown.")]
Seed = Annotated[int | None, typer.Option(help="Repeats a run's choices; each run tells its own.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]


@app.callback()
def _scenarios() -> None:
    """Keeps scenarios subcommands, however many there are."""


@app.command("throughput")
def throughput_command(
    provider: Annotated[Provider, typer.Option(help="Whose notifications.")] = "apns",
    count: Annotated[int, typer.Option(min=1, help="Notifications counted, after a warm-up.")] = 300_000,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes; one is bound to a processor.")] = 1,
    profile: Annotated[str | None, typer.Option(help="The simulator's manners: apple (with --provider apns).")] = None,
    rtt: Annotated[float, typer.Option(min=0, help="Milliseconds that each answer takes.")] = 0.0,
    connections: Annotated[int | None, typer.Option(min=1, help="Most connections of a worker.")] = None,
    errors: Annotated[
        bool, typer.Option("--errors", help="Against the same with 5 % dead, 5 % throttled, 2 % unavailable.")
    ] = False,
    sink: Annotated[
        Sink, typer.Option(help="Who answers: our fast simulator, nginx, or pushy's benchmark server.")
    ] = "own",
    queue: Annotated[QueueKind, typer.Option(help="The embedded one, or Apache Kafka itself.")] = "embedded",
    gateways: Annotated[int, typer.Option(min=1, max=2, help="With --queue kafka: gateways in one group.")] = 1,
    repeat: Repeat = 1,
    json: Json = False,
) -> None:
    """From HTTP accept to stored receipt: CPU per notification, rate, ledger.

    Exit status 0 if the ledger is clean, 1 if not, 2 if the run could not be made. A run for which this machine lacks
    something is skipped, with status 0.
    """
    if queue == "kafka":
        _conclude(lambda: report.median([on_kafka.run(provider, count, gateways) for _ in range(repeat)]), json)
        return
    scenario = throughput.Scenario(
        provider=provider,
        count=count,
        workers=workers,
        profile=profile,
        rtt=rtt,
        connections=connections,
        errors=errors,
        sink=sink,
    )
    _conclude(lambda: throughput.run(scenario, repeat), json)


@app.command("wire")
def wire_command(
    count: Annotated[int, typer.Option(min=1, help="Requests counted, after a warm-up.")] = 300_000,
    connections: Annotated[int, typer.Option(min=1, help="Most connections.")] = 1,
    repeat: Repeat = 1,
    json: Json = False,
) -> None:
    """The HTTP/2 client alone: ready-made requests in, outcomes out. Exit status as of the other scenarios."""
    _conclude(lambda: wire.run(count, connections, repeat), json)


@app.command("ingest")
def ingest_command(
    count: Annotated[int, typer.Option(min=1, help="Recipients of the one request.")] = 1_000_000,
    json: Json = False,
) -> None:
    """One streamed request: CPU per recipient until all are durable, and the gateway's memory at most.

    Exit status as of the other scenarios.
    """
    _conclude(lambda: ingest.run(count), json)


@app.command("latency")
def latency_command(
    seconds: Annotated[float, typer.Option(min=1, help="How long, on an idle gateway.")] = 10.0,
    blast: Annotated[int, typer.Option(min=0, help="Instead: while a promotional job of so many is sent.")] = 0,
    json: Json = False,
) -> None:
    """Transactional notifications, 200 a second: from the instant they were due to bytes on the wire.

    Exit status as of the other scenarios.
    """
    _conclude(lambda: latency.run(seconds, blast), json)


@app.command("scale")
def scale_command(
    depth: Annotated[bool, typer.Option("--depth", help="10,000 recipients queued, and many.")] = False,
    connections: Annotated[bool, typer.Option("--connections", help="1, 4, 16, 64 and 256 connections.")] = False,
    workers: Annotated[bool, typer.Option("--workers", help="1 and 2 workers.")] = False,
    count: Annotated[int, typer.Option(min=1, help="Notifications counted at each point.")] = 200_000,
    deep: Annotated[int, typer.Option(min=1, help="How many --depth queues.")] = 1_000_000,
    most: Annotated[int, typer.Option(min=1, help="Where --connections ends.")] = 256,
    json: Json = False,
) -> None:
    """Whether a notification costs the same when there is more of something. Exit status as of the other scenarios."""
    if depth + connections + workers != 1:
        raise typer.BadParameter("choose one of --depth, --connections and --workers")
    if depth:
        _conclude(lambda: scale.by_depth(count, deep), json)
    elif connections:
        _conclude(lambda: scale.by_connections(count, most), json)
    else:
        _conclude(lambda: scale.by_workers(count), json)


@app.command("compare")
def compare_command(
    count: Annotated[int, typer.Option(min=1, help="Notifications of the fast ones; slower ones get fewer.")] = 300_000,
    repeat: Annotated[int, typer.Option(min=1, help="Repetitions, all in turns.")] = 3,
    peers: Annotated[str, typer.Option(help="Which, with commas between; all without.")] = "",
    json: Json = False,
) -> None:
    """Our CPU per notification beside that of other people's clients, in the same run.

    What cannot be built here is skipped with a line. Exit status 0 if every notification was answered in every run, 1
    if not, 2 if nothing could be run.
    """
    names = [name.strip() for name in peers.split(",") if name.strip()]
    try:
        result = compare.run(count, repeat, names)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--peers") from None
    except ProcessFailed as error:
        Console(stderr=True).print(str(error), style="red", highlight=False, markup=False)
        raise typer.Exit(2) from None
    compare.print_table(result)
    if json:
        report.print_json(result)
    raise typer.Exit(0 if result["clean"] else 1)


@app.command("guard")
def guard_command(
    against: Annotated[str, typer.Option(help="The commit to compare this working tree with.")],
    provider: Annotated[Provider, typer.Option(help="Whose notifications.")] = "apns",
    count: Annotated[int, typer.Option(min=1, help="Notifications of each of a block's four campaigns.")] = 40_000,
    blocks: Annotated[int, typer.Option(min=guard.FEWEST_BLOCKS, help="Pairs of gateways that are started.")] = 12,
    json: Json = False,
) -> None:
    """Whether this working tree costs more than another commit: exit status 1 if it is surely above 5 %."""
    _conclude(lambda: guard.run(against, provider, count, blocks), json)


@app.command("crash")
def crash_command(
    kills: Annotated[int, typer.Option(min=1, help="How often a process is killed with SIGKILL.")] = 60,
    count: Annotated[int, typer.Option(min=1, help="Deliveries, over all three services.")] = 60_000,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """kill -9 of workers and parent while jobs are taken in, stored, sent and receipted: the ledger.

    Duplicates may be as many as were on the wire at the kills. Exit status as of the other scenarios.
    """
    _conclude(lambda: crash.run(kills, count, seed), json)


@app.command("chaos")
def chaos_command(
    seconds: Annotated[float, typer.Option(min=1, help="How long faults go on.")] = 120.0,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Services that throttle, fail, hang, cut, restart; workers killed, stopped, replaced; jobs meanwhile: the ledger.

    Exit status as of the other scenarios.
    """
    _conclude(lambda: chaos.run(seconds, seed), json)


@app.command("soak")
def soak_command(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long.")] = 10.0,
    rate: Annotated[
        float | None, typer.Option(min=1, help="Deliveries a second; without it 70 % of the highest, found first.")
    ] = None,
    json: Json = False,
) -> None:
    """A steady load for minutes: memory's slope, descriptors, tasks, stalls of the loop, latency, and the ledger.

    Exit status 0 if the ledger is clean and nothing grows, 1 if not, 2 if the run could not be made.
    """
    _conclude(lambda: soak.run(minutes, rate), json)


@app.command("figures")
def figures_command(
    names: Annotated[list[str] | None, typer.Argument(help="Which runs; all without.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small counts: whether it works, not what it costs.")] = False,
    write_only: Annotated[bool, typer.Option("--write-only", help="Write the page from the reports kept.")] = False,
) -> None:
    """Run what docs/performance.md shows, and write the page and its plots: `make bench`.

    Exit status 0 if every run was clean.
    """
    if write_only:
        figures.write()
        return
    try:
        clean = figures.run(names or (), quick=quick, console=Console())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    raise typer.Exit(0 if clean else 1)


@app.command("reliability")
def reliability_command(
    rows: Annotated[list[str] | None, typer.Argument(help="With --run: which, such as R2; all without.")] = None,
    run: Annotated[bool, typer.Option("--run", help="Attack first, at full scale: `make test-long`.")] = False,
) -> None:
    """Write docs/reliability-report.md from what the attacks left in bench/results/reliability.

    Exit status 0 if every attack of this run passed.
    """
    if not run:
        reliability.write()
        return
    try:
        passed = reliability.run(rows or (), Console())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    raise typer.Exit(0 if passed else 1)


def _conclude(scenario: Callable[[], dict[str, Any]], json: bool) -> None:
    try:
        result = scenario()
    except ProcessFailed as error:
        Console(stderr=True).print(str(error), style="red", highlight=False, markup=False)
        raise typer.Exit(2) from None
    except Missing as error:
        Console(stderr=True).print(f"skipped: {error}", style="yellow", highlight=False, markup=False)
        if json:
            report.print_json({"skipped": str(error)})
        raise typer.Exit(0) from None
    _print_table(result)
    if json:
        report.print_json(result)
    raise typer.Exit(0 if result["clean"] else 1)


_ROWS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "gateway_cpu_us": ("gateway CPU a notification", lambda value: f"{value} us"),
    "clean_cpu_us": ("the same without errors", lambda value: f"{value} us"),
    "curves_cpu_us": ("OpenSSL's ECDH and key generation alone", lambda value: f"{value} us"),
    "ratio": ("ratio", str),
    "per_second": ("notifications a second", "{:,}".format),
    "points": ("us each", lambda points: ", ".join(f"{point['at']:,}: {point['gateway_cpu_us']}" for point in points)),
    "wall_seconds": ("wall", lambda value: f"{value} s"),
    "connections": ("connections", str),
    "sink_utilisation": ("sink's processor in use", "{:.0%}".format),
    "highest_per_second": ("the highest rate", "{:,}".format),
    "rss_slope_mib_per_hour": ("memory's slope after warm-up", lambda value: f"{value:,} MiB an hour"),
    "rss_slope_error": ("its standard error", lambda value: f"{value:,} MiB an hour"),
    "by_thirds": ("medians by thirds", lambda value: "; ".join(f"{name} {each}" for name, each in value.items())),
    "stalls_over_50_ms": ("looks at the loop that found it late by more than 50 ms", "{:,}".format),
    "latency_ms": ("latency", lambda value: _pairs(value, " ms")),
    "blast_per_second": ("the blast, notifications a second", lambda value: _pairs(value)),
    "blast_loss": ("what the blast loses", "{:.1%}".format),
    "cpu_us": ("us each", lambda value: _pairs(value)),
    "cpu": ("ratio by CPU time, with its interval", lambda value: f"{value['ratio']} {value['interval']}"),
    "instructions": (
        "ratio by instructions",
        lambda value: f"{value['ratio']} {value['interval']}" if value else "not counted by this machine",
    ),
    "seed": ("seed", str),
    "kills": ("kills", "{:,}".format),
    "phases": ("at", lambda value: _pairs(value)),
    "victims": ("of", lambda value: _pairs(value)),
    "faults": ("faults", lambda value: _pairs(value)),
    "on_wire_at_kills": ("on the wire at the kills", "{:,}".format),
    "requests_broken": ("requests of the caller that broke off", "{:,}".format),
    "rss_mib": ("gateway's memory at most", lambda value: f"{value['gateway']} MiB"),
    "ledger": ("ledger", lambda value: _pairs(value)),
}
"""Fields of reports, as they are shown where a report has them."""


def _pairs(values: dict[str, Any], unit: str = "") -> str:
    return ", ".join(f"{name} {value:,}{unit}" for name, value in values.items())


def _print_table(result: dict[str, Any]) -> None:
    table = Table(title=f"{result['scenario']} · {result['provider']} · {result['count']:,}", show_header=False)
    for field, (label, shown) in _ROWS.items():
        if field in result:
            table.add_row(label, shown(result[field]))
    Console().print(table)


if __name__ == "__main__":
    with terminable():
        app()
