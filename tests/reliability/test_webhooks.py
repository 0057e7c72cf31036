"""A receiver of webhooks takes some messages late, and others never: each receipt is told, or shown as exhausted."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.queue.rows import only
from gateway.queue.sqlite import SqliteQueue
from tests.gateway.webhooks.receiver import Receiver, broken, elsewhere, hangs
from tests.gateway.webhooks.running import Receive, Tell, ended, hasty, queue, receive, tell, until  # noqa: F401
from tests.reliability.conftest import Evidence

ROW = "R26"

_SHOWN = "SELECT count(*) FILTER (WHERE NOT exhausted), coalesce(sum(count), 0) FROM webhook_messages"
"""Messages that are being tried, and the receipts of all that are not taken."""

pytestmark = pytest.mark.timeout(300)


async def test_each_receipt_is_taken_or_shown_as_exhausted(
    queue: SqliteQueue,  # noqa: F811
    tell: Tell,  # noqa: F811
    receive: Receive,  # noqa: F811
    long: bool,
    evidence: Evidence,
) -> None:
    """A receiver that breaks, hangs, redirects and takes, as it likes: nothing is missing, and nothing is made up."""
    count = 20_000 if long else 1_000
    refused: set[str] = set()

    async def moody(receiver: Receiver) -> Any:
        message = receiver.headers[-1]["webhook-id"]
        lot = int(message[-2:], 16)
        if lot < 24:  # never taken
            refused.add(message)
            return await (broken, elsewhere)[lot % 2](receiver)
        if lot < 90 and receiver.requests % 3:
            return await (broken, elsewhere)[lot % 2](receiver)
        if lot == 91 and receiver.requests % 4:
            return await hangs(receiver)
        return None

    receiver = await receive(moody)
    told = await tell(receiver, retry_for=3.0, timeout=1.0)
    ids = await ended(queue, *[min(500, count)] * max(1, count // 500))

    async def settled() -> bool:
        pending, shown = await queue.database.read(lambda db: only(db, _SHOWN))
        return bool(pending == 0 and len(set(receiver.deliveries)) + shown == count)

    await until(settled, 150.0)
    exhausted = (await told.standing()).backlog.exhausted
    assert exhausted >= len(refused)
    assert set(receiver.deliveries) <= set(ids)
    receiver.behave = None
    await told.webhooks.replay("shop", "crm", None)
    await until(lambda: set(receiver.deliveries) == set(ids), 60.0)
    evidence.record(
        f"{count:,} receipts to a receiver that answers 500, redirects, hangs and takes, by lot",
        {
            "receipts": count,
            "requests": receiver.requests,
            "messages_taken": len(set(receiver.ids)),
            "messages_taken_twice": len(receiver.ids) - len(set(receiver.ids)),
            "messages_exhausted_and_replayed": exhausted,
            "missing": len(set(ids) - set(receiver.deliveries)),
        },
    )
