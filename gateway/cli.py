"""The command line: serve, send, receipts, parked, credentials, webhooks, keys, audit, doctor, backup, simulate, demo
and version.

Exit status: 0 it is done; 1 it was done and the answer is bad (a finding of `doctor`, a notification not accepted);
2 the command or the configuration is wrong; 3 no gateway answers. `serve`: see `gateway.supervisor`.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from enum import StrEnum
from http import HTTPStatus
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from gateway.access_commands import SettingsLog, audit, first_key, keys
from gateway.advice import advice
from gateway.client import Client, Page, Refused
from gateway.credential_commands import commands as credential_commands
from gateway.kafka_commands import dlq, topics
from gateway.terminal import (
    BAD_ANSWER,
    DEFAULT_URL,
    AsJson,
    Config,
    Url,
    client,
    config_path,
    refusing,
    say,
    settings_of,
    talking,
)
from gateway.webhook_commands import commands as webhook_commands

if TYPE_CHECKING:
    from gateway.settings import Settings

ROWS_SHOWN = 50
"""Receipts in a table; beyond that, counting them says more. `--json` gives all."""
POLL = 0.2

_log = structlog.get_logger()
app = typer.Typer(
    name="carillon",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,  # their frames show local variables, and with them secrets
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Carillon: a push delivery gateway for APNs, FCM and Web Push.",
    epilog="Exit status: 0 done; 1 done, but the answer is bad; 2 wrong command or settings; 3 no gateway answers.",
)


class JobClass(StrEnum):
    """`class` of a job."""

    TRANSACTIONAL = "transactional"
    PROMOTIONAL = "promotional"


def main() -> None:
    """The entry point of `carillon` and `python -m gateway`."""
    app()


# --- the gateway itself


@app.command(epilog="Example: carillon serve --config carillon.toml --workers 2")
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
    from gateway.observe.cells import SlotTaken
    from gateway.observe.metrics import clear
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
    from gateway.observe.cells import SlotTaken
    from gateway.observe.metrics import SUPERVISOR, Metrics
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


@app.command(hidden=True)
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


# --- callers of a running gateway


@app.command(
    epilog="Example: carillon send --app shop --provider apns --token 00fc13ad… --title Hello --body 'It works' --wait"
)
def send(
    app_name: Annotated[str, typer.Option("--app", help="The app, as configured.")],
    provider: Annotated[str, typer.Option(help="apns, fcm or webpush.")],
    token: Annotated[str | None, typer.Option(help="APNs device token or FCM registration token.")] = None,
    subscription: Annotated[
        str | None, typer.Option(help="Web Push: the browser's subscription as JSON, or @FILE that holds it.")
    ] = None,
    title: Annotated[str | None, typer.Option()] = None,
    body: Annotated[str | None, typer.Option()] = None,
    image: Annotated[str | None, typer.Option(help="URL of a picture.")] = None,
    link: Annotated[str | None, typer.Option(help="URL to open on tap.")] = None,
    data: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="For the app itself; repeatable.")] = None,
    ttl: Annotated[str | None, typer.Option(help="How long it is worth sending, such as 30s, 15m or 6h.")] = None,
    job_class: Annotated[JobClass, typer.Option("--class", help="Which lane it takes.")] = JobClass.TRANSACTIONAL,
    url: Url = DEFAULT_URL,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the push service's answer.")] = False,
    timeout: Annotated[float, typer.Option(help="With --wait: seconds at most.")] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Send one notification by hand, through a running gateway, and say what became of it.

    Exit status 0: accepted by the gateway or, with --wait, by the push service. 1: not accepted, or no answer in time.
    """
    message = {"title": title, "body": body, "image": image, "link": link, "data": _pairs(data or [])}
    recipient = {"id": "by-hand", "provider": provider, **_target(token, subscription)}
    job = {
        "app": app_name,
        "class": job_class.value,
        "message": {key: value for key, value in message.items() if value},
        "recipients": [recipient],
        **({"ttl": ttl} if ttl else {}),
    }
    with talking(as_json):
        caller = client(url)
        answer = caller.submit(job)
        receipt = _await_receipt(caller, answer["job"], timeout) if wait else None
    if receipt is None and not wait:
        see = f"carillon receipts {answer['job']} --url {url}"
        say(as_json, answer, f"[green]Taken[/green] as {answer['job']}. What became of it: {see}")
        return
    shown = receipt or {"job": answer["job"], "state": "pending"}
    say(as_json, shown, _sentence(shown))
    if shown["state"] != "accepted":
        raise typer.Exit(BAD_ANSWER)


def _await_receipt(caller: Client, job_id: str, timeout: float) -> dict[str, Any] | None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            if found := caller.receipts(job_id).receipts:
                return found[0]
        except Refused as error:
            if error.status != HTTPStatus.NOT_FOUND:  # over Kafka a job can be seen some moments after it was taken
                raise
        if time.monotonic() > deadline:
            return None
        time.sleep(POLL)


def _sentence(receipt: Mapping[str, Any]) -> str:
    state, reason = receipt["state"], receipt.get("reason", "")
    colour = {"accepted": "green", "pending": "yellow"}.get(state, "red")
    cause = f" ({escape(reason)})" if reason else ""
    return f"[{colour}]{state}[/{colour}]{cause}: {escape(advice(state, reason))}"


