"""How the brokers are reached: one place for addresses, encryption and passwords."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from gateway.kafka.assignor import TogetherAssignor
from gateway.queue.base import QueueFull
from gateway.settings import Kafka

REQUEST_MILLISECONDS = 5_000
"""For a broker to answer; one that is gone is noticed after that, if its connection was not closed."""

FETCH_BYTES = 1 << 20
"""Of one partition at a time."""


class Unreachable(QueueFull):
    """The brokers cannot be reached, or do not answer in time. Nothing was stored, as far as is known."""

    def __init__(self, cause: object) -> None:
        super().__init__(f"Kafka does not answer ({cause}): nothing was stored. Try again")


class Cluster:
    """Makes clients; none of them is started."""

    def __init__(self, settings: Kafka) -> None:
        self._settings = settings
        # An outage is hundreds of lines to aiokafka; what it means is said by who asks for something.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        self._common: Mapping[str, Any] = {
            "bootstrap_servers": list(settings.servers),
            "client_id": settings.instance,
            "request_timeout_ms": REQUEST_MILLISECONDS,
            "security_protocol": settings.security,
            "metadata_max_age_ms": 30_000,
            **_encryption(settings),
            **_login(settings),
        }

    def producer(self) -> AIOKafkaProducer:
        """All replicas in sync have what it was told to be stored, once, in order."""
        return AIOKafkaProducer(
            acks="all",
            enable_idempotence=True,
            max_batch_size=FETCH_BYTES,  # with aiokafka's 16 KiB small records cost six times as much
            max_request_size=FETCH_BYTES,
            **self._common,
        )

    def member(self) -> AIOKafkaConsumer:
        """This gateway's place in the group. Commits only what it is told to, see docs/kafka.md."""
        return AIOKafkaConsumer(
            group_id=self._settings.prefix,
            group_instance_id=self._settings.instance,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            partition_assignment_strategy=(TogetherAssignor,),
            session_timeout_ms=int(self._settings.session_timeout * 1000),
            heartbeat_interval_ms=min(3_000, int(self._settings.session_timeout * 1000) // 10),
            rebalance_timeout_ms=int((self._settings.handover + 10) * 1000),
            max_partition_fetch_bytes=FETCH_BYTES,
            **self._common,
        )

    def reader(self, patience: float = 0.5) -> AIOKafkaConsumer:
        """Reads what it is assigned by hand, and belongs to no group.

        `patience` is how many seconds a broker waits for something new; whatever else is asked meanwhile waits too.
        """
        return AIOKafkaConsumer(
            group_id=None,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_wait_ms=int(patience * 1000),
            max_partition_fetch_bytes=FETCH_BYTES,
            **self._common,
        )

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        """A started client for topics.

        Raises:
            Unreachable: no broker answers.
        """
        admin = AIOKafkaAdminClient(**self._common)
        try:
            await admin.start()
            yield admin
        except (KafkaError, OSError, TimeoutError) as error:
            raise Unreachable(type(error).__name__) from error
        finally:
            await admin.close()


def _encryption(settings: Kafka) -> Mapping[str, Any]:
    if settings.security not in ("SSL", "SASL_SSL"):
        return {}
    context = ssl.create_default_context(cafile=settings.ca_file)
    if settings.certificate_file is not None:
        context.load_cert_chain(settings.certificate_file, settings.key_file)
    return {"ssl_context": context}


def _login(settings: Kafka) -> Mapping[str, Any]:
    if not settings.security.startswith("SASL"):
        return {}
    return {
        "sasl_mechanism": settings.mechanism,
        "sasl_plain_username": settings.username,
        "sasl_plain_password": settings.password.get_secret_value(),
    }
