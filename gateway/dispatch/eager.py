"""Coroutines that begin at once: a task's first step waits for the loop's next round, and a one-time code with it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any


def start(work: Coroutine[Any, Any, None], spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    """Run a coroutine up to its first wait, and give `spawn` what is left of it, if anything is.

    Until then it is no task's: it can neither be cancelled nor use `asyncio.timeout`.
    """
    try:
        awaited = work.send(None)
    except StopIteration:
        return
    spawn(_go_on(work, awaited))


async def _go_on(work: Coroutine[Any, Any, None], awaited: Any) -> None:
    await _Rest(work, awaited)


class _Rest:
    """What is left of a coroutine that waits for something."""

    def __init__(self, work: Coroutine[Any, Any, None], awaited: Any) -> None:
        self._work = work
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, None]:
        awaited = self._awaited
        try:
            while True:
                try:
                    sent = yield awaited
                except BaseException as error:  # a cancellation, or what was waited for failed: its own business
                    awaited = self._work.throw(error)
                else:
                    awaited = self._work.send(sent)
        except StopIteration:
            return
