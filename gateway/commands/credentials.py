"""`carillon credentials`: the keys and certificates of a running gateway, changed without a gap and with a way back."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.commands.terminal import BAD_ANSWER, DEFAULT_URL, AsJson, Url, client, say, talking

POLL = 0.5
"""Seconds between looks at a rotation that is waited for."""

AT_WORK = ("canary",)

commands = typer.Typer(
    no_args_is_help=True,
    help="Keys and certificates of a running gateway: add one, have its service prove it, let it sign a share of the "
    "notifications, then all; go back whenever you like. docs/credentials.md has the whole of it.",
    epilog="Example: carillon credentials add shop apns --key AuthKey_ABC123DEFG.p8",
)

Number = Annotated[str, typer.Argument(metavar="NUMBER", help="As `carillon credentials list` shows it.")]
Wait = Annotated[bool, typer.Option("--wait", help="Until it signs everything, or was taken back.")]


@commands.command("list", epilog="Example: carillon credentials list --json | jq '.[] | select(.state == \"active\")'")
def list_credentials(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the credentials. Nothing shows their secrets."""
    with talking(as_json):
        found = client(url).credentials()
    if as_json:
        typer.echo(json.dumps(found))
        return
    table = Table("no.", "of", "state", "fingerprint", "key", "ends", "trouble")
    for row in found:
        state = f"{row['state']} {row['share']:.0%}" if row["share"] else row["state"]
        ends = _day(row["expires_at"]) if row["expires_at"] else ""
        cells = (row["id"], f"{row['app']}/{row['provider']}", state, row["fingerprint"], row["key_id"][:12], ends)
        table.add_row(*map(escape, (*cells, row["trouble"])))
    Console().print(table if table.row_count else "No credential is configured.")


@commands.command(epilog="Example: carillon credentials add shop apns --key AuthKey_ABC123DEFG.p8")
def add(
    app: Annotated[str, typer.Argument(help="The app, as configured.")],
    provider: Annotated[str, typer.Argument(help="apns, fcm or webpush.")],
    key: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="apns: the .p8 file.")] = None,
    key_id: Annotated[str | None, typer.Option(help="apns: the key's id; by default that of AuthKey_ID.p8.")] = None,
    team_id: Annotated[str | None, typer.Option(help="apns: the team's id; by default that of the settings.")] = None,
    certificate: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="apns: instead of a key, the certificate, PEM.")
    ] = None,
    certificate_key: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="apns: its key, if it is not in the same file.")
    ] = None,
    service_account: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="fcm: the account's key file, JSON.")
    ] = None,
    vapid_key: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="webpush: the private key, PEM or base64url.")
    ] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Hand in a credential. It is checked and stored encrypted, and signs nothing yet."""
    files = {
        "key": key,
        "certificate": certificate,
        "certificate_key": certificate_key,
        "service_account": service_account,
        "vapid_key": vapid_key,
    }
    material = {name: path.read_text() for name, path in files.items() if path is not None}
    named = re.fullmatch(r"AuthKey_([A-Z0-9]{10})\.p8", key.name) if key is not None else None
    names = {"key_id": key_id or (named and named[1]), "team_id": team_id}
    material |= {name: value for name, value in names.items() if value}
    if not material:
        raise typer.BadParameter("give the files of the credential: --key, --certificate, --service-account, …")
    with talking(as_json):
        added = client(url).add_credential(app, provider, material)
    _tell(as_json, added, f"next: carillon credentials rotate {added['id']}")


@commands.command(epilog="Example: carillon credentials probe 482913")
def probe(number: Number, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Ask its service whether it takes it. No device notices. Exit status 1: it does not."""
    _step("probe", number, url, as_json)


@commands.command(epilog="Example: carillon credentials rotate 482913 --wait")
def rotate(number: Number, url: Url = DEFAULT_URL, wait: Wait = False, as_json: AsJson = False) -> None:
    """Probe it, then let it sign 1 %, 10 % and all of the notifications, or go back by itself."""
    with talking(as_json):
        found = client(url).credential_step(number, "rotate")
        while wait and found["state"] in AT_WORK:
            time.sleep(POLL)
            found = next(row for row in client(url).credentials() if row["id"] == number)
    _tell(as_json, found, "see how it goes: carillon credentials list")


@commands.command(epilog="Example: carillon credentials promote 482913")
def promote(number: Number, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Let it sign everything now. The one before is kept for a while, to go back to."""
    _step("promote", number, url, as_json)


@commands.command(epilog="Example: carillon credentials rollback 482913")
def rollback(number: Number, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Take a canary, or the active one, out. The one before signs again."""
    _step("rollback", number, url, as_json)


@commands.command(epilog="Example: carillon credentials retire 482913")
def retire(number: Number, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Forget its secret, of one that is not at work."""
    _step("retire", number, url, as_json)


@commands.command(epilog="Example: carillon credentials history --json | jq -c 'select(.step == \"rolled_back\")'")
def history(
    url: Url = DEFAULT_URL,
    as_json: Annotated[bool, typer.Option("--json", help="NDJSON: one step a line.")] = False,
) -> None:
    """What happened to the credentials, oldest first."""
    table = Table("when (UTC)", "no.", "of", "step", "state", "by", "why")
    with talking(as_json):
        cursor = None
        while (page := client(url).credential_history(cursor))["steps"]:
            cursor = page["cursor"]
            for step in page["steps"]:
                if as_json:
                    typer.echo(json.dumps(step))
                    continue
                cells = (step["id"], f"{step['app']}/{step['provider']}", step["step"], step["state"], step["by"])
                table.add_row(_moment(step["at"]), *map(escape, (*cells, step["detail"])))
    if not as_json:
        Console().print(table)


def _step(step: str, number: str, url: str, as_json: bool) -> None:
    with talking(as_json):
        found = client(url).credential_step(number, step)
    _tell(as_json, found, "")


def _tell(as_json: bool, row: Mapping[str, Any], then: str) -> None:
    about = f"credential {row['id']} of {row['app']}/{row['provider']} ({row['fingerprint']}) is {row['state']}"
    why = f": {row['trouble']}" if row["trouble"] else f"; {then}" if then else ""
    say(as_json, row, escape(about + why + "."))
    if row["state"] == "broken":
        raise typer.Exit(BAD_ANSWER)


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at))
