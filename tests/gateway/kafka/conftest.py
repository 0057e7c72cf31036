"""Queues on a real Kafka."""

from __future__ import annotations

from tests.kafka_broker import brokers

__all__ = ["brokers"]
