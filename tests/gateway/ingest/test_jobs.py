"""Jobs as one JSON document: what is stored, and what is answered."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from gateway.model import Lane, Route
from tests.gateway.fakes import MemoryQueue
from tests.gateway.ingest.conftest import Gateway, Serve, document, recipient


async def test_an_accepted_job_is_stored_and_visible(gateway: Gateway) -> None:
    """202 comes after the queue has the job, with its id, its place and its numbers."""
    async with gateway.session.post("/v1/jobs", json=document(recipient(1), recipient(2))) as response:
        answer = await response.json()
        assert response.status == 202
        assert response.headers["Location"] == f"/v1/jobs/{answer['job']}"
        assert "Idempotent-Replayed" not in response.headers
    assert answer == {"job": answer["job"], "accepted": 2, "refused": [], "refused_count": 0}
    stored = gateway.queue.jobs[answer["job"]]
    assert stored.sealed
    assert gateway.counts.accepted == {("shop", "stub", Lane.PROMOTIONAL): 2}


async def test_a_batch_holds_targets_then_variables_then_registrations(gateway: Gateway) -> None:
    """Columns are newline-joined: what the provider wants, variables in sorted order, UNIX seconds or blank."""
    job = document(
        recipient(1, vars={"name": 'O\\"Hara', "n": 7}, registered_at="2026-01-02T03:04:05.5+01:00"),
        recipient(2, vars={"n": True, "name": "né", "unused": [1]}),
        message={"title": "{{name}}", "body": "{{n}}"},
    )
    status, _ = await gateway.post(job)
    assert status == 202
    [stored] = gateway.queue.jobs.values()
    [batch] = stored.batches
    assert stored.job.variables == ("n", "name")
    assert batch.new.route == Route("shop", "stub")
    assert batch.new.count == 2
    assert batch.new.recipients == b"u1\nu2"
    name = json.dumps('O\\"Hara')[1:-1].encode() + b"\n" + json.dumps("né")[1:-1].encode()
    assert batch.new.columns == (b"token1\ntoken2", b"7\ntrue", name, b"1767319445.500\n")


@pytest.mark.parametrize(
    ("class_", "given", "resends"),
    [
        ("transactional", None, True),
        ("promotional", None, False),
        ("transactional", "report", False),
        ("promotional", "resend", True),
    ],
)
async def test_what_happens_to_the_unanswered_depends_on_the_class(
    gateway: Gateway, class_: str, given: str | None, resends: bool
) -> None:
    """Transactional jobs resend and promotional ones report, unless `on_unknown` says otherwise."""
    await gateway.post(document(on_unknown=given, **{"class": class_}))
    [stored] = gateway.queue.jobs.values()
    assert stored.job.resend_unknown is resends
    assert stored.job.lane == (Lane.TRANSACTIONAL if class_ == "transactional" else Lane.PROMOTIONAL)


@pytest.mark.parametrize(("ttl", "seconds"), [("6h", 21600), ("30m", 1800), ("2d", 172800), ("45s", 45), (90, 90)])
async def test_ttl_becomes_an_expiry_from_acceptance(gateway: Gateway, ttl: Any, seconds: int) -> None:
    """A TTL is a duration, the job's expiry an instant."""
    before = time.time()
    await gateway.post(document(ttl=ttl))
    [stored] = gateway.queue.jobs.values()
    assert before + seconds <= stored.job.expires_at <= time.time() + seconds


async def test_ttl_of_a_scheduled_job_counts_from_its_delivery(gateway: Gateway) -> None:
    """What waits for its moment does not grow old meanwhile."""
    at = int(time.time()) + 3600
    due = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
    await gateway.post(document(ttl=60, deliver_at=due, campaign="c", collapse_key="k", ordering_key="o"))
    [stored] = gateway.queue.jobs.values()
    assert (stored.job.deliver_at, stored.job.expires_at) == (at, at + 60)
    assert (stored.job.campaign, stored.job.collapse_key, stored.job.ordering_key) == ("c", "k", "o")


