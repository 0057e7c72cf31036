"""`carillon serve`, and its workers."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from gateway.commands.access import SettingsLog, first_key
from gateway.commands.terminal import Config, config_path, refusing, settings_of

if TYPE_CHECKING:
    from gateway.settings import Settings

_log = structlog.get_logger()

commands = typer.Typer()


@commands.command(epilog="Example: carillon serve --config carillon.toml --workers 2")
def serve(
    config: Config = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; instead of `workers` of the file.")] = None,
) -> None:
    """Run the gateway until SIGTERM or Ctrl-C; a second one ends it at once.

    It stops taking jobs, waits for what is in flight (20 seconds at most) and leaves the rest in the queue. SIGHUP
    reads the settings anew and replaces the workers one after the other, without a gap for callers.
    """
    from resource import RLIMIT_CORE, setrlimit

    from gateway.access.rates import clear as clear_rates
    from gateway.credentials import CredentialsError, CredentialStore
    from gateway.credentials.vault import VaultError, find
    from gateway.listener import bind, require_parser
    from gateway.observe import logs
    from gateway.observe.cells import SlotTaken, clear
    from gateway.queue.base import QueueError
    from gateway.queue.schema import prepare

    config, over = config_path(config), {} if workers is None else {"CARILLON_WORKERS": str(workers)}
    settings = settings_of(config, over)
    with refusing(CredentialsError, SlotTaken, QueueError, VaultError, OSError):
        CredentialStore(settings.blocks())  # the workers load them again; here all errors are told once
        clear(settings.data / "metrics")
        require_parser()
        setrlimit(RLIMIT_CORE, (0, 0))  # of us and our workers: memory holds keys, targets and messages
        clear_rates(settings.data)
        find(settings.credentials, os.environ)
        prepare(settings.queue.path)
        first_key(settings)
        settings.http.tls()
        listeners = bind(settings.http.host, settings.http.port)
    logs.configure(settings.observe.log_level, settings.observe.log_format)
    noted = SettingsLog(settings)
    raise typer.Exit(_supervise(settings, config, listeners, lambda: _renewed(settings, config, over, noted)))


def _supervise(
    settings: Settings, config: Path | None, listeners: Sequence[socket.socket], renew: Callable[[], str | None]
) -> int:
    from gateway.observe.cells import SUPERVISOR, SlotTaken
    from gateway.observe.metrics import Metrics
    from gateway.supervisor import Supervisor
    from gateway.systemd import notify

    inherited = [part for each in listeners for part in ("--listener", str(each.fileno()))]

    def command(worker: int, line: int) -> list[str]:
        numbers = ["--worker", str(worker), "--workers", str(settings.workers), "--parent", str(line), *inherited]
        file = ["--config", str(config)] if config is not None else []
        return [sys.executable, "-m", "gateway", "worker", *file, *numbers]

    with refusing(SlotTaken, OSError):
        metrics = Metrics(settings.data / "metrics", SUPERVISOR)
    with closing(metrics), ExitStack() as stack:
        for each in listeners:
            stack.enter_context(each)
        supervisor = Supervisor(
            command,
            settings.workers,
            listeners=listeners,
            renew=renew,
            restarted=metrics.worker_restarted,
            tell=notify,
        )
        return asyncio.run(supervisor.run())


def _renewed(former: Settings, config: Path | None, over: Mapping[str, str], noted: SettingsLog) -> str | None:
    """What is wrong with the settings as they are by now, for workers to be replaced by; None if nothing is."""
    from gateway.credentials import CredentialsError, CredentialStore
    from gateway.queue.base import QueueError
    from gateway.settings import SettingsError, load

    try:
        settings = load(config, {**os.environ, **over})
        CredentialStore(settings.blocks())
        settings.http.tls()
        if problem := _unchangeable(former, settings):
            return problem
        first_key(settings)
    except (SettingsError, CredentialsError, QueueError, OSError) as error:
        return str(error)
    noted.reloaded(settings)
    return None


def _unchangeable(former: Settings, settings: Settings) -> str | None:
    """What workers share with the parent, or with each other, changes for all at once or not at all."""
    keys = {
        "workers": (former.workers, settings.workers),
        "http.host": (former.http.host, settings.http.host),
        "http.port": (former.http.port, settings.http.port),
        "queue.path": (former.queue.path, settings.queue.path),
        "kafka": (former.kafka, settings.kafka),
        "redis": (former.redis, settings.redis),
    }
    changed = [key for key, (before, now) in keys.items() if before != now]
    return f"{', '.join(changed)} can only be changed by a restart" if changed else None


@commands.command(hidden=True)
def worker(
    worker: Annotated[int, typer.Option()],
    workers: Annotated[int, typer.Option()],
    parent: Annotated[int, typer.Option(help="A file descriptor: the line to the parent.")],
    listeners: Annotated[list[int], typer.Option("--listener", help="A file descriptor: a socket to accept from.")],
    config: Config = None,
) -> None:
    """One of the processes of `serve`, which starts it."""
    import uvloop

    from gateway.app import run_worker
    from gateway.credentials.vault import VaultError
    from gateway.listener import inherited
    from gateway.observe import logs
    from gateway.observe.cells import SlotTaken
    from gateway.queue.base import QueueError
    from gateway.settings import SettingsError
    from gateway.supervisor import Parent

    line = Parent(parent)
    settings = settings_of(config, {"CARILLON_WORKERS": str(workers)})
    logs.configure(settings.observe.log_level, settings.observe.log_format, worker=worker)
    with refusing(SettingsError, SlotTaken, QueueError, VaultError, OSError):
        try:
            uvloop.run(run_worker(settings, worker, inherited(listeners), line.say_ready, line.say_alive))
        except ExceptionGroup:
            # A defect of ours: told in the log, redacted as everything there, and the parent starts another worker.
            _log.error("worker.failed", worker=worker, exc_info=True)
            raise typer.Exit(1) from None
