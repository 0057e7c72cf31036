"""Reads receipts as upstream does: a plain consumer of the topic, which knows nothing of the gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer

RECEIPTS = b"carillon.receipts"


class ReceiptReader:
    """Collects receipts by delivery. The first one counts, as docs/kafka.md tells readers to do."""

    def __init__(self, servers: list[str], topic: str) -> None:
        self._servers = servers
        self._topic = topic
        self.receipts: dict[str, dict[str, Any]] = {}
        self.repeated = 0
        """Receipts of deliveries that had theirs."""
        self.changed = 0
        """Of these, such as told of another state."""
        self._raw: list[bytes] = []
        self.count = 0
        """Deliveries told of, repeated ones included."""

    async def start(self) -> None:
        self._consumer = AIOKafkaConsumer(
            self._topic, bootstrap_servers=self._servers, auto_offset_reset="earliest", enable_auto_commit=False
        )
        await self._consumer.start()

    async def stop(self) -> None:
        await self._consumer.stop()

    async def read(self, timeout: float = 0.5) -> int:
        """Take what has come; how many deliveries it tells of. What they say is looked at by `take_in`."""
        before = self.count
        for records in (await self._consumer.getmany(timeout_ms=int(timeout * 1000))).values():
            for record in records:
                if dict(record.headers).get("ce_type") == RECEIPTS:
                    self._raw.append(record.value)
                    self.count += _size(record.value)
        return self.count - before

    def take_in(self) -> None:
        """Look at what was read."""
        for value in self._raw:
            for receipt in expanded(json.loads(value)):
                former = self.receipts.get(receipt["id"])
                if former is None:
                    self.receipts[receipt["id"]] = receipt
                else:
                    self.repeated += 1
                    self.changed += former["state"] != receipt["state"]
        self._raw.clear()


def expanded(event: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The receipts that an event of many tells of."""
    exceptions = event.get("exceptions", {})
    indexes = event.get("indexes") or range(len(event["recipients"]))
    for place, index in enumerate(indexes):
        yield {
            "id": f"{event['delivery']}{index:04x}",
            "recipient": event["recipients"][place],
            "state": event["state"],
            "at": event["created_at"] + event["milliseconds"][place] / 1000,
            "latency_ms": event["milliseconds"][place],
            **exceptions.get(str(place), {}),
        }


def _size(value: bytes) -> int:
    return len(json.loads(value)["milliseconds"])
