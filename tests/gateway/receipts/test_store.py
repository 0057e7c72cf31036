"""Receipts are read from the queue's columns: each once, in the order of their storing, until their time is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.model import INDEX_DIGITS, Job, Note, Route, State, delivery_prefix
from gateway.queue.base import DeadTarget, Idempotency, Lease, Replay
from gateway.queue.sqlite import SqliteQueue
from gateway.receipts import progress
from gateway.receipts import store as rules
from gateway.receipts.states import InvalidToken, JobStatus, Page, Receipt
from gateway.receipts.store import ReceiptStore
from tests.gateway.queue.samples import FCM, NOW, batch, job, room, stored


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[SqliteQueue]:
    queue = SqliteQueue(tmp_path / "queue.db", owner="test")
    await queue.open()
    yield queue
    await queue.close()


@pytest.fixture
def store(queue: SqliteQueue) -> ReceiptStore:
    return ReceiptStore(queue.database)


async def leased(queue: SqliteQueue) -> Lease:
    (lease,) = await queue.lease(room(batches=1), NOW)
    return lease


def answer(lease: Lease, *states: State) -> None:
    lease.progress.states[: len(states)] = bytes(states)


async def finished(queue: SqliteQueue, *sizes: int, at: float = NOW, app: str = "shop") -> Job:
    """A job of batches that are all accepted."""
    new = await stored(queue, *(batch(size, Route(app, "apns")) for size in sizes), app=app)
    for _ in sizes:
        lease = await leased(queue)
        answer(lease, *[State.ACCEPTED] * lease.count)
        await queue.complete(lease, [], at)
    return new


async def page_of(store: ReceiptStore, new: Job, after: int = 0, limit: int = 1000) -> tuple[list[Receipt], int, bool]:
    page = await store.receipts(new.id, after, limit)
    assert page is not None
    return page


async def test_a_receipt(queue: SqliteQueue, store: ReceiptStore) -> None:
    """A receipt says who, what, why, how often and when."""
    put = batch(2)
    new = await stored(queue, put)
    lease = await leased(queue)
    answer(lease, State.ACCEPTED, State.REJECTED)
    lease.progress.milliseconds[1] = 1500
    lease.progress.notes[1] = Note("BadTopic", 3, "their-id", unanswered=1)
    await queue.complete(lease, [], NOW + 2)
    receipts, _, done = await page_of(store, new)
    prefix = delivery_prefix(put.id)
    assert done
    assert receipts == [
        Receipt(prefix + "0000", new.id, "user-0", "shop", "apns", "accepted", at=NOW),
        Receipt(prefix + "0001", new.id, "user-1", "shop", "apns", "rejected", "BadTopic", 3, 1, "their-id", NOW + 1.5),
    ]


async def test_each_receipt_once(queue: SqliteQueue, store: ReceiptStore) -> None:
    """However pages and checkpoints fall, following the cursor yields each receipt once and ends with the job."""
    new = await stored(queue, batch(5), batch(4, FCM))
    first, second = await queue.lease(room(), NOW)
    seen: list[str] = []
    cursor, done = 0, False

    async def follow() -> None:
        nonlocal cursor, done
        for _ in range(10):
            receipts, cursor, done = await page_of(store, new, cursor, 2)
            seen.extend(receipt.id for receipt in receipts)
            if not receipts:
                return
        pytest.fail("there is no end of it")

    await follow()
    answer(first, State.PENDING, State.ACCEPTED, State.SENT, State.REJECTED, State.EXPIRED)
    await queue.checkpoint(first, [], NOW)
    await follow()
    assert (len(seen), done) == (3, False)
    answer(second, *[State.ACCEPTED] * 4)
    await queue.complete(second, [], NOW)
    await queue.checkpoint(first, [], NOW)
    await follow()
    assert (len(seen), done) == (7, False)
    answer(first, State.ACCEPTED, State.ACCEPTED, State.UNKNOWN)
    await queue.complete(first, [], NOW)
    await follow()
    assert (len(seen), len(set(seen)), done) == (9, 9, True)
    receipts, _, done = await page_of(store, new)
    assert ([receipt.id for receipt in receipts], done) == (seen, True)


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 9, 10])
async def test_pages_of_any_size(queue: SqliteQueue, store: ReceiptStore, limit: int) -> None:
    """A page holds as many as asked for; the last one says that it is."""
    new = await finished(queue, 4, 1, 4)
    sizes, cursor, done = [], 0, False
    for _ in range(20):
        receipts, cursor, done = await page_of(store, new, cursor, limit)
        sizes.append(len(receipts))
        if done:
            break
    assert sum(sizes) == 9
    assert sizes[:-1] == [limit] * (len(sizes) - 1)
    assert await page_of(store, new, cursor, limit) == ([], cursor, True)


async def test_the_feed_of_all_jobs(queue: SqliteQueue, store: ReceiptStore) -> None:
    """Receipts of all jobs, in the order of their storing."""
    first, second = await finished(queue, 2), await finished(queue, 1)
    page = await store.feed(0, 2)
    assert [receipt.job for receipt in page.receipts] == [first.id, first.id]
    page = await store.feed(page.cursor, 10)
    assert [receipt.job for receipt in page.receipts] == [second.id]
    last = await store.feed(page.cursor, 10)
    assert last.receipts == []
    assert not last.finished, "it never is"


async def walk(store: ReceiptStore, after: int, limit: int) -> list[tuple[int, Page]]:
    """Pages of the app `shop` up to one that is the last so far, and where each begins."""
    pages: list[tuple[int, Page]] = []
    while not pages or not pages[-1][1].finished:
        start = pages[-1][1].cursor if pages else after
        pages.append((start, await store.feed_of_app("shop", start, limit)))
        assert len(pages) < 20
    return pages


async def test_the_feed_of_an_app(queue: SqliteQueue, store: ReceiptStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own receipts, each once. One look goes through so many changes at most, and the next one goes on there."""
    monkeypatch.setattr(rules, "CHANGES_AT_ONCE", 2)
    assert [page.receipts for _, page in await walk(store, 0, 2)] == [[]]
    await finished(queue, 3, 1)
    await finished(queue, 1, 1, 1, 1, app="bank")
    await finished(queue, 2)
    pages = await walk(store, 0, 2)
    assert [len(page.receipts) for _, page in pages] == [2, 2, 0, 0, 2]
    seen = [receipt for _, page in pages for receipt in page.receipts]
    assert {receipt.app for receipt in seen} == {"shop"}
    assert len({receipt.id for receipt in seen}) == 6
    ((end, last),) = await walk(store, pages[-1][1].cursor, 2)
    assert last == ([], end, True)
    new = await finished(queue, 1)
    ((_, page),) = await walk(store, end, 2)
    assert [receipt.job for receipt in page.receipts] == [new.id]


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_what_was_told_can_be_read_again(queue: SqliteQueue, store: ReceiptStore, limit: int) -> None:
    """Whoever kept the places in the feed gets what was between them, and nothing that came later."""
    await finished(queue, 3, 2)
    pages = await walk(store, 0, limit)
    await finished(queue, 2)
    for start, page in pages:
        assert await store.receipts_between("shop", start, page.cursor, limit) == page.receipts
    whole = [receipt for _, page in pages for receipt in page.receipts]
    assert await store.receipts_between("shop", 0, pages[-1][1].cursor, 100) == whole
    assert await store.receipts_between("bank", 0, pages[-1][1].cursor, 100) == []


