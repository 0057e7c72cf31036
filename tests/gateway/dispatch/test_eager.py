"""A coroutine that begins at once goes on as a task would."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from gateway.dispatch import eager


class Spawned:
    """Makes tasks of what is left."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []

    def __call__(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))


async def test_what_never_waits_is_done_at_once() -> None:
    done, spawned = [], Spawned()

    async def work() -> None:
        done.append(True)

    eager.start(work(), spawned)
    assert done
    assert not spawned.tasks


async def test_what_waits_goes_on_in_a_task() -> None:
    spawned, future, seen = Spawned(), asyncio.get_running_loop().create_future(), []

    async def work() -> None:
        seen.append("begun")
        await asyncio.sleep(0)
        seen.append(await future)
        await asyncio.sleep(1.0)
        seen.append("slept")

    eager.start(work(), spawned)
    assert seen == ["begun"]
    (task,) = spawned.tasks
    await asyncio.sleep(0.5)
    future.set_result("told")
    await task
    assert seen == ["begun", "told", "slept"]


async def test_a_future_that_is_done_before_the_task_begins_is_not_missed() -> None:
    spawned, future, seen = Spawned(), asyncio.get_running_loop().create_future(), []

    async def work() -> None:
        seen.append(await future)

    eager.start(work(), spawned)
    future.set_result("told")
    await spawned.tasks[0]
    assert seen == ["told"]


async def test_errors_reach_whoever_waits() -> None:
    spawned, future = Spawned(), asyncio.get_running_loop().create_future()

    async def work() -> None:
        with pytest.raises(KeyError):
            await future
        raise OSError("its own")

    eager.start(work(), spawned)
    future.set_exception(KeyError("inside"))
    with pytest.raises(OSError, match="its own"):
        await spawned.tasks[0]


async def test_a_cancellation_reaches_the_coroutine() -> None:
    spawned, cleaned = Spawned(), []

    async def work() -> None:
        try:
            await asyncio.sleep(100.0)
        finally:
            cleaned.append(True)

    eager.start(work(), spawned)
    await asyncio.sleep(1.0)
    spawned.tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await spawned.tasks[0]
    assert cleaned
