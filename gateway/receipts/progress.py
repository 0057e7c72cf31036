"""How far jobs have come, counted anew only where that may have changed.

A caller who waits for a job asks again and again, most often while its last few batches wait for a retry. So what is
in batches that have ended, which nothing changes any more, is counted once.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import NamedTuple

import apsw

from gateway.model import TERMINAL_STATES, State
from gateway.queue.rows import every, only
from gateway.queue.schema import BatchState, JobState
from gateway.receipts.states import PENDING, JobStatus

JOBS_KEPT = 64
"""Of those asked for last; a job of a million deliveries takes some 90 KiB, one of ten million 1 MiB."""

_ACCEPTED = bytes([State.ACCEPTED])
_OTHERS = tuple(state for state in TERMINAL_STATES if state is not State.ACCEPTED)

_BATCHES = """
SELECT group_concat(sequence) FILTER (WHERE state = :done), coalesce(sum(count) FILTER (WHERE state = :parked), 0),
    min(finished)
FROM batches WHERE job = :job
"""
"""In one row: the interpreter is let go for each, and is not had back at once where a campaign is sent."""

_GOING = """
SELECT b.state, r.states FROM batches b JOIN receipts r USING (sequence) WHERE b.job = :job AND b.state != :done
"""

_RECEIPTS = "SELECT states FROM json_each(?) JOIN receipts ON sequence = value"


class JobRow(NamedTuple):
    """What a job's row says of it: `COLUMNS`."""

    app: str
    number: int
    lane: int
    created: float
    state: int
    deliveries: int
    finished: float | None


COLUMNS = ", ".join(JobRow._fields)


class _Ended(NamedTuple):
    """A job's batches that have ended, as far as they were counted."""

    sequences: set[str]
    counts: Counter[str]


class JobsProgress:
    """To be asked in one thread, within a snapshot."""

    def __init__(self) -> None:
        self._ended: OrderedDict[str, _Ended] = OrderedDict()

    def status(self, db: apsw.Connection, job_id: str, job: JobRow) -> JobStatus:
        of_job = {"job": job.number, "done": BatchState.DONE}
        done, parked, first_finished = only(db, _BATCHES, {**of_job, "parked": BatchState.PARKED})
        counts = Counter(self._ended_of(db, job_id, set(done.split(",")) if done else set()))
        going = every(db, _GOING, of_job)
        counts.update(_count(b"".join([states for _, states in going])))
        parked -= _count(b"".join([states for state, states in going if state == BatchState.PARKED])).total()
        pending = job.deliveries - counts.total()
        whole = job.finished is not None and pending == 0  # with Kafka, the rest may be another machine's
        return JobStatus(
            id=job_id,
            app=job.app,
            lane=job.lane,
            created_at=job.created,
            cancelled=job.state == JobState.CANCELLED,
            finished=whole,
            total=job.deliveries,
            parked=parked,
            counts={PENDING: pending, **{each.word: counts[each.word] for each in TERMINAL_STATES}},
            first_finished_at=first_finished,
            finished_at=job.finished if whole else None,
        )

    def _ended_of(self, db: apsw.Connection, job_id: str, done: set[str]) -> Counter[str]:
        """What is in these batches, which have ended."""
        ended = self._ended.setdefault(job_id, _Ended(set(), Counter()))
        self._ended.move_to_end(job_id)
        if len(self._ended) > JOBS_KEPT:
            self._ended.popitem(last=False)
        fresh = done - ended.sequences
        columns = every(db, _RECEIPTS, (f"[{','.join(fresh)}]",))  # one by one, a million took 9 ms instead of 2.4
        ended.counts.update(_count(b"".join([states for (states,) in columns])))
        ended.sequences.update(fresh)
        return ended.counts


def _count(states: bytes) -> Counter[str]:
    """Receipts by state."""
    others = states.translate(None, _ACCEPTED)  # to count each state in all of them took three times as long
    found = {state.word: others.count(state) for state in _OTHERS}
    return Counter({State.ACCEPTED.word: len(states) - len(others), **found})
