"""Which jobs of several records are whole. Every machine reads all seals; there is one for each large job."""

from __future__ import annotations

import asyncio
import time

from aiokafka import TopicPartition

from gateway.kafka.cluster import Cluster
from gateway.kafka.topics import Topics

ABANDONED = 600.0
"""Seconds after which a record without a seal is one of an upload that broke off: the seal follows within moments."""


class Seals:
    """Follows the topic."""

    def __init__(self, cluster: Cluster, topics: Topics) -> None:
        self._cluster = cluster
        self._lane = TopicPartition(topics.seals, 0)
        self._sealed: set[str] = set()
        self._waiting: dict[str, list[asyncio.Future[bool]]] = {}
        self._read_up_to = 0.0
        """UNIX seconds: seals from before then are known."""

    async def wait(self, job_id: str, stored_at: float) -> bool:
        """Wait for a job's seal; False if there is none. `stored_at` is the record's time, UNIX seconds."""
        if self.known(job_id):
            return True
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job_id, []).append(future)
        while self._read_up_to <= stored_at + ABANDONED:
            done, _ = await asyncio.wait([future], timeout=1.0)
            if done:
                return True
        return False

    def known(self, job_id: str) -> bool:
        """Whether a seal was read."""
        return job_id in self._sealed

    async def run(self) -> None:
        """Read for ever."""
        reader = self._cluster.reader()
        await reader.start()
        try:
            reader.assign([self._lane])
            await reader.seek_to_beginning(self._lane)
            end = (await reader.end_offsets([self._lane]))[self._lane]
            while True:
                found = await reader.getmany(timeout_ms=200)
                for records in found.values():
                    for record in records:
                        self._seal(record.key.decode())
                if await reader.position(self._lane) >= end and not found:
                    self._read_up_to = time.time() - 1.0
        finally:
            await reader.stop()

    def _seal(self, job_id: str) -> None:
        self._sealed.add(job_id)
        for future in self._waiting.pop(job_id, []):
            if not future.done():
                future.set_result(True)
