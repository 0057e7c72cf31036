"""`carillon doctor` and `carillon backup`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from gateway.commands.terminal import BAD_ANSWER, AsJson, Config, config_path, refusing, say, settings_of

commands = typer.Typer()


@commands.command(epilog="Example: carillon doctor --config carillon.toml")
def doctor(
    config: Config = None,
    as_json: AsJson = False,
    timeout: Annotated[float, typer.Option(help="Seconds for each step of a connection.")] = 5.0,
) -> None:
    """Check configuration, keys, clock, storage, limits and every endpoint, and say what to do.

    Exit status 1 if anything failed; warnings alone leave 0. Nothing is sent in an app's name.
    """
    from gateway.doctor import Level, examine

    findings = []
    console = Console(soft_wrap=True)
    for finding in examine(config_path(config), os.environ, timeout):
        findings.append(finding)
        if not as_json:
            colour = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILED: "red"}[finding.level]
            console.print(f"[{colour}]{finding.level:>7}[/{colour}]  {finding.check}: {escape(finding.detail)}")
            if finding.remedy:
                console.print(f"         → {escape(finding.remedy)}")
    failed = any(finding.level is Level.FAILED for finding in findings)
    if as_json:
        typer.echo(json.dumps({"ok": not failed, "findings": [finding._asdict() for finding in findings]}))
    raise typer.Exit(BAD_ANSWER if failed else 0)


@commands.command(epilog="Example: carillon backup /backups/carillon-2026-11-22.db")
def backup(
    destination: Annotated[Path, typer.Argument(help="A file that does not exist yet.")],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Copy the queue with its receipts while the gateway goes on, and check the copy.

    To restore it, stop the gateway, put the copy in the place of `queue.path`, and start it again. What was sent after
    the backup may then be sent again, with the same ids.
    """
    from rich.progress import Progress

    from gateway.queue.backup import backup as copy
    from gateway.queue.base import QueueError

    source = settings_of(config_path(config), {}).queue.path
    with refusing(QueueError), Progress(console=Console(stderr=True), disable=as_json) as bar:
        task = bar.add_task("Copying", total=1.0)
        copied = copy(source, destination, lambda share: bar.update(task, completed=share))
    size = f"{copied.bytes / 2**20:,.1f} MiB"
    kept = f"{copied.jobs:,} jobs, {copied.deliveries:,} deliveries still to be sent"
    say(as_json, copied._asdict(), f"[green]{escape(copied.path)}[/green]: {size}, {kept}, checked.")
