"""`carillon send` and `carillon receipts`: callers of a running gateway."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from gateway.advice import advice
from gateway.client import Client, Page, Refused
from gateway.commands.terminal import BAD_ANSWER, DEFAULT_URL, AsJson, Url, client, say, talking

ROWS_SHOWN = 50
"""Receipts in a table; beyond that, counting them says more. `--json` gives all."""
POLL = 0.2

commands = typer.Typer()


class JobClass(StrEnum):
    """`class` of a job."""

    TRANSACTIONAL = "transactional"
    PROMOTIONAL = "promotional"


@commands.command(
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


@commands.command(epilog="Example: carillon receipts job_018f… --follow --json | jq .state")
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
