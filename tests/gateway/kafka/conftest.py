"""Queues on a real Kafka."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench.kafka import Brokers
from gateway.kafka import topics
from gateway.kafka.cluster import Cluster
from tests.gateway.kafka.machines import Machines
from tests.kafka_broker import brokers, settings

__all__ = ["brokers"]


@pytest.fixture
async def machines(tmp_path: Path, brokers: Brokers) -> AsyncIterator[Machines]:
    ours = settings(brokers, session_timeout=6.0, handover=2.0)
    await topics.create(Cluster(ours), ours)
    made = Machines(ours, tmp_path)
    yield made
    for queue in made.running:
        await queue.close()
