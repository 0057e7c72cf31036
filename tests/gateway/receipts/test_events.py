"""Receipts as CloudEvents."""

from __future__ import annotations

import json
from array import array

from gateway.model import Note, State, delivery_prefix, new_batch_id
from gateway.queue.base import Progress
from gateway.queue.columns import Columns
from gateway.receipts import events
from gateway.receipts.events import Ended
from gateway.receipts.states import InvalidToken

CREATED = 1_800_000_000.25


def ended(indexes: list[int] | None = None) -> Ended:
    progress = Progress(
        bytearray([State.ACCEPTED, State.INVALID_TOKEN, State.ACCEPTED, State.ACCEPTED]),
        array("I", [10, 20, 30, 40]),
        {1: Note("Unregistered", 1), 3: Note("", 3, "projects/x", 0.0, 1)},
    )
    return Ended(
        new_batch_id(), "job_1", "acme/shop", "apns", CREATED, "ä\nb\nc\nd".encode(), Columns.of(progress), indexes
    )


def expanded(data: bytes) -> dict[str, dict[str, object]]:
    """What a reader makes of the columns, as the module's docstring tells."""
    told = json.loads(data)
    return {
        told["delivery"] + f"{index:04x}": {
            "recipient": told["recipients"][place],
            "ms": told["milliseconds"][place],
            "state": told["state"],
            **told.get("exceptions", {}).get(str(place), {}),
        }
        for place, index in enumerate(told.get("indexes") or range(len(told["recipients"])))
    }


def test_a_batch_is_one_event_that_tells_of_each_delivery() -> None:
    """Whoever expands the columns has what the events of single deliveries say."""
    whole = ended()
    event = events.batch_event(whole)
    deliveries = [json.loads(each.data) for each in events.delivery_events(whole)]
    told = expanded(event.data)
    assert list(told) == [each["id"] for each in deliveries]
    for each in deliveries:
        mine = told[each["id"]]
        assert (mine["recipient"], mine["state"]) == (each["recipient"], each["state"])
        assert {key: mine.get(key) for key in ("reason", "attempts", "unanswered", "provider_id")} == {
            key: each.get(key) for key in ("reason", "attempts", "unanswered", "provider_id")
        }
        assert CREATED + mine["ms"] / 1000 == each["at"]  # type: ignore[operator]
    assert (event.type, event.subject, event.source) == ("carillon.receipts", "job_1", "/carillon/apps/acme/shop")


def test_a_part_of_a_batch_names_its_deliveries() -> None:
    part = ended([1, 3])
    told = expanded(events.batch_event(part).data)
    prefix = delivery_prefix(part.batch_id)
    assert {key: value["recipient"] for key, value in told.items()} == {prefix + "0001": "b", prefix + "0003": "d"}
    assert [json.loads(each.data)["recipient"] for each in events.delivery_events(part)] == ["b", "d"]


def test_an_id_says_what_it_is_of() -> None:
    """The same deliveries have the same id, whoever tells of them; others have another."""
    whole = ended()
    parts = [whole._replace(indexes=indexes) for indexes in (None, [0, 1], [0, 1], [2, 3])]
    first, second, again, third = (events.batch_event(part).id for part in parts)
    assert second == again
    assert len({first, second, third}) == 3


def test_binary_mode_has_the_attributes_as_headers() -> None:
    headers = dict(events.kafka_headers(events.batch_event(ended())))
    assert headers["ce_specversion"] == b"1.0"
    assert headers["content-type"] == b"application/json"
    assert headers["ce_time"] == b"2027-01-15T08:00:00.290Z"
    assert all(headers[f"ce_{name}"] for name in ("id", "source", "type", "subject"))


def test_structured_mode_is_one_document() -> None:
    event = events.batch_event(ended())
    document = json.loads(events.structured(event))
    assert document["data"] == json.loads(event.data)
    assert (document["id"], document["datacontenttype"]) == (event.id, "application/json")


def test_a_dead_target_keeps_its_id_until_the_service_says_something_newer() -> None:
    token = InvalidToken("apns", "a" * 64, CREATED, "Unregistered")
    one = events.invalid_token_event("shop", token)
    assert one == events.invalid_token_event("shop", token)
    newer = InvalidToken("apns", "a" * 64, CREATED + 1, "Unregistered")
    assert {one.id} & {
        events.invalid_token_event("bank", token).id,
        events.invalid_token_event("shop", newer).id,
    } == set()