async def test_whose_a_job_is(queue: SqliteQueue, store: ReceiptStore) -> None:
    """Of jobs that do not exist, are not sealed, or were abandoned, nothing is said."""
    ours, theirs, unsealed = await stored(queue, batch()), await finished(queue, 1, app="bank"), job()
    await queue.begin(unsealed, None)
    jobs = (ours.id, theirs.id, unsealed.id, "job_unknown")
    assert [await store.app_of(job_id) for job_id in jobs] == ["shop", "bank", None, None]


async def test_a_job_is_not_finished_before_its_work_is_gone(queue: SqliteQueue, store: ReceiptStore) -> None:
    """Every delivery has its receipt, but one batch is in somebody's hands: that is when nothing more is to come."""
    new = await stored(queue, batch(2))
    lease = await leased(queue)
    answer(lease, State.ACCEPTED, State.REJECTED)
    await queue.checkpoint(lease, [], NOW)
    status = await store.job(new.id)
    assert status is not None
    assert (status.counts["pending"], status.finished, status.finished_at) == (0, False, None)
    receipts, _, done = await page_of(store, new)
    assert (len(receipts), done) == (2, False)


async def test_a_job_is_not_finished_while_others_have_the_rest(queue: SqliteQueue, store: ReceiptStore) -> None:
    """Of a job that came here in part, this store does not know the rest."""
    new = job()
    await queue.admit(new, [batch(3)], total=10, offered=False)
    lease = await leased(queue)
    answer(lease, *[State.ACCEPTED] * 3)
    await queue.complete(lease, [], NOW + 1)
    status = await store.job(new.id)
    assert status is not None
    assert (status.total, status.counts["accepted"], status.counts["pending"]) == (10, 3, 7)
    assert (status.finished, status.finished_at, status.first_finished_at) == (False, None, NOW + 1)
    receipts, _, done = await page_of(store, new)
    assert (len(receipts), done) == (3, False)


