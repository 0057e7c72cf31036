"""A rate over three processes on a real Redis, of which one is killed; and without the Redis."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests.redis_server import RedisServer

RATE = 6000.0
WARM = 1.5
"""Seconds until all have begun: imports, connections, and the first bucket, which is full."""


class Spender:
    """One process, and what it sent when."""

    def __init__(self, server: RedisServer) -> None:
        command = [sys.executable, "-m", "tests.gateway.shared.spender", server.url, str(RATE)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.sent: list[tuple[float, int]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n"):
                at, count = line.split()
                self.sent.append((float(at), int(count)))

    def between(self, start: float, end: float) -> int:
        return sum(count for at, count in self.sent if start <= at < end)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def spenders(server: RedisServer) -> Iterator[list[Spender]]:
    started = [Spender(server) for _ in range(3)]
    deadline = time.monotonic() + 30.0
    while not all(spender.sent for spender in started):
        assert time.monotonic() < deadline, "they do not start"
        time.sleep(0.05)
    time.sleep(WARM)
    yield started
    for spender in started:
        spender.kill()


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--long"))


def test_three_keep_to_one_rate_also_while_one_is_killed(spenders: list[Spender], long: bool) -> None:
    """Within 2 % over a minute. Over seconds, what a bucket and the slices may catch up or lose weighs more."""
    seconds = 60.0 if long else 3.0
    start = time.monotonic()
    time.sleep(seconds / 2)
    spenders[0].kill()
    time.sleep(seconds / 2)
    end = time.monotonic()
    time.sleep(0.2)
    sent = [spender.between(start, end) for spender in spenders]
    assert sum(sent) / (end - start) == pytest.approx(RATE, rel=0.02 if long else 0.1), sent
    assert min(sent[1:]) > 0.6 * max(sent[1:]), "shares are fair"


def test_without_redis_each_keeps_to_its_third(server: RedisServer, spenders: list[Spender]) -> None:
    server.kill()
    time.sleep(1.0)
    start = time.monotonic()
    time.sleep(2.0)
    end = time.monotonic()
    time.sleep(0.2)
    for spender in spenders:
        assert spender.between(start, end) / (end - start) == pytest.approx(RATE / 3, rel=0.1)
