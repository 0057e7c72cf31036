"""`carillon webhooks`: who is told of receipts, whether they take it, and what to do if they do not."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.commands.terminal import BAD_ANSWER, DEFAULT_URL, AsJson, Url, client, say, talking

commands = typer.Typer(
    no_args_is_help=True,
    help="Receivers of receipts: how each stands, and what to do about those that do not take them. docs/webhooks.md "
    "has the whole of it.",
    epilog="Example: carillon webhooks list",
)

App = Annotated[str, typer.Argument(help="The app, as configured.")]
Name = Annotated[str, typer.Argument(metavar="ENDPOINT", help="As in [apps.APP.webhooks.ENDPOINT].")]


@commands.command("list", epilog="Example: carillon webhooks list --json | jq '.[] | select(.state != \"active\")'")
def list_webhooks(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the endpoints. Nothing shows where they are."""
    with talking(as_json):
        found = client(url).webhooks()
    if as_json:
        typer.echo(json.dumps(found))
        return
    table = Table("app", "endpoint", "state", "taken", "last (UTC)", "pending", "exhausted", "why")
    for row in found:
        last = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(row["delivered_at"])) if row["delivered_at"] else ""
        numbers = f"{row['delivered']:,}", last, f"{row['pending']:,}", f"{row['exhausted']:,}"
        table.add_row(escape(row["app"]), row["name"], row["state"], *numbers, escape(row["reason"]))
    Console().print(table if table.row_count else "No webhook is configured.")


@commands.command(epilog="Example: carillon webhooks enable shop crm")
def enable(app: App, name: Name, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Send again to an endpoint that was disabled, from where it was."""
    with talking(as_json):
        row = client(url).webhook_step(app, name, "enable")
    say(as_json, row, f"{escape(app)}/{name} is enabled; {row['pending']:,} messages are tried now.")


@commands.command(epilog="Example: carillon webhooks replay shop crm --since 1790000000")
def replay(
    app: App,
    name: Name,
    since: Annotated[int | None, typer.Option(min=0, help="UNIX seconds: all that ended from then on, too.")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Try exhausted messages again; with --since, tell once more all that ended from then on."""
    with talking(as_json):
        row = client(url).webhook_step(app, name, "replay", since)
    say(as_json, row, f"{escape(app)}/{name} is told again; {row['pending']:,} messages are tried now.")


@commands.command("test", epilog="Example: carillon webhooks test shop crm")
def try_out(app: App, name: Name, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Send a message that tells of nothing, and say what became of it."""
    with talking(as_json):
        trial = client(url).webhook_step(app, name, "test")
    say(as_json, trial, "It was taken." if trial["taken"] else f"It was not taken: {escape(trial['reason'])}.")
    if not trial["taken"]:
        raise typer.Exit(BAD_ANSWER)
