"""A Redis for the tests of this folder, and states on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from gateway.shared.redis import RedisState
from tests.redis_server import RedisServer

Opener = Callable[..., RedisState]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path)
    yield started
    started.kill()


@pytest.fixture
async def machine(server: RedisServer) -> AsyncIterator[Opener]:
    """Makes the state as one more machine has it."""
    states: list[RedisState] = []

    def make(**options: object) -> RedisState:
        states.append(RedisState(server.url, prefix="test", **options))  # type: ignore[arg-type]
        return states[-1]

    yield make
    for state in states:
        await state.close()
