"""What a run has to be able to show when it is over."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from bench.ledger import ON_THE_WIRE, Balance, Ledger
from gateway.receipts.states import Receipt
from tests.simulation.jobs import Submission
from tests.simulation.services import Taking
from tests.simulation.worker import Worker

if TYPE_CHECKING:
    from tests.simulation.world import World

PROMPT = 10.0
"""Seconds in which an answer is read while nothing is amiss: later, a request has been given up."""

TOLD = 15.0
"""Seconds in which every worker knows of a cancellation."""

PAGE = 50


class Told(NamedTuple):
    """What the gateway says of a run, read as callers read it."""

    receipts: list[Receipt]
    invalid: dict[str, str]
    """Target -> reason."""


async def ask(worker: Worker, job_ids: list[str]) -> Told:
    receipts: list[Receipt] = []
    for job_id in job_ids:
        cursor, finished = 0, False
        while not finished:
            page = await worker.receipts.receipts(job_id, cursor, PAGE)
            if page is None:
                break
            receipts += page.receipts
            cursor, finished = page.cursor, page.finished
            assert page.receipts or finished, f"{job_id} has no further receipts and is not finished"
    invalid = await worker.receipts.invalid_tokens("shop", 0, 10_000)
    return Told(receipts, {token.key: token.reason for token in invalid.tokens})


def judge(world: World, told: Told) -> Balance:
    """Hold the three sides against each other; what is wrong goes to `world.problems`."""
    ledger, journal = Ledger(), world.journal
    stored = {receipt.job for receipt in told.receipts}
    owed = dict(world.accepted) | {job: each for job, each in world.unanswered.items() if job in stored}
    targets: dict[str, str] = {}
    for submission in owed.values():
        targets |= submission.targets
    resend = {each.job.id: bool(each.job.resend_unknown) for each in owed.values()}
    ledger.accepted(targets)
    for receipt in told.receipts:
        ledger.receipt({"id": receipt.id, "recipient": receipt.recipient, "state": receipt.state})
        _check_receipt(world, receipt, targets[receipt.recipient], resend[receipt.job])
    ledger.taken({key: len(takings) for key, takings in journal.takings.items()})
    for key, takings in journal.takings.items():
        _check_repeats(world, key, takings)
    ledger.duplicates_bound = sum(
        not _heard(world, taking) for takings in journal.takings.values() for taking in takings
    )
    _check_order(world, owed)
    for target in told.invalid.keys() - journal.dead:
        world.problems.append(f"{target} is alive and was invalidated")
    balance = ledger.balance()
    if not balance.clean:
        world.problems.append(f"the ledger is not clean: {balance}")
    return balance


def _check_receipt(world: World, receipt: Receipt, target: str, resend: bool) -> None:
    takings = world.journal.takings.get(target, [])
    if _concealed(receipt, takings):
        world.problems.append(f"{target} was taken {len(takings)} times and its receipt conceals it: {receipt}")
    if len(takings) > 1 and not resend:
        world.problems.append(f"{target} was taken {len(takings)} times, and its job wants no resending")
    cancelled_at = world.cancelled.get(receipt.job, math.inf)
    if any(taking.sent_at > cancelled_at + TOLD and taking.sent_by.steady for taking in takings):
        world.problems.append(f"{target} was sent long after its job was cancelled at {cancelled_at:.3f}")
    if world.faults.calm and receipt.unanswered:
        world.problems.append(f"nothing was lost on the way, and the receipt says {receipt}")
    if receipt.state == "invalid_token" and target not in world.journal.dead:
        world.problems.append(f"{receipt.recipient} is alive and its receipt says {receipt}")
    if takings and receipt.state not in ON_THE_WIRE:
        world.problems.append(f"{target} was taken and its receipt says {receipt}")
    if receipt.state == "accepted" and (target in world.journal.dead or target in world.journal.bad):
        world.problems.append(f"{receipt.recipient} was never taken and its receipt says {receipt}")
    if receipt.provider == "apns" and any(taking.apns_id != receipt.id for taking in takings):
        world.problems.append(f"{receipt.recipient} was sent under another id than {receipt.id}")


def _concealed(receipt: Receipt, takings: list[Taking]) -> bool:
    """Whether a receipt tells of less than was sent.

    Who dies or sleeps takes along what it noted and had not stored, but never all of it: the flight recorder tells of
    one try without an answer, however many there were. Only where it tells of acceptance nothing else matters.
    """
    accepted = receipt.state == "accepted"
    if all(taking.sent_by.steady for taking in takings):
        return len(takings) > receipt.unanswered + accepted
    if accepted and not takings[-1].sent_by.steady:
        return False
    return len(takings) > accepted and not receipt.unanswered


def _check_order(world: World, owed: Mapping[str, Submission]) -> None:
    """Of jobs with one ordering key nothing of a later one is sent before all of the earlier one has ended."""
    last: dict[str, tuple[float, str]] = {}
    for job_id in world.sealed:
        if job_id not in owed or (key := owed[job_id].job.ordering_key) is None:
            continue
        targets = owed[job_id].targets.values()
        takings = [taking.sent_at for target in targets for taking in world.journal.takings.get(target, ())]
        if not takings:
            continue
        latest, before = last.get(key, (0.0, ""))
        if min(takings) < latest:
            world.problems.append(f"{job_id} was sent at {min(takings):.3f}, {before} before it at {latest:.3f}: {key}")
        last[key] = max((latest, before), (max(takings), job_id))


def _heard(world: World, taking: Taking) -> bool:
    """Whether its sender certainly read the answer, and had a say."""
    told_at = taking.told_at
    if told_at is None or told_at - taking.sent_at > PROMPT:
        return False
    return not any(
        window.start <= told_at and taking.sent_at <= window.end and window.of in (None, taking.sent_by)
        for window in world.windows
    )


def _check_repeats(world: World, key: str, takings: list[Taking]) -> None:
    """Nothing is sent again once its answer was heard."""
    heard = [taking.told_at for taking in takings if taking.told_at is not None and _heard(world, taking)]
    if not heard:
        return
    for taking in takings:
        if taking.sent_at > min(heard):
            world.problems.append(
                f"{key} was sent by {taking.sent_by.name} at {taking.sent_at:.3f}, although its acceptance was heard "
                f"at {min(heard):.3f}"
            )
