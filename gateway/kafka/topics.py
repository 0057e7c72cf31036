"""The topics: what they are called, how they have to be, making them and looking at them.

Partition p of each belongs together (see `records`), so all have the same number but that of the seals, which every
machine reads whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, for_code

from gateway.kafka.cluster import Cluster
from gateway.model import Lane
from gateway.queue.base import QueueError
from gateway.settings import Kafka

_EXISTS = 36
_UNKNOWN_TOPIC = 3


class Topics(NamedTuple):
    """Their names."""

    jobs: str
    """What upstream submits."""
    transactional: str
    promotional: str
    """Batches, by class: neither stands in the other's way."""
    seals: str
    progress: str
    receipts: str
    invalid_tokens: str
    dead_letters: str

    @classmethod
    def of(cls, prefix: str) -> Topics:
        names = ("jobs", "batches.transactional", "batches.promotional", "seals", "progress", "receipts")
        return cls(*(f"{prefix}.{name}" for name in (*names, "invalid-tokens", "dead-letters")))

    def batches(self, lane: Lane) -> str:
        """Where the batches of a class are."""
        return self.transactional if lane is Lane.TRANSACTIONAL else self.promotional

    @property
    def work(self) -> tuple[str, str, str]:
        """What the group consumes; the first leads, see `assignor`."""
        return self.transactional, self.promotional, self.jobs


class Wanted(NamedTuple):
    """How a topic has to be."""

    name: str
    partitions: int
    replication: int
    configs: dict[str, str]


class Finding(NamedTuple):
    """What is wrong with a topic, and what to do."""

    topic: str
    detail: str


def wanted(settings: Kafka) -> list[Wanted]:
    """All topics as these settings want them."""
    topics = Topics.of(settings.prefix)
    common = {"min.insync.replicas": str(settings.min_insync), "unclean.leader.election.enable": "false"}
    kept = common | {"cleanup.policy": "delete", "retention.ms": str(int(settings.retention * 1000))}
    # Small segments, so that what is over leaves soon: compaction never looks at the newest one.
    compacted = common | {
        "cleanup.policy": "compact",
        "segment.bytes": str(16 << 20),
        "segment.ms": "600000",
        "delete.retention.ms": "3600000",
        "min.cleanable.dirty.ratio": "0.3",
    }
    return [
        Wanted(
            name,
            1 if name == topics.seals else settings.partitions,
            settings.replication,
            compacted if name in (topics.progress, topics.invalid_tokens) else kept,
        )
        for name in topics
    ]


async def create(cluster: Cluster, settings: Kafka) -> list[str]:
    """Make the topics that are missing, and say which.

    Raises:
        QueueError: the brokers are out of reach, or refuse.
    """
    created = []
    async with cluster.admin() as admin:
        answer = await admin.create_topics(
            [
                NewTopic(name, partitions, replication, None, configs)
                for name, partitions, replication, configs in wanted(settings)
            ],
            timeout_ms=30_000,
        )
        for name, code, *_ in answer.topic_errors:
            if code == 0:
                created.append(name)
            elif code != _EXISTS:
                raise QueueError(f"the topic {name} cannot be made: {_words(code)}")
    return created


def _words(code: int) -> str:
    error = for_code(code)
    return f"{error.__name__} ({error.description})"


async def check(cluster: Cluster, settings: Kafka) -> list[Finding]:
    """What of the topics is not as these settings want them.

    Raises:
        QueueError: the brokers are out of reach.
    """
    async with cluster.admin() as admin:
        return [finding async for finding in _findings(admin, settings)]


async def _findings(admin: AIOKafkaAdminClient, settings: Kafka):  # type: ignore[no-untyped-def]
    topics = {topic.name: topic for topic in wanted(settings)}
    described = {each["topic"]: each for each in await admin.describe_topics(list(topics))}
    present = []
    for name, topic in topics.items():
        found = described.get(name)
        if found is None or found["error_code"] == _UNKNOWN_TOPIC:
            yield Finding(name, "does not exist: run `carillon topics create`")
            continue
        present.append(name)
        for finding in _shape(topic, found):
            yield finding
    for name, configs in (await _configs(admin, present)).items():
        for key, value in topics[name].configs.items():
            if configs.get(key) != value:
                yield Finding(name, f"has {key}={configs.get(key)}, and {value} is wanted: kafka-configs.sh changes it")


def _shape(topic: Wanted, found: dict) -> Iterator[Finding]:  # type: ignore[type-arg]
    partitions = len(found["partitions"])
    if partitions != topic.partitions:
        yield Finding(topic.name, f"has {partitions} partitions, and kafka.partitions says {topic.partitions}")
    replicas = min((len(each["replicas"]) for each in found["partitions"]), default=0)
    if replicas < topic.replication:
        yield Finding(topic.name, f"has {replicas} replicas, and kafka.replication says {topic.replication}")


async def _configs(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names])
    return {
        name: {entry[0]: entry[1] for entry in entries}
        for answer in answers
        for _, _, _, name, entries in answer.resources
    }


__all__ = ["Finding", "KafkaError", "Topics", "Wanted", "check", "create", "wanted"]
