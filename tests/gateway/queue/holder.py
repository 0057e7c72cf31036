"""A worker process for tests: `python -m tests.gateway.queue.holder PATH OWNER TASK`.

hold: lease everything, mark some deliveries, say so, and wait for a signal.
upload: begin a job and put batches, say so, and wait for a signal.
drain: lease and complete until nothing is left, and print how many deliveries that was.
"""

from __future__ import annotations

import asyncio
import sys

from gateway.model import State
from gateway.queue.base import Idempotency
from gateway.queue.sqlite import SqliteQueue
from tests.gateway.queue.samples import NOW, batch, job, room


async def hold(queue: SqliteQueue) -> None:
    for lease in await queue.lease(room(), NOW):
        lease.progress.states[0] = State.SENT
        lease.progress.states[1] = State.ACCEPTED
        lease.progress.states[2] = State.REJECTED
    await _wait()


async def upload(queue: SqliteQueue) -> None:
    new = job()
    await queue.begin(new, Idempotency("key", b""))
    await queue.put(new.id, [batch(), batch()])
    await _wait()


async def drain(queue: SqliteQueue) -> None:
    ended = 0
    while leases := await queue.lease(room(batches=4), NOW):
        for lease in leases:
            lease.progress.states[:] = bytes([State.ACCEPTED]) * lease.count
            ended += lease.count
        await asyncio.gather(*(queue.complete(lease, [], NOW) for lease in leases))
    print(ended, flush=True)


async def _wait() -> None:
    print("ready", flush=True)
    await asyncio.sleep(60)


async def main() -> None:
    path, owner, task = sys.argv[1:]
    queue = SqliteQueue(path, owner=owner)
    await queue.open()
    await {"hold": hold, "upload": upload, "drain": drain}[task](queue)
    await queue.close()


asyncio.run(main())
