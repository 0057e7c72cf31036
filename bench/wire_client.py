"""`python -m bench.wire_client`: the HTTP/2 client alone in a process of its own, for `bench.wire`.

The only program of `bench` that imports the gateway, and of that nothing but `gateway.http2`. Requests are ready-made
before the clock starts: columns of paths, ids and bodies. What became of each goes into a byte of a column, which is
what a gateway has to do at least.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import resource
import time
import uuid
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from gateway.http2.connection import Requests
from gateway.http2.pool import Address, DialFailure, Pool, tls_context
from gateway.http2.results import Results, Tag
from providers.base import Head

SLICE = 500
"""Requests taken at a time, as the gateway does for APNs."""
TICK = 0.1
REQUEST_TIMEOUT = 15.0
CONNECT_TIMEOUT = 10.0
DEADLINE = 300.0
"""Seconds after which a run whose answers do not come has failed."""

PENDING, ACCEPTED, ANSWERED, UNKNOWN = range(4)

PAYLOAD = (
    b'{"aps":{"alert":{"title":"Running shoes %d is %d%% off","body":"Today only: grab yours before they are gone. '
    b'Free delivery to your door, returns within 30 days."}},"link":"https://shop.example.com/p/A%d",'
    b'"data":{"sku":"A%d","campaign":"autumn-sale"}}'
)
"""What the message of `bench.campaign` becomes for APNs."""


class Prepared:
    """Ready-made requests: distinct device tokens, ids and bodies."""

    def __init__(self, count: int) -> None:
        draw = random.Random(count)
        digits = draw.randbytes(32 * count).hex().encode()
        self.paths = [b"/3/device/" + digits[place : place + 64] for place in range(0, 64 * count, 64)]
        self.ids = [str(uuid.UUID(int=draw.getrandbits(128))).encode() for _ in range(count)]
        self.bodies = [PAYLOAD % (number % 500, 5 + number % 60, number, number) for number in range(count)]

    def __len__(self) -> int:
        return len(self.ids)


class Load:
    """A source of prepared requests, as far as they are offered, and a listener that gives up without connections."""

    def __init__(self, head: Head, prepared: Prepared) -> None:
        self._head = head
        self._prepared = prepared
        self._next = self._stop = self._left = 0
        self._again: list[int] = []
        self.states = bytearray(len(prepared))

    def offer(self, count: int) -> asyncio.Future[None]:
        """Let the next so many requests be taken; the future is done when all of them have their outcome."""
        self._stop += count
        self._left += count
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        return self._done

    @property
    def backlog(self) -> bool:
        return self._next < self._stop or bool(self._again)

    def take(self, streams: int, window: int) -> Requests | None:
        prepared = self._prepared
        count = min(streams, SLICE, max(1, window // len(prepared.bodies[0])))
        if self._again:
            return self._take_again(count)
        start, stop = self._next, min(self._next + count, self._stop)
        if start == stop:
            return None
        self._next = stop
        ids = prepared.ids[start:stop]
        fields = (prepared.paths[start:stop], ids, ids)
        return Requests(self._head, fields, prepared.bodies[start:stop], list(range(start, stop)))

    def _take_again(self, count: int) -> Requests:
        prepared = self._prepared
        indexes, self._again = self._again[:count], self._again[count:]
        ids = [prepared.ids[index] for index in indexes]
        fields = ([prepared.paths[index] for index in indexes], ids, ids)
        return Requests(self._head, fields, [prepared.bodies[index] for index in indexes], [*indexes])

    def give_back(self, tags: list[Tag]) -> None:
        self._again += tags

    def settle(self, results: Results) -> None:
        states = self.states
        for index in results.accepted:
            states[index] = ACCEPTED
        for answer in results.answered:
            states[answer.tag] = ANSWERED
        for index, _ in results.unknown:
            states[index] = UNKNOWN
        self._again += results.unsent
        self._left -= results.settled + len(results.unknown)
        if not self._left and not self._done.done():
            self._done.set_result(None)

    def dialled(self, failure: DialFailure | None) -> None:
        if failure is not None and not self._done.done():
            self._done.set_exception(ConnectionError(failure.detail))

    def goaway(self, code: int, debug: bytes) -> None:
        """Nothing to learn: what was not processed comes back as unsent."""


def main(
    origin: Annotated[str, typer.Option(help="https://host:port")],
    ca_file: Annotated[Path, typer.Option(help="Certificate authority to trust.")],
    count: Annotated[int, typer.Option(min=1, help="Requests counted.")],
    warm_up: Annotated[int, typer.Option(min=1, help="Requests before.")],
    connections: Annotated[int, typer.Option(min=1, help="Most connections.")],
    ledger: Annotated[Path, typer.Option(help="Where to write a line `id state` for each request.")],
) -> None:
    """Send, and print one line of JSON: wall and CPU seconds of the counted requests."""
    measured, outcomes = uvloop.run(_run(origin, ca_file, count, warm_up, connections))
    ledger.write_bytes(outcomes)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**measured, "peak_mib": peak_mib}), flush=True)


async def _run(
    origin: str, ca_file: Path, count: int, warm_up: int, connections: int
) -> tuple[dict[str, float], bytes]:
    prepared = Prepared(warm_up + count)
    load = Load(_head(origin), prepared)
    pool = Pool(
        Address.of(origin),
        tls_context(str(ca_file)),
        load,
        load,
        limit=connections,
        request_timeout=REQUEST_TIMEOUT,
        connect_timeout=CONNECT_TIMEOUT,
    )
    gc.collect()
    gc.freeze()
    await _send(pool, load.offer(warm_up))
    wall, cpu = time.monotonic(), time.process_time()
    await _send(pool, load.offer(count))
    measured = {"wall_seconds": time.monotonic() - wall, "cpu_seconds": time.process_time() - cpu}
    opened = pool.counts().open
    await pool.close(1.0)
    lines = (b"%b %d\n" % outcome for outcome in zip(prepared.ids, load.states, strict=True))
    return {**measured, "connections": opened}, b"".join(lines)


async def _send(pool: Pool, done: asyncio.Future[None]) -> None:
    """See to it that what was offered is sent, and wait until every request has its outcome."""
    loop = asyncio.get_running_loop()
    end = loop.time() + DEADLINE
    pool.wake()
    while not done.done():
        if loop.time() > end:
            raise TimeoutError("the sink stopped answering")
        await asyncio.wait((done,), timeout=TICK)
        pool.tick(loop.time())
    done.result()


def _head(origin: str) -> Head:
    """As of APNs, its provider token included."""
    return Head(
        fixed=(
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":authority", origin.removeprefix("https://").encode()),
            (b"apns-topic", b"com.example.shop"),
            (b"apns-push-type", b"alert"),
            (b"apns-priority", b"5"),
            (b"authorization", b"bearer " + b"e" * 200),
        ),
        literal=(),
        varying=(b":path", b"apns-id", b"apns-collapse-id"),
    )


if __name__ == "__main__":
    typer.run(main)