async def test_status(queue: SqliteQueue, store: ReceiptStore) -> None:
    """Counts name each state; what has no receipt is pending, on the wire or not."""
    new = await stored(queue, batch(4), batch(2, FCM), batch(1))
    first, second, _ = await queue.lease(room(), NOW)
    answer(first, State.ACCEPTED, State.SENT, State.REJECTED)
    await queue.checkpoint(first, [], NOW)
    answer(second, *[State.ACCEPTED] * second.count)
    await queue.complete(second, [], NOW + 7)
    status = await store.job(new.id)
    assert status is not None
    assert {state: count for state, count in status.counts.items() if count} == {
        "pending": 7 - 2 - second.count,
        "accepted": 1 + second.count,
        "rejected": 1,
    }
    assert set(status.counts) == {state.word for state in State if state is not State.SENT}
    assert (status.total, status.finished, status.cancelled) == (7, False, False)
    assert (status.first_finished_at, status.finished_at) == (NOW + 7, None)


async def test_status_asked_again_and_again(queue: SqliteQueue, store: ReceiptStore) -> None:
    """What came since it was asked for is counted, in batches that go on and in those that ended."""
    new = await stored(queue, batch(3), batch(2))
    first, second = sorted(await queue.lease(room(), NOW), key=lambda lease: -lease.count)
    seen = []
    for lease, states in [(first, [State.ACCEPTED]), (second, [State.REJECTED] * 2), (first, [State.ACCEPTED] * 3)]:
        answer(lease, *states)
        await (queue.complete if len(states) == lease.count else queue.checkpoint)(lease, [], NOW)
        status = await store.job(new.id)
        assert status is not None
        assert status == await ReceiptStore(queue.database).job(new.id)  # which was never asked before
        seen.append((status.counts["accepted"], status.counts["rejected"], status.counts["pending"], status.finished))
    assert seen == [(1, 0, 4, False), (1, 2, 2, False), (3, 2, 0, True)]


async def test_status_for_those_who_may_see_it(queue: SqliteQueue, store: ReceiptStore) -> None:
    """A job of another's app is as unknown as one that does not exist."""
    new = await finished(queue, 1, app="bank")
    assert await store.job(new.id, lambda app: app == "shop") is None
    assert await store.job(new.id, lambda app: app == "bank") == await store.job(new.id)


