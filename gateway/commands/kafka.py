"""`carillon topics` and `carillon dlq`: what an operator does with Kafka."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from gateway.commands.terminal import BAD_ANSWER, WRONG_USE, AsJson, Config, config_path, settings_of

if TYPE_CHECKING:
    from gateway.kafka.deadletters import DeadLetter, DeadLetters
    from gateway.settings import Kafka

_T = TypeVar("_T")

LetterId = Annotated[str, typer.Argument(metavar="ID", help="PARTITION/OFFSET, as `carillon dlq list` shows it.")]

topics = typer.Typer(
    no_args_is_help=True,
    help="The topics of Kafka that the gateway works with.",
    epilog="Example: carillon topics create --config carillon.toml",
)
dlq = typer.Typer(
    no_args_is_help=True,
    help="Dead letters: records that are no job, with the reason why. They stay as long as Kafka keeps them.",
    epilog="Example: carillon dlq list",
)


@topics.command(epilog="Example: carillon topics create --json")
def create(config: Config = None, as_json: AsJson = False) -> None:
    """Make the topics that are missing, as the section kafka says. What is there is left as it is: see `check`."""
    from gateway.kafka.cluster import Cluster
    from gateway.kafka.topics import create as create_topics

    settings = _settings(config)
    created = _run(create_topics(Cluster(settings), settings))
    if as_json:
        typer.echo(json.dumps({"created": created}))
    else:
        typer.echo(f"Created: {', '.join(created)}." if created else "All topics were there already.")


@topics.command(epilog="Example: carillon topics check && echo fine")
def check(config: Config = None, as_json: AsJson = False) -> None:
    """Compare the topics with what the section kafka says. Exit status 1 if one differs."""
    from gateway.kafka.cluster import Cluster
    from gateway.kafka.topics import check as check_topics

    settings = _settings(config)
    findings = _run(check_topics(Cluster(settings), settings))
    if as_json:
        typer.echo(json.dumps({"findings": [finding._asdict() for finding in findings]}))
    else:
        for finding in findings:
            typer.echo(f"{finding.topic} {finding.detail}")
        if not findings:
            typer.echo("All topics are as they should be.")
    if findings:
        raise typer.Exit(BAD_ANSWER)


@dlq.command("list", epilog="Example: carillon dlq list --json | jq -r .id")
def list_letters(config: Config = None, as_json: AsJson = False) -> None:
    """List the dead letters, with their reasons."""

    async def listed() -> list[DeadLetter]:
        return [letter async for letter in _letters(config).all()]

    table = Table("id", "at (UTC)", Column("from", overflow="fold"), "bytes", Column("reason", overflow="fold"))
    for letter in _run(listed()):
        size = len(letter.record.value or b"")
        if as_json:
            typer.echo(json.dumps({**_described(letter), "bytes": size}))
            continue
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(letter.at))
        table.add_row(*map(escape, (letter.id, at, letter.origin, f"{size:,}", letter.reason)))
    if not as_json:
        Console().print(table if table.row_count else "There are no dead letters.")


@dlq.command(epilog="Example: carillon dlq show 3/17")
def show(letter: LetterId, config: Config = None, as_json: AsJson = False) -> None:
    """Show one with its headers. Its content is told as it was sent, tokens included: mind who sees your screen."""
    found = _run(_letters(config).one(letter))
    headers = {name: (value or b"").decode("utf-8", "replace") for name, value in found.record.headers}
    value = (found.record.value or b"").decode("utf-8", "replace")
    if as_json:
        typer.echo(json.dumps({**_described(found), "headers": headers, "value": value}))
        return
    typer.echo(f"{found.id} from {found.origin}: {found.reason}")
    for name, text in headers.items():
        typer.echo(f"{name}: {text}")
    typer.echo(f"\n{value}")


@dlq.command(epilog="Example: carillon dlq replay 3/17")
def replay(letter: LetterId, config: Config = None, as_json: AsJson = False) -> None:
    """Write a dead letter once more to the topic that it came from, after the cause is mended. The letter stays."""
    from gateway.kafka.cluster import Cluster
    from gateway.kafka.deadletters import replay as replay_letter
    from gateway.kafka.producer import Producer

    async def replayed() -> str:
        found = await _letters(config).one(letter)
        settings = _settings(config)
        producer = Producer(Cluster(settings), settings.timeout)
        try:
            return await replay_letter(producer, found)
        finally:
            await producer.close()

    topic = _run(replayed())
    typer.echo(json.dumps({"id": letter, "topic": topic}) if as_json else f"It is in {topic} once more.")


def _letters(config: Path | None) -> DeadLetters:
    from gateway.kafka.cluster import Cluster
    from gateway.kafka.deadletters import DeadLetters
    from gateway.kafka.topics import Topics

    settings = _settings(config)
    return DeadLetters(Cluster(settings), Topics.of(settings.prefix))


def _described(letter: DeadLetter) -> dict[str, Any]:
    return {"id": letter.id, "at": letter.at, "from": letter.origin, "reason": letter.reason}


def _settings(config: Path | None) -> Kafka:
    settings = settings_of(config_path(config), {}).kafka
    if not settings.servers:
        typer.echo("There are no kafka.servers in the configuration: its queue is the embedded one.", err=True)
        raise typer.Exit(WRONG_USE)
    return settings


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    """Errors that say what to do become that sentence and exit status 1."""
    from aiokafka.errors import KafkaError

    from gateway.kafka.cluster import Unreachable
    from gateway.queue.base import QueueError

    try:
        return asyncio.run(work)
    except (QueueError, KafkaError, OSError, TimeoutError) as error:
        told = error if isinstance(error, QueueError) else Unreachable(type(error).__name__)
        typer.echo(str(told), err=True)
        raise typer.Exit(BAD_ANSWER) from None
