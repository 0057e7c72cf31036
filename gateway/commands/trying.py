"""`carillon simulate`, `demo` and `version`: what needs no gateway."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from gateway.commands.terminal import AsJson, say

commands = typer.Typer()


@commands.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    epilog="Example: carillon simulate --folder /tmp/simulators --services apns,fcm",
)
def simulate(context: typer.Context) -> None:
    """Run simulators of APNs, FCM and Web Push, for tests of one's own. Takes the options of `bench.simulators`."""
    from bench.simulators.__main__ import main as run

    program = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    program.command()(run)
    program(context.args, prog_name="carillon simulate")


@commands.command(epilog="Example: carillon demo --count 100000 --kill")
def demo(
    count: Annotated[int, typer.Option(min=1, help="Recipients.")] = 100_000,
    kill: Annotated[bool, typer.Option("--kill", help="kill -9 a worker half-way: nothing is lost.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes of the gateway.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
) -> None:
    """Run a whole campaign against simulated services on this machine, and count everything from three sides.

    Exit status 0 if nothing is missing and nothing extra.
    """
    from bench.demo import main as run

    raise typer.Exit(run(count=count, kill=kill, json=as_json, workers=workers) or 0)


@commands.command()
def version(as_json: AsJson = False) -> None:
    """Say which version this is, and of what it is made."""
    names = ("carillon", "aiohttp", "apsw", "cryptography", "uvloop")
    versions = {name: installed_version(name) for name in names} | {"python": sys.version.split()[0]}
    parts = ", ".join(f"{name} {number}" for name, number in versions.items() if name != "carillon")
    say(as_json, versions, f"carillon {versions['carillon']} ({parts})")