async def test_only_the_jobs_asked_for_last_are_remembered(
    queue: SqliteQueue, store: ReceiptStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any number of jobs can be asked for, in any order."""
    monkeypatch.setattr(progress, "JOBS_KEPT", 1)
    jobs = [await finished(queue, 1, 2), await finished(queue, 4)]
    totals = [status.counts["accepted"] for new in jobs * 2 if (status := await store.job(new.id)) is not None]
    assert totals == [3, 4, 3, 4]


async def test_status_of_the_parked(queue: SqliteQueue, store: ReceiptStore) -> None:
    """Of parked batches, what has its receipt is not counted as parked; of others nothing is."""
    new = await stored(queue, batch(5), batch(3, FCM), batch(7))
    first, second, third = sorted(await queue.lease(room(), NOW), key=lambda lease: lease.count)
    answer(second, State.ACCEPTED, State.SENT, State.REJECTED)
    answer(third, State.ACCEPTED)
    for lease in (first, second, third):
        await queue.checkpoint(lease, [], NOW)
    parked = (first.sequence, second.sequence)
    await queue.database.write(lambda db: db.execute("UPDATE batches SET state = 8 WHERE sequence IN (?, ?)", parked))
    status = await store.job(new.id)
    assert status is not None
    assert status.parked == 3 + (5 - 2)
    assert status.counts["pending"] == 15 - 3


async def test_deliveries_of_others_are_not_there(queue: SqliteQueue, store: ReceiptStore) -> None:
    """Whoever may not see an app learns nothing of its ids, not even that they exist."""
    ours, theirs = batch(2), batch(2)
    await stored(queue, ours)
    await stored(queue, theirs, app="bank")
    ids = [delivery_prefix(each.id) + digits.decode() for each in (ours, theirs) for digits in INDEX_DIGITS[:2]]
    assert list(await store.deliveries(ids, lambda app: app == "shop")) == ids[:2]
    assert await store.deliveries(ids, lambda app: False) == {}
    assert list(await store.deliveries(ids)) == ids


async def test_status_of_the_finished(queue: SqliteQueue, store: ReceiptStore) -> None:
    """A finished job says when its last batch ended."""
    new = await finished(queue, 1, 1, at=NOW + 3)
    assert await store.job(new.id) == JobStatus(
        id=new.id,
        app="shop",
        lane=new.lane,
        created_at=NOW,
        cancelled=False,
        finished=True,
        total=2,
        parked=0,
        counts={state.word: 2 * (state is State.ACCEPTED) for state in State if state is not State.SENT},
        first_finished_at=NOW + 3,
        finished_at=NOW + 3,
    )


async def test_a_cancelled_job(queue: SqliteQueue, store: ReceiptStore) -> None:
    """Every delivery of a cancelled job gets a receipt, without waiting for its due time."""
    new = await stored(queue, batch(3), batch(2), deliver_at=NOW + 1e6)
    await queue.cancel(new.id, NOW + 1)
    status = await store.job(new.id)
    assert status is not None
    assert (status.cancelled, status.finished, status.counts["cancelled"]) == (True, True, 5)
    receipts, _, done = await page_of(store, new)
    assert ({receipt.state for receipt in receipts}, len(receipts), done) == ({"cancelled"}, 5, True)


async def test_cancelling_the_finished_changes_nothing(queue: SqliteQueue, store: ReceiptStore) -> None:
    """What is over cannot be taken back, and does not say so."""
    new = await finished(queue, 1)
    before = await store.job(new.id)
    assert await queue.cancel(new.id, NOW + 1)
    assert await store.job(new.id) == before


async def test_unknown_jobs(queue: SqliteQueue, store: ReceiptStore) -> None:
    """Nothing is said of jobs that do not exist, are not sealed, or were abandoned."""
    new = job()
    await queue.begin(new, None)
    await queue.put(new.id, [batch()])
    for job_id in (new.id, "job_unknown"):
        assert await store.job(job_id) is None
        assert await store.receipts(job_id, 0, 10) is None
    await queue.abandon(new.id)
    assert await store.job(new.id) is None


async def test_deliveries(queue: SqliteQueue, store: ReceiptStore) -> None:
    """Deliveries are found by id, with or without a receipt; ids that are none are left out."""
    put = batch(3)
    await stored(queue, put)
    lease = await leased(queue)
    answer(lease, State.ACCEPTED, State.SENT)
    await queue.checkpoint(lease, [], NOW)
    ids = [delivery_prefix(put.id) + digits.decode() for digits in INDEX_DIGITS[:4]]
    found = await store.deliveries([*ids, "nonsense", ids[0].upper(), delivery_prefix(batch().id) + "0000"])
    assert {ids.index(delivery): receipt.state for delivery, receipt in found.items()} == {
        0: "accepted",
        1: "pending",
        2: "pending",
    }
    assert found[ids[1]].at is None


async def test_invalid_tokens(queue: SqliteQueue, store: ReceiptStore) -> None:
    """An app's dead targets by cursor; a newer verdict is told again, another app's is not."""
    await stored(queue, batch(2))
    lease = await leased(queue)
    await queue.checkpoint(lease, [DeadTarget(b"a", NOW, "Unregistered"), DeadTarget(b"b", NOW, "gone")], NOW)
    tokens, cursor = await store.invalid_tokens("shop", 0, 1)
    assert tokens == [InvalidToken("apns", "a", NOW, "Unregistered")]
    tokens, cursor = await store.invalid_tokens("shop", cursor, 10)
    assert tokens == [InvalidToken("apns", "b", NOW, "gone")]
    await queue.checkpoint(lease, [DeadTarget(b"a", NOW, "same"), DeadTarget(b"b", NOW + 1, "newer")], NOW)
    tokens, cursor = await store.invalid_tokens("shop", cursor, 10)
    assert tokens == [InvalidToken("apns", "b", NOW + 1, "newer")]
    assert await store.invalid_tokens("shop", cursor, 10) == ([], cursor)
    assert await store.invalid_tokens("bank", 0, 10) == ([], 0)


async def test_invalid_tokens_can_be_read_again(queue: SqliteQueue, store: ReceiptStore) -> None:
    """As receipts, by the places in their feed: behind the one, and up to the other."""
    await stored(queue, batch(4))
    lease = await leased(queue)
    await queue.checkpoint(lease, [DeadTarget(b"%d" % number, NOW, "gone") for number in range(4)], NOW)
    first = await store.invalid_tokens("shop", 0, 1)
    second = await store.invalid_tokens("shop", first.cursor, 2)
    assert await store.tokens_between("shop", first.cursor, second.cursor) == second.tokens
    assert [token.key for token in second.tokens] == ["1", "2"]
    assert await store.tokens_between("bank", 0, second.cursor) == []


async def test_retention(queue: SqliteQueue, store: ReceiptStore) -> None:
    """Jobs are forgotten some time after they finished, with all that is stored of them; others stay."""
    old = await finished(queue, *[1] * 70, at=NOW)
    young = await finished(queue, 2, at=NOW + 50)
    waiting = await stored(queue, batch(1))
    assert await store.vacuum(NOW + 100, 100) == 0
    assert await store.vacuum(NOW + 101, 100) == 1
    assert await store.job(old.id) is None
    assert await store.job(young.id) is not None
    assert await store.job(waiting.id) is not None
    tables = ("jobs", "messages", "batches", "recipients", "receipts", "feed", "work")
    rows = await queue.database.read(lambda db: [db.execute(f"SELECT count(*) FROM {name}").get for name in tables])
    assert rows == [2, 2, 2, 2, 1, 1, 1]
    assert len((await store.feed(0, 100)).receipts) == 2


async def test_retention_keeps_answers(queue: SqliteQueue, store: ReceiptStore) -> None:
    """An idempotency key has a time of its own: a repeat gets its answer even if the receipts are gone."""
    new = job()
    await queue.submit(new, Idempotency("key", b"f"), [], b"answer")
    assert await store.vacuum(NOW + 101, 100) == 1
    assert await queue.begin(job(), Idempotency("key", b"f")) == Replay(new.id, b"f", b"answer")


async def test_retention_gives_room_back(
    queue: SqliteQueue, store: ReceiptStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file shrinks, bite by bite, when much of it is free: what stays is a share of it, to be used again."""
    bite = 8
    monkeypatch.setattr(rules, "PAGES_AT_ONCE", bite)
    await finished(queue, *[1000] * 50)
    before = await queue.database.read(lambda db: db.pragma("page_count"))
    await store.vacuum(NOW + 101, 100)
    after, free = await queue.database.read(lambda db: (db.pragma("page_count"), db.pragma("freelist_count")))
    assert after < before / 2
    assert after / rules.FREE_SHARE < free < after / rules.FREE_SHARE + bite
    assert await queue.database.read(lambda db: db.pragma("integrity_check")) == "ok"


async def test_retention_while_work_goes_on(queue: SqliteQueue, store: ReceiptStore) -> None:
    """Forgetting, leasing and reading share the file."""
    for _ in range(5):
        await finished(queue, *[3] * 30)
    (forgotten, new) = await asyncio.gather(store.vacuum(NOW + 101, 100), finished(queue, *[2] * 20, at=NOW + 101))
    assert forgotten == 5
    assert len((await page_of(store, new))[0]) == 40
    assert await queue.depth() == (0, 0, None)
