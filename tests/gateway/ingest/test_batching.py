"""Recipients become batches by provider and origin."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.ingest.batching import Splitter
from gateway.ingest.limits import Limits
from gateway.ingest.problem import Refused
from gateway.ingest.recipients import Recipient, Refusals, Slice
from gateway.model import BATCH_SIZE, Job, Lane, Route
from gateway.queue.base import NewBatch
from providers.base import Message, Problem, ProviderSettings, Targets, Terms


class Origins:
    """A provider whose targets are `origin|token`."""

    settings = ProviderSettings

    def __init__(self, name: str, wrong: list[Problem] | None = None) -> None:
        self.name = name
        self.wrong = wrong or []
        self.checks = 0

    def targets(self, recipients: Sequence[Recipient], settings: ProviderSettings) -> Targets:
        pairs = [(recipient.token or "").split("|") for recipient in recipients]
        refused = {position: "token: no" for position, pair in enumerate(pairs) if len(pair) != 2}
        origins = ["" if position in refused else pair[0] for position, pair in enumerate(pairs)]
        column = [b"" if position in refused else pair[1].encode() for position, pair in enumerate(pairs)]
        return Targets(origins, (column,), refused)

    def check(self, message: Message, terms: Terms, settings: ProviderSettings) -> list[Problem]:
        self.checks += 1
        return self.wrong


def splitter(*providers: Any, **limits: Any) -> Splitter:
    message = Message(title="{{n}}")
    job = Job(
        id="job_1",
        app="shop",
        lane=Lane.PROMOTIONAL,
        message=message,
        variables=("n",),
        created_at=time.time(),
        resend_unknown=False,
    )
    known: dict[str, Any] = {provider.name: provider for provider in providers}
    settings = dict.fromkeys(known, ProviderSettings())
    return Splitter(job, known, settings, Refusals(1000), Limits(**limits))


def one(index: int, provider: str, origin: str | None, variable: bool = True) -> tuple[int, dict[str, Any]]:
    token = "bad" if origin is None else f"{origin}|t{index}"
    recipient = {"id": f"u{index}", "provider": provider, "token": token}
    return index, {**recipient, "vars": {"n": index} if variable else {}}


def slice_of(rows: Sequence[tuple[int, dict[str, Any]]]) -> Slice:
    text = b"\n".join(msgspec.json.encode(row) for _, row in rows)
    return Slice(msgspec.json.Decoder(Recipient).decode_lines(text), [index for index, _ in rows], len(rows))


def unfold(batches: Sequence[NewBatch]) -> dict[str, tuple[Route, bytes, bytes]]:
    """Recipient id -> route, token, variable."""
    found: dict[str, tuple[Route, bytes, bytes]] = {}
    for batch in batches:
        ids = batch.recipients.decode().split("\n")
        columns = [column.split(b"\n") for column in batch.columns]
        assert [len(ids), *map(len, columns)] == [batch.count] * 4
        assert 0 < batch.count <= BATCH_SIZE
        assert not set(found) & set(ids)
        found.update({ids[row]: (batch.route, columns[0][row], columns[1][row]) for row in range(batch.count)})
    return found


_rows = st.lists(
    st.tuples(st.sampled_from(["a", "a", "b", "sms"]), st.sampled_from(["", "x", "y", None]), st.booleans()),
    max_size=60,
)


@settings(max_examples=150)
@given(st.lists(_rows, max_size=5), st.sampled_from([1, 200, 10**6]), st.sampled_from([1, 2, 100]))
def test_nobody_is_lost_or_mixed_up(slices: list[list[Any]], open_bytes: int, routes: int) -> None:
    """Each recipient is in one batch of its route with its own values, or refused with its own index."""
    split = splitter(Origins("a"), Origins("b"), open=open_bytes, routes=routes)
    batches: list[NewBatch] = []
    wanted: dict[str, tuple[Route, bytes, bytes]] = {}
    index = 0
    for rows in slices:
        numbered = [one(index + n, *row) for n, row in enumerate(rows)]
        wanted |= {
            f"u{n}": (Route("shop", provider, origin), b"t%d" % n, b"%d" % n)
            for n, (provider, origin, variable) in enumerate(rows, index)
            if provider != "sms" and origin is not None and variable
        }
        index += len(rows)
        batches += split.add(slice_of(numbered))
    batches += split.rest()
    assert unfold(batches) == wanted
    assert split.accepted.total() == len(wanted)
    refused = {f"u{refusal.index}" for refusal in split.refusals.listed()}
    assert refused | set(wanted) == {f"u{n}" for n in range(index)}
    assert not refused & set(wanted)


def test_batches_fill_up_over_slices() -> None:
    """A route's batch stays open until it is full or the job ends."""
    split = splitter(Origins("a"))
    batches = []
    for start in range(0, 2400, 400):
        batches += split.add(slice_of([one(n, "a", "x") for n in range(start, start + 400)]))
    assert [batch.count for batch in batches] == [1000, 1000]
    assert [batch.count for batch in split.rest()] == [400]
    assert split.rest() == []


def test_what_is_open_is_bounded() -> None:
    """The fullest batches go first, so that what is stored is as large as can be."""
    split = splitter(Origins("a"), routes=2)
    first = split.add(slice_of([one(n, "a", "xxyyyz"[n]) for n in range(6)]))
    assert [(batch.route.origin, batch.count) for batch in first] == [("y", 3)]
    assert sorted(batch.route.origin for batch in split.rest()) == ["x", "z"]


def test_a_message_is_checked_once_for_each_provider_that_is_named() -> None:
    """What APNs would refuse is nobody's business while no recipient is on APNs."""
    used, unused = Origins("a"), Origins("b", [Problem("/message/b", "no")])
    split = splitter(used, unused)
    for n in range(3):
        split.add(slice_of([one(n, "a", "x")]))
    assert (used.checks, unused.checks) == (1, 0)
    with pytest.raises(Refused, match="b"):
        split.add(slice_of([one(3, "a", "x"), one(4, "b", "x")]))
