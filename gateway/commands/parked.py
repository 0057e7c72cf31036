"""`carillon parked`: batches that process after process died with."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from gateway.client import Client
from gateway.commands.terminal import DEFAULT_URL, AsJson, Url, client, say, talking

commands = typer.Typer(
    no_args_is_help=True,
    help="Batches that nobody sends any more, because process after process died with them. They stay until they are "
    "replayed, purged or cancelled, or their job expires.",
    epilog="Example: carillon parked list",
)

BatchId = Annotated[str, typer.Argument(metavar="BATCH", help="Its id, as `carillon parked list` shows it.")]


@commands.command("list", epilog="Example: carillon parked list --json | jq -r .id")
def list_parked(
    url: Url = DEFAULT_URL,
    as_json: Annotated[bool, typer.Option("--json", help="NDJSON: one batch a line.")] = False,
) -> None:
    """List the parked batches, oldest first."""
    table = Table(
        Column("batch", overflow="fold"), Column("job", overflow="fold"), "app", "provider", "class", "deliveries",
        "deaths", "parked (UTC)",
    )  # fmt: skip
    with talking(as_json):
        for batch in _parked_batches(client(url)):
            if as_json:
                typer.echo(json.dumps(batch))
                continue
            parked_at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(batch["parked_at"]))
            names = (batch["id"], batch["job"], batch["app"], batch["provider"], batch["class"])
            table.add_row(*map(escape, names), f"{batch['size']:,}", str(batch["crashes"]), parked_at)
    if not as_json:
        Console().print(table if table.row_count else "No batch is parked.")


def _parked_batches(caller: Client) -> Iterator[dict[str, Any]]:
    cursor = None
    while (page := caller.parked(cursor))["parked"]:
        yield from page["parked"]
        cursor = page["cursor"]


@commands.command(epilog="Example: carillon parked show 0198a1b2-c3d4-7e5f-8a6b-7c8d9e0f0000")
def show(batch: BatchId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show what a parked batch holds. Tokens and endpoints are masked, and of texts only the size is told."""
    with talking(as_json):
        contents = client(url).parked_batch(batch)
    if as_json:
        typer.echo(json.dumps(contents))
        return
    head, parts = contents["batch"], contents["message"]
    console = Console(soft_wrap=True)
    console.print(f"{escape(head['id'])} of {escape(head['job'])}: {escape(head['reason'])}.")
    console.print(f"Its message, in bytes: {escape(', '.join(f'{name} {size}' for name, size in parts.items()))}.")
    table = Table("recipient", "target", "sent", Column("delivery", overflow="fold"))
    for row in contents["deliveries"]:
        table.add_row(escape(row["recipient"]), escape(row["target"]), "maybe" if row["sent"] else "no", row["id"])
    console.print(table)
    console.print(f"{contents['left']:,} of {head['size']:,} deliveries have no receipt; the first are shown.")


@commands.command(epilog="Example: carillon parked replay 0198a1b2-c3d4-7e5f-8a6b-7c8d9e0f0000")
def replay(batch: BatchId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Send a parked batch once more, from where it was. One more death parks it again."""
    with talking(as_json):
        answer = client(url).replay(batch)
    see = f"carillon receipts {answer['job']} --url {url}"
    say(as_json, answer, f"It is queued again. What became of it: {see}")


@commands.command(epilog="Example: carillon parked purge 0198a1b2-c3d4-7e5f-8a6b-7c8d9e0f0000")
def purge(batch: BatchId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """End a parked batch: receipts say `dead_lettered`, or `unknown` where it may have reached its device."""
    with talking(as_json):
        answer = client(url).purge(batch)
    say(as_json, answer, f"It has ended. Its receipts: carillon receipts {answer['job']} --url {url}")