async def test_bad_recipients_are_refused_alone(gateway: Gateway) -> None:
    """Each with its position, its id where it can be read, and the reason; the others are accepted."""
    status, answer = await gateway.post(
        document(
            recipient(0),
            {"id": "u1", "provider": "stub", "tokn": "x"},
            {"id": "u2", "provider": "sms", "token": "x"},
            {"id": "u3", "provider": "stub", "token": "no/such"},
            {"provider": "stub", "token": "x"},
            recipient(5, token=5),
            {**recipient(6), "id": "a\r\nb"},
            {**recipient(7), "id": ""},
            {**recipient(8), "id": "x" * 129},
            recipient(9, registered_at="yesterday"),
            recipient(10, registered_at="2026-01-01T00:00:00"),
            recipient(11),
        )
    )
    assert status == 202
    assert answer["accepted"] == 2
    assert answer["refused_count"] == len(answer["refused"]) == 10
    assert gateway.stored == [("u0", "u11")]
    reasons = {entry["index"]: (entry["id"], entry["reason"]) for entry in answer["refused"]}
    assert reasons[1] == ("u1", "tokn: is not known; did you mean `token`?")
    assert reasons[2] == ("u2", "provider: is not configured for this app; known here: stub")
    assert reasons[3][1].startswith("token: ")
    assert reasons[4] == (None, "Object missing required field `id`")
    assert reasons[5] == ("u5", "token: Expected `str | null`, got `int`")
    assert reasons[6] == ("a\r\nb", "id: must not hold control characters")
    assert reasons[7][1] == "id: Expected `str` of length >= 1"
    assert reasons[8] == ("x" * 128, "id: Expected `str` of length <= 128")
    assert reasons[9][1] == reasons[10][1]
    assert reasons[9][1].startswith("registered_at: ")
    assert gateway.counts.refused == {("shop", "stub", Lane.PROMOTIONAL): 4}


async def test_a_missing_variable_refuses_its_recipient(gateway: Gateway) -> None:
    """A title with a hole in it is worse than none."""
    good, bad = recipient(0, vars={"name": "Ada"}), recipient(1, vars={})
    status, answer = await gateway.post(document(good, bad, message={"title": "Hi {{name}}"}))
    assert (status, answer["accepted"]) == (202, 1)
    assert "name" in answer["refused"][0]["reason"]


async def test_a_refused_target_is_not_repeated_to_the_caller(gateway: Gateway) -> None:
    """Tokens stay out of answers, which end in logs."""
    _, answer = await gateway.post(document(recipient(0), recipient(1, token="secret/secret")))
    assert "secret" not in json.dumps(answer)


async def test_a_job_without_any_good_recipient_is_no_job(gateway: Gateway) -> None:
    """422, and the refused ones are listed all the same."""
    status, answer = await gateway.post(document(recipient(0, token="/"), recipient(1, token="/")))
    assert status == 422
    assert [entry["index"] for entry in answer["refused"]] == [0, 1]
    assert answer["refused_count"] == 2
    assert not gateway.queue.jobs


async def test_the_list_of_refused_ones_is_bounded(serve: Serve) -> None:
    """All are counted, the first are listed."""
    gateway = await serve(refused=3)
    status, answer = await gateway.post(document(*[recipient(n, token="/") for n in range(50)], recipient(50)))
    assert (status, answer["refused_count"], len(answer["refused"])) == (202, 50, 3)


async def test_batches_have_at_most_a_thousand_recipients(gateway: Gateway) -> None:
    """Also when the body's slices are no multiples of that."""
    status, answer = await gateway.post(document(*[recipient(n) for n in range(2500)]))
    assert (status, answer["accepted"]) == (202, 2500)
    assert [len(ids) for ids in gateway.stored] == [1000, 1000, 500]
    assert [name for ids in gateway.stored for name in ids] == [f"u{n}" for n in range(2500)]
    assert len({batch.new.id for job in gateway.queue.jobs.values() for batch in job.batches}) == 3


async def test_a_full_queue_is_503_and_leaves_nothing(serve: Serve) -> None:
    """Backpressure: come back later, with the same key."""
    gateway = await serve(queue=MemoryQueue(high_water=1))
    async with gateway.session.post("/v1/jobs", json=document(recipient(1), recipient(2))) as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
        assert (await response.json(content_type=None))["detail"].startswith("the queue is full")
    assert not gateway.queue.jobs
    assert (await gateway.post(document(recipient(1))))[0] == 202
