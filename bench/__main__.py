"""`python -m bench SCENARIO`: load on a gateway that it starts itself, against simulators that it starts as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from bench import ingest, report, throughput
from bench.processes import ProcessFailed

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Provider = Literal["apns", "fcm", "webpush"]
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
    json: Json = False,
) -> None:
    """From HTTP accept to stored receipt: CPU per notification, rate, ledger.

    Exit status 0 if the ledger is clean, 1 if not, 2 if the run could not be made.
    """
    _conclude(lambda: throughput.run(throughput.Scenario(provider, count, workers, profile, rtt)), json)


@app.command("ingest")
def ingest_command(
    count: Annotated[int, typer.Option(min=1, help="Recipients of the one request.")] = 1_000_000,
    json: Json = False,
) -> None:
    """One streamed request: CPU per recipient until all are durable, and the gateway's memory at most.

    Exit status as of the other scenarios.
    """
    _conclude(lambda: ingest.run(count), json)


def _conclude(scenario: Callable[[], dict[str, Any]], json: bool) -> None:
    try:
        result = scenario()
    except ProcessFailed as error:
        Console(stderr=True).print(str(error), style="red", highlight=False, markup=False)
        raise typer.Exit(2) from None
    _print_table(result)
    if json:
        report.print_json(result)
    raise typer.Exit(0 if result["clean"] else 1)


def _print_table(result: dict[str, Any]) -> None:
    table = Table(title=f"{result['scenario']} · {result['provider']} · {result['count']:,}", show_header=False)
    table.add_row("gateway CPU a notification", f"{result['gateway_cpu_us']} us")
    table.add_row("notifications a second", f"{result['per_second']:,}")
    table.add_row("wall", f"{result['wall_seconds']} s")
    if "sink_utilisation" in result:
        table.add_row("sink's processor in use", f"{result['sink_utilisation']:.0%}")
        table.add_row("accept to answer", ", ".join(f"{k} {v} ms" for k, v in result["latency_ms"].items()))
    table.add_row("gateway's memory at most", f"{result['rss_mib']['gateway']} MiB")
    ledger = result["ledger"]
    table.add_row("ledger", ", ".join(f"{name} {value:,}" for name, value in ledger.items()))
    Console().print(table)


if __name__ == "__main__":
    app()
