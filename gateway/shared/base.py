"""What machines share at speed, and what they may do without it.

Names of apps, jobs and keys are opaque here: whoever calls has scoped them to their tenant. Everything is small and
short-lived next to the queue, and none of it is the only record of a notification.

While the state cannot be reached, every method raises `SharedUnavailable` within its deadline. What may be guessed is
guessed by the caller: rates go on with a fair share (`RateBudgets.members`), a target that is not known to be dead is
taken for alive. What may not be guessed is refused: a request with an idempotency key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from gateway.model import Route
from gateway.queue.base import DeadTarget, Idempotency, QueueError, Replay, Twin


class SharedUnavailable(QueueError):
    """The shared state cannot be reached, or did not answer in time: nothing is known of what was asked."""


class Orphan(NamedTuple):
    """Whoever began with this key fell silent before it settled or released it, and the asker holds it now.

    Whether the job was sealed only the queue can find out: if it was, `settle` it, otherwise `release` it and begin
    with another job. Everybody else is told `Twin` meanwhile.
    """

    job_id: str


class Ask(NamedTuple):
    """What one process wants of a budget for the next moments."""

    name: str
    """Of the budget: the same on all machines."""
    rate: float
    """Tokens a second, over all machines. Whoever asks last sets it."""
    want: int
    """Tokens to take."""
    back: int = 0
    """Tokens that were leased before and are given back unused."""


class RateBudgets(Protocol):
    """Token buckets that all processes of all machines draw on."""

    members: int
    """How many processes take part, as last known; 0 if it never was. The fair share of a rate is one part of so
    many."""

    async def lease(self, asks: Sequence[Ask]) -> list[int]:
        """Take tokens of several budgets in one round trip, and count as a member for some seconds.

        Returns:
            For each what it got: at most what it wants, and its fair part while others want more than there is.
            The tokens are its own; whether they are used is nobody else's concern.
        """


class SharedState(RateBudgets, Protocol):
    """See the module's docstring. Instants are UNIX seconds, spans are seconds."""

    async def open(self) -> None:
        """Get ready. An unreachable state is no error: it is looked for until it is there."""

    async def close(self) -> None:
        """Let go of everything."""

    # Idempotency: a key is free, in flight (its holder is silent for at most half a minute), or settled for 24 hours.

    async def begin(self, job_id: str, idempotency: Idempotency) -> Replay | Twin | Orphan | None:
        """Hold a key for a job. None: it is held until `settle` or `release`, as long as this process lives.

        Asked again for the same job, it says whether the key is still held, and by whom if not: to be done before the
        job is sealed, as this process may have slept.
        """

    async def settle(self, job_id: str, idempotency: Idempotency, answer: bytes) -> None:
        """Keep the answer for repeats; `idempotency` has the whole request's fingerprint now.

        Raises:
            LeaseLost: another holder has the key by now.
        """

    async def release(self, job_id: str, key: str) -> None:
        """Free a key, unless it was settled or another holder has it."""

    # Cancellations

    async def cancel(self, job_id: str, until: float) -> None:
        """Tell everybody of a cancelled job, also who starts later, until nothing of it can be left."""

    async def cancelled(self, after: int) -> tuple[int, list[str]]:
        """Ids of jobs cancelled since cursor `after` (0: all that are remembered), and the next cursor. At most
        1,000 at once: ask again until there are none."""

    # Dead targets

    async def add_dead(self, route: Route, dead: Sequence[DeadTarget]) -> None:
        """Keep what a service said of targets of this route's app and provider; the latest word counts."""

    async def dead_targets(self, route: Route, keys: Sequence[bytes]) -> dict[bytes, DeadTarget]:
        """Which of these targets are known to be dead. A batch's keys cost one look at a filter in memory; what it
        lets through is asked for. Another machine's word is known within a second."""
