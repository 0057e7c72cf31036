"""The embedded queue keeps what `Queue` promises."""

from __future__ import annotations

from tests.gateway.queue.contract import QueueContract


class TestSqliteContract(QueueContract):
    pass
