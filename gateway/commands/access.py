"""`carillon keys` and `carillon audit`: who may call, and who did what. They work on the queue's file itself.

So they need no key, and no running gateway: whoever may write that file is the machine's operator, for all tenants.
"""

from __future__ import annotations

import getpass
import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import structlog
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from gateway.access.principal import Scope
from gateway.commands.terminal import BAD_ANSWER, AsJson, Config, config_path, refusing, say, settings_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import apsw

    from gateway.access.keys import ApiKey
    from gateway.audit.log import Actor, Detail
    from gateway.settings import Settings

T = TypeVar("T")

_LOG = structlog.get_logger()

keys = typer.Typer(
    no_args_is_help=True,
    help="API keys: who may call the gateway, as which tenant, and what for.",
    epilog="Example: carillon keys create campaigns --scope send --scope read",
)
audit = typer.Typer(
    no_args_is_help=True,
    help="The audit log: who did what to keys, credentials, jobs, parked batches and settings.",
    epilog="Example: carillon audit list --limit 20",
)


@keys.command(epilog="Example: carillon keys create campaigns --tenant acme --scope send --expires 90d")
def create(
    name: Annotated[str, typer.Argument(help="Who calls with it. A name has two keys at a time, to change over.")],
    tenant: Annotated[str, typer.Option(help="Whose apps it is for.")] = "default",
    scopes: Annotated[
        list[Scope] | None, typer.Option("--scope", help="What it is good for; repeatable. All without.")
    ] = None,
    apps: Annotated[list[str] | None, typer.Option("--app", help="An app that it is limited to; repeatable.")] = None,
    expires: Annotated[
        str | None, typer.Option(help="How long it is good, such as 12h or 90d; for ever without.")
    ] = None,
    declare: Annotated[
        bool, typer.Option("--declare", help="Store nothing, and show what to add to every machine's configuration.")
    ] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and show it: this once, as only its hash is kept. A running gateway takes it at once."""
    from gateway.access.keys import KeyRefused, Wish, draw
    from gateway.access.keys import create as make
    from gateway.durations import seconds
    from gateway.queue.base import QueueError

    settings, now = settings_of(config_path(config), {}), time.time()
    _check_names(settings, tenant, apps or ())
    try:
        lifetime = None if expires is None else float(str(seconds(expires)))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--expires") from None
    wish = Wish(tenant, name, tuple(scopes or Scope), apps or None, None if lifetime is None else now + lifetime)
    if declare and lifetime is not None:
        raise typer.BadParameter("a key of the configuration ends when it is taken out of it", param_hint="--expires")
    with refusing(KeyRefused, QueueError):
        if declare:
            drawn = draw(now, _operator(), wish)
            report = {"secret": drawn.secret, "configuration": (block := _block(drawn.key))}
            say(as_json, report, f"{drawn.secret}\nNobody can show it again. In carillon.toml:\n\n{escape(block)}")
            return
        made = _transaction(settings, lambda db: make(db, now, _operator(), wish))
    shown = f"{made.key.id} for {escape(name)} of {escape(tenant)}:\n{made.secret}\nNobody can show it again."
    say(as_json, _report(made.key) | {"secret": made.secret}, shown)


@keys.command("list", epilog="Example: carillon keys list --tenant acme")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="NDJSON: one key a line.")] = False,
) -> None:
    """List keys with their scopes, their ends and when they were last used, to the minute."""
    from gateway.access.keys import all_keys
    from gateway.queue.base import QueueError

    with refusing(QueueError):
        found = _transaction(settings_of(config_path(config), {}), lambda db: all_keys(db, tenant))
    if as_json:
        for key in found:
            typer.echo(json.dumps(_report(key)))
        return
    names = [Column(title, overflow="fold") for title in ("key", "tenant", "name", "scopes", "apps", "made by")]
    table = Table(*names, "last used (UTC)", "state")
    for key in found:
        apps = "all" if key.apps is None else ", ".join(sorted(key.apps))
        cells = (key.id, key.tenant, key.name, ", ".join(sorted(key.scopes)), apps, key.created_by)
        table.add_row(*map(escape, cells), _instant(key.last_used, "never"), _state(key, time.time()))
    Console().print(table if table.row_count else "There is no key: make one with `carillon keys create NAME`.")


@keys.command(epilog="Example: carillon keys revoke key_0198a1b2c3d4e5f6")
def revoke(
    key: Annotated[str, typer.Argument(help="Its id, as `carillon keys list` shows it.")],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """End a key for good. Running workers refuse it within a second."""
    from gateway.access.keys import KeyRefused
    from gateway.access.keys import revoke as end
    from gateway.queue.base import QueueError

    settings = settings_of(config_path(config), {})
    with refusing(KeyRefused, QueueError):
        ended = _transaction(settings, lambda db: end(db, time.time(), _operator(), key))
    say(as_json, _report(ended), f"{key} of {escape(ended.name)} is good for nothing any more.")


@audit.command(
    "list", epilog="Example: carillon audit list --limit 1000 --json | jq 'select(.action == \"key.create\")'"
)
def list_entries(
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="NDJSON: one entry a line, with its hash.")] = False,
) -> None:
    """Show the newest entries, oldest first."""
    import msgspec

    from gateway.audit.log import newest
    from gateway.queue.base import QueueError

    with refusing(QueueError):
        found = _transaction(settings_of(config_path(config), {}), lambda db: newest(db, limit))
    if as_json:
        for entry in found:
            typer.echo(msgspec.json.encode(entry).decode())
        return
    folded = [Column(title, overflow="fold") for title in ("who", "what", "to what", "detail")]
    table = Table("number", "at (UTC)", "tenant", *folded)
    for entry in found:
        detail = ", ".join(f"{key}={value}" for key, value in entry.detail.items() if value is not None)
        cells = (entry.tenant, entry.actor, entry.action, entry.subject, detail)
        table.add_row(str(entry.number), _instant(entry.at, ""), *map(escape, cells))
    Console().print(table if table.row_count else "Nothing has been done yet.")


@audit.command(epilog="Example: carillon audit verify --head 5b1c0a…")
def verify(
    head: Annotated[str, typer.Option(help="A hash that was noted earlier and has to be on the chain.")] = "",
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Follow the chain of hashes through all entries. Exit status 1 if one was changed, removed, added or moved."""
    from gateway.audit.log import verify as follow
    from gateway.queue.base import QueueError

    with refusing(QueueError):
        verdict = _transaction(settings_of(config_path(config), {}), lambda db: follow(db, head))
    whole = f"[green]whole[/green]: {verdict.entries:,} entries. Note the newest hash elsewhere:\n{verdict.head}"
    broken = f"[red]broken[/red] after {verdict.entries:,} entries: {escape(verdict.fault)}"
    say(as_json, {"ok": not verdict.fault, **verdict._asdict()}, broken if verdict.fault else whole)
    if verdict.fault:
        raise typer.Exit(BAD_ANSWER)


# --- what `serve` does before and while it runs


def first_key(settings: Settings) -> None:
    """Make the first key, unless there is one or none is needed, and say so once.

    Raises:
        OSError: it cannot be written into the data folder.
    """
    from gateway.access import first

    if settings.access.open:
        return
    secret = _transaction(settings, lambda db: first.make(db, settings.data, time.time()))
    if secret is not None:
        where = f"The first API key was made: it is in {first.path(settings.data)}, readable for this user alone."
        typer.echo(where + " `carillon send` finds it there.", err=True)
        if sys.stderr.isatty():  # otherwise standard error is a log
            typer.echo(f"  Authorization: Bearer {secret}", err=True)


class SettingsLog:
    """Keeps in the audit log what the gateway runs with: which keys changed, never what they are set to."""

    def __init__(self, settings: Settings) -> None:
        self._last = settings
        self._note(settings, "settings.load", {"apps": sorted(settings.all_apps())})

    def reloaded(self, settings: Settings) -> None:
        """SIGHUP has had these read."""
        self._note(settings, "settings.reload", {"changed": changes(self._last.model_dump(), settings.model_dump())})
        self._last = settings

    def _note(self, settings: Settings, action: str, detail: Detail) -> None:
        from gateway.audit.log import GATEWAY, append
        from gateway.queue.base import QueueError

        try:
            _transaction(settings, lambda db: append(db, time.time(), GATEWAY, action, "settings", detail))
        except QueueError as error:  # a full disk does not keep the gateway from starting
            _LOG.warning("audit.not_written", action=action, reason=str(error))


def changes(former: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[str]:
    """The dotted keys at which two tables differ."""
    changed: list[str] = []
    for key in sorted(former.keys() | now.keys(), key=str):
        before, after = former.get(key), now.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changed += changes(before, after, f"{path}{key}.")
        elif before != after:
            changed.append(f"{path}{key}")
    return changed


# --- what they share


def _block(key: ApiKey) -> str:
    """The key as a table of the configuration."""
    lines = {"name": key.name, "sha256": key.hash.hex(), "tenant": key.tenant, "scopes": sorted(key.scopes)}
    if key.apps is not None:
        lines["apps"] = sorted(key.apps)
    return "\n".join(["[[access.keys]]", *(f"{name} = {json.dumps(value)}" for name, value in lines.items())])


def _operator() -> Actor:
    from gateway.audit.log import Actor

    return Actor("", f"{getpass.getuser()} at the command line")


def _check_names(settings: Settings, tenant: str, apps: Iterable[str]) -> None:
    from gateway.access.names import full_name

    if tenant not in settings.tenant_names():
        raise typer.BadParameter(f"{tenant!r} is not configured; add [tenants.{tenant}] first", param_hint="--tenant")
    for app in apps:
        if full_name(tenant, app) not in settings.all_apps():
            raise typer.BadParameter(f"{app!r} is no app of {tenant}", param_hint="--app")


def _transaction(settings: Settings, operation: Callable[[apsw.Connection], T]) -> T:
    """Run an operation in a transaction of its own, beside a gateway or without one.

    Raises:
        QueueError: nothing was changed.
    """
    import apsw

    from gateway.queue.schema import connect, prepare
    from gateway.queue.writer import sentence

    prepare(settings.queue.path)
    with closing(connect(settings.queue.path)) as db:
        try:
            db.execute("BEGIN IMMEDIATE")
            result = operation(db)
            db.execute("COMMIT")
        except apsw.Error as error:
            raise sentence(error) from None
        return result


def _report(key: ApiKey) -> dict[str, Any]:
    import msgspec

    shown = {name: value for name, value in msgspec.structs.asdict(key).items() if name != "hash"}
    apps = None if key.apps is None else sorted(key.apps)
    return shown | {"scopes": sorted(key.scopes), "apps": apps}


def _state(key: ApiKey, now: float) -> str:
    if key.revoked is not None:
        return "[red]revoked[/red]"
    if not key.live(now):
        return "[red]expired[/red]"
    return "[green]good[/green]" if key.expires is None else f"[green]until {_instant(key.expires, '')}[/green]"


def _instant(at: float | None, otherwise: str) -> str:
    return otherwise if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))
