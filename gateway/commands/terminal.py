"""What the commands of `gateway.cli` share: their common options, and how errors and answers are told."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from gateway.client import Client, Refused, Unreachable, on_this_machine

if TYPE_CHECKING:
    from gateway.settings import Settings

BAD_ANSWER = 1
WRONG_USE = 2
NO_GATEWAY = 3

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="CARILLON_CONFIG",
        help="The configuration file. Without it: carillon.toml if there is one here, and CARILLON_* variables.",
    ),
]
Url = Annotated[str, typer.Option(envvar="CARILLON_URL", help="Where the gateway listens.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines: JSON on standard output.")]

DEFAULT_URL = "http://127.0.0.1:8080"
DEFAULT_CONFIG = Path("carillon.toml")


def config_path(config: Path | None) -> Path | None:
    return config or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)


def settings_of(config: Path | None, over: Mapping[str, str]) -> Settings:
    from gateway.settings import SettingsError, load

    with refusing(SettingsError):
        return load(config, {**os.environ, **over})


def client(url: str) -> Client:
    """A caller of the gateway at `url`, with the key of CARILLON_KEY or, on this machine, the one that lies there."""
    key = os.environ.get("CARILLON_KEY") or (_first_key() if on_this_machine(url) else None)
    return Client(url, key, os.environ.get("CARILLON_CA_FILE"))


def _first_key() -> str | None:
    """That of the gateway whose configuration would be found from here."""
    from gateway.access import first
    from gateway.settings import SettingsError, load

    named = os.environ.get("CARILLON_CONFIG")
    try:
        return first.read(load(config_path(Path(named) if named else None), os.environ).data)
    except SettingsError:
        return None


@contextmanager
def refusing(*errors: type[Exception]) -> Iterator[None]:
    """Errors that say what to do become that sentence and the exit status of wrong use."""
    try:
        yield
    except errors as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(WRONG_USE) from None


@contextmanager
def talking(as_json: bool) -> Iterator[None]:
    """What goes wrong with a gateway, for people on standard error, for machines on standard output."""
    try:
        yield
    except Refused as error:
        if as_json:
            typer.echo(json.dumps(error.problem))
        typer.echo(f"The gateway refused: {error}", err=True)
        raise typer.Exit(BAD_ANSWER) from None
    except Unreachable as error:
        typer.echo(f"{error}. Start one with `carillon serve`, or name another with --url.", err=True)
        raise typer.Exit(NO_GATEWAY) from None


def say(as_json: bool, value: object, sentence: str) -> None:
    if as_json:
        typer.echo(json.dumps(value))
    else:
        Console(soft_wrap=True).print(sentence)
