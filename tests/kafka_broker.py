"""A broker for the tests of this process, and topics of a test's own on it."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.kafka import Brokers
from bench.processes import Missing
from gateway.settings import Kafka


@pytest.fixture(scope="session")
def brokers() -> Iterator[Brokers]:
    """One broker. Without Java there is none, and one loud line; never so where CI is set."""
    shared = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="carillon-kafka-", dir=shared) as folder:
        try:
            running = Brokers(Path(folder))
        except Missing as missing:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"NO TEST OF KAFKA IS RUN HERE: {missing}")
        with running:
            yield running


def settings(brokers: Brokers, **values: object) -> Kafka:
    """Topics that nobody else has."""
    return Kafka(
        servers=tuple(brokers.servers),
        **{
            "prefix": f"t-{uuid.uuid4().hex[:12]}",
            "instance": "one",
            "partitions": 2,
            "replication": 1,
            "min_insync": 1,
            **values,
        },  # type: ignore[arg-type]
    )
