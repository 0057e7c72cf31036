"""Campaigns as a caller makes them: a job's first line and a line per recipient (NDJSON)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from bench.simulators.subscriptions import PATH
from bench.simulators.targets import targets

MESSAGE = {
    "title": "{{product}} is {{pct}}% off",
    "body": "Today only: grab yours before they are gone. Free delivery to your door, returns within 30 days.",
    "link": "https://shop.example.com/p/{{sku}}",
    "data": {"sku": "{{sku}}", "campaign": "autumn-sale"},
}
"""Rendered for APNs, some 270 bytes."""


class Recipients(NamedTuple):
    """Prepared lines and how their ledger is kept."""

    lines: list[bytes]
    keys: dict[str, str | None]
    """Recipient -> key in its service's journal, see `Ledger.accepted`."""


def job(message: Mapping[str, Any] = MESSAGE, **fields: Any) -> bytes:
    """A job's first line; `class` is spelt `class_`."""
    document = {"app": "shop", "class": "promotional", "campaign": "autumn-sale", "message": dict(message)}
    document |= {name.rstrip("_"): value for name, value in fields.items()}
    return json.dumps(document).encode()


def recipients(
    provider: str, count: int, *, seed: int = 0, start: int = 0, name: str = "", endpoints: Sequence[str] = ()
) -> Recipients:
    """Recipients with distinct targets and variables; arguments as of `simulators.targets`."""
    members = targets(provider, count, seed, start=start, name=name, endpoints=endpoints)
    lines, keys = [], {}
    for number, member in enumerate(members, start):
        recipient = f"{provider}-{seed}-{name}{number}"
        lines.append(
            b'{"id":"%b","provider":"%b",%b,"vars":{"product":"Running shoes %d","pct":%d,"sku":"A%d"}}\n'
            % (recipient.encode(), provider.encode(), member, number % 500, 5 + number % 60, number)
        )
        keys[recipient] = _journal_key(provider, member)
    return Recipients(lines, keys)


def _journal_key(provider: str, member: bytes) -> str | None:
    """As the simulators' journals name it: APNs and the stub know the delivery id, which only the receipt tells."""
    if provider == "fcm":
        return member[len(b'"token":"') : -1].decode()
    if provider == "webpush":
        start = member.index(PATH.encode())
        return member[start : member.index(b'"', start)].decode()
    return None


def chunks(head: bytes, lines: Sequence[bytes], size: int = 500) -> Iterable[bytes]:
    """The body of a streamed upload, in portions of some 100 KB."""
    yield head + b"\n"
    for start in range(0, len(lines), size):
        yield b"".join(lines[start : start + size])
