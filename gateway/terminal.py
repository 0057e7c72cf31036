"""What the commands share: how they speak to a gateway, and how they answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from gateway.client import Refused, Unreachable

BAD_ANSWER = 1
NO_GATEWAY = 3

DEFAULT_URL = "http://127.0.0.1:8080"
Url = Annotated[str, typer.Option(envvar="CARILLON_URL", help="Where the gateway listens.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines: JSON on standard output.")]


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