def _pairs(texts: Iterable[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--data")
        pairs[key] = value
    return pairs


def _target(token: str | None, subscription: str | None) -> dict[str, Any]:
    if (token is None) == (subscription is None):
        raise typer.BadParameter("give either --token (APNs, FCM) or --subscription (Web Push)", param_hint="--token")
    if subscription is None:
        return {"token": token}
    try:
        text = Path(subscription[1:]).read_text("utf-8") if subscription.startswith("@") else subscription
        return {"subscription": json.loads(text)}
    except (OSError, ValueError) as error:
        detail = "it is JSON as `JSON.stringify(subscription)` gives it, or @FILE"
        raise typer.BadParameter(f"{type(error).__name__}: {detail}", param_hint="--subscription") from None


@app.command(epilog="Example: carillon receipts job_018f… --follow --json | jq .state")
def receipts(
    job: Annotated[str, typer.Argument(help="The job's id, as the gateway gave it.")],
    url: Url = DEFAULT_URL,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is finished.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="NDJSON: one receipt a line.")] = False,
) -> None:
    """Show the receipts of a job: one for each delivery that has ended."""
    rows: list[dict[str, Any]] = []
    counts: dict[tuple[str, str], int] = {}
    with talking(as_json):
        for page in _pages(client(url), job, follow):
            rows += page.receipts[: ROWS_SHOWN - len(rows)]
            for receipt in page.receipts:
                key = (receipt["provider"], receipt["state"])
                counts[key] = counts.get(key, 0) + 1
                if as_json:
                    typer.echo(json.dumps(receipt))
    if not as_json:
        _show_receipts(rows, counts)


def _pages(caller: Client, job_id: str, follow: bool) -> Iterable[Page]:
    cursor = None
    while True:
        page = caller.receipts(job_id, cursor)
        cursor = page.cursor
        yield page
        if page.finished or not (follow or page.receipts):
            return
        if not page.receipts:
            time.sleep(POLL)


def _show_receipts(rows: list[dict[str, Any]], counts: Mapping[tuple[str, str], int]) -> None:
    console = Console()
    total = sum(counts.values())
    if not total:
        console.print("No delivery of this job has ended yet.")
        return
    if total <= ROWS_SHOWN:
        table = Table("recipient", "provider", "state", "reason", "attempts", Column("delivery", overflow="fold"))
        for row in rows:
            cells = (row["recipient"], row["provider"], row["state"], row.get("reason", ""), row.get("attempts", 1))
            table.add_row(*(escape(str(cell)) for cell in (*cells, row["id"])))
        console.print(table)
    summary = Table("provider", "state", "deliveries", title=f"{total:,} receipts")
    for (provider, state), count in sorted(counts.items()):
        summary.add_row(provider, state, f"{count:,}")
    console.print(summary)
    if total > ROWS_SHOWN:
        console.print("Each of them: --json")


# --- looking after it

parked = typer.Typer(
    no_args_is_help=True,
    help="Batches that nobody sends any more, because process after process died with them. They stay until they are "
    "replayed, purged or cancelled, or their job expires.",
    epilog="Example: carillon parked list",
)
app.add_typer(parked, name="parked")
app.add_typer(credential_commands, name="credentials")
app.add_typer(keys, name="keys")
app.add_typer(webhook_commands, name="webhooks")
app.add_typer(audit, name="audit")
app.add_typer(topics, name="topics")
app.add_typer(dlq, name="dlq")

BatchId = Annotated[str, typer.Argument(metavar="BATCH", help="Its id, as `carillon parked list` shows it.")]


@parked.command("list", epilog="Example: carillon parked list --json | jq -r .id")
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


@parked.command(epilog="Example: carillon parked show 0198a1b2-c3d4-7e5f-8a6b-7c8d9e0f0000")
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


@parked.command(epilog="Example: carillon parked replay 0198a1b2-c3d4-7e5f-8a6b-7c8d9e0f0000")
def replay(batch: BatchId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Send a parked batch once more, from where it was. One more death parks it again."""
    with talking(as_json):
        answer = client(url).replay(batch)
    see = f"carillon receipts {answer['job']} --url {url}"
    say(as_json, answer, f"It is queued again. What became of it: {see}")


@parked.command(epilog="Example: carillon parked purge 0198a1b2-c3d4-7e5f-8a6b-7c8d9e0f0000")
def purge(batch: BatchId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """End a parked batch: receipts say `dead_lettered`, or `unknown` where it may have reached its device."""
    with talking(as_json):
        answer = client(url).purge(batch)
    say(as_json, answer, f"It has ended. Its receipts: carillon receipts {answer['job']} --url {url}")


@app.command(epilog="Example: carillon doctor --config carillon.toml")
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


@app.command(epilog="Example: carillon backup /backups/carillon-2026-11-22.db")
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


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    epilog="Example: carillon simulate --folder /tmp/simulators --services apns,fcm",
)
def simulate(context: typer.Context) -> None:
    """Run simulators of APNs, FCM and Web Push, for tests of one's own. Takes the options of `bench.simulators`."""
    from bench.simulators.__main__ import main as run

    program = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    program.command()(run)
    program(context.args, prog_name="carillon simulate")


@app.command(epilog="Example: carillon demo --count 100000 --kill")
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


@app.command()
def version(as_json: AsJson = False) -> None:
    """Say which version this is, and of what it is made."""
    names = ("carillon", "aiohttp", "apsw", "cryptography", "uvloop")
    versions = {name: installed_version(name) for name in names} | {"python": sys.version.split()[0]}
    parts = ", ".join(f"{name} {number}" for name, number in versions.items() if name != "carillon")
    say(as_json, versions, f"carillon {versions['carillon']} ({parts})")
