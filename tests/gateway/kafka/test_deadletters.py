"""Dead letters, as an operator sees them and puts them back."""

from __future__ import annotations

import pytest

from bench.kafka import Brokers
from gateway.kafka import topics
from gateway.kafka.cluster import Cluster
from gateway.kafka.deadletters import DeadLetter, DeadLetters, replay
from gateway.kafka.outgoing import ORIGIN_HEADER, REASON_HEADER
from gateway.kafka.producer import Producer, Record
from gateway.kafka.topics import Topics
from gateway.queue.base import QueueError
from tests.kafka_broker import settings


async def listed(letters: DeadLetters) -> list[DeadLetter]:
    return [letter async for letter in letters.all()]


async def test_letters_are_listed_shown_and_put_back(brokers: Brokers) -> None:
    """None at first; then each with its reason; a replay is the record as it was, and the letter stays."""
    chosen = settings(brokers)
    cluster, names = Cluster(chosen), Topics.of(chosen.prefix)
    await topics.create(cluster, chosen)
    letters = DeadLetters(cluster, names)
    assert await listed(letters) == []

    producer = Producer(cluster, 10.0)
    try:
        origin = f"{names.jobs}/1/7".encode()
        headers = [("idempotency-key", b"k"), (REASON_HEADER, b"no JSON"), (ORIGIN_HEADER, origin)]
        await producer.store([Record(names.dead_letters, 1, b"key", b"{", headers)])
        (letter,) = await listed(letters)
        assert (letter.reason, letter.origin) == ("no JSON", origin.decode())
        assert await replay(producer, await letters.one(letter.id)) == names.jobs
    finally:
        await producer.close()

    again = DeadLetters(cluster, names._replace(dead_letters=names.jobs))
    (record,) = [found.record for found in await listed(again)]
    assert (record.partition, record.key, record.value) == (1, b"key", b"{")
    assert list(record.headers) == [("idempotency-key", b"k")]
    assert len(await listed(letters)) == 1


async def test_what_is_not_there_is_said(brokers: Brokers) -> None:
    chosen = settings(brokers)
    letters = DeadLetters(Cluster(chosen), Topics.of(chosen.prefix))
    with pytest.raises(QueueError, match="carillon topics create"):
        await listed(letters)
    await topics.create(Cluster(chosen), chosen)
    with pytest.raises(QueueError, match="no dead letter 0/5"):
        await letters.one("0/5")
