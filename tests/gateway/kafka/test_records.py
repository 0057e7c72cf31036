"""How jobs become records, and which partition is whose."""

from __future__ import annotations

from collections import Counter
from itertools import count

import msgspec
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from hypothesis import given
from hypothesis import strategies as st

from gateway.kafka import records
from gateway.kafka.assignor import TogetherAssignor
from gateway.kafka.records import Kept, fitting, partition_for, partition_of, placed, works
from gateway.model import derived_batch_id, new_batch_id
from tests.gateway.queue.samples import batch, job

TOPICS = ["t.batches.promotional", "t.batches.transactional", "t.jobs"]


def test_an_id_names_its_partition() -> None:
    """All of them can be named, and the rest of the id stays."""
    for partition in (0, 1, 4095, 65_535):
        batch_id = new_batch_id()
        named = placed(batch_id, partition)
        assert partition_of(named) == partition
        assert (named[:12], named[14:]) == (batch_id[:12], batch_id[14:])


def test_partitions_are_used_evenly() -> None:
    """By the ids; but jobs of one ordering key are all in one."""
    plain = Counter(partition_for(job(), batch(1), 12) for _ in range(2_400))
    assert len(plain) == 12
    assert max(plain.values()) < 2 * min(plain.values())
    assert len({partition_for(job(key="k"), batch(1), 12) for _ in range(50)}) == 1
    assert len({partition_for(job(key=f"k{number}"), batch(1), 12) for number in range(100)}) == 12


def test_derived_ids_are_the_same_each_time() -> None:
    """And are those of batches: version 8, and no index."""
    ids = [derived_batch_id("job_1", number) for number in range(1_000)]
    assert ids == [derived_batch_id("job_1", number) for number in range(1_000)]
    assert len(set(ids)) == 1_000
    assert all(each[6] >> 4 == 8 and each[8] >> 6 == 0b10 and each[14:] == b"\0\0" for each in ids)


@given(size=st.integers(1, 1_000), room=st.integers(700, 20_000))
def test_what_is_divided_is_whole(size: int, room: int) -> None:
    """Every column's lines, in their order, in pieces that fit."""
    whole = batch(size)
    pieces = list(fitting([whole], room, (derived_batch_id("job_1", number) for number in count())))
    assert all(records.size(piece) <= room for piece in pieces)
    assert sum(piece.count for piece in pieces) == size
    assert b"\n".join(piece.recipients for piece in pieces) == whole.recipients
    for number, column in enumerate(whole.columns):
        assert b"\n".join(piece.columns[number] for piece in pieces) == column
    assert len({piece.id for piece in pieces}) == len(pieces)


def test_a_small_job_is_one_record_and_needs_no_seal() -> None:
    found = works(b"job", [batch(3), batch(2)], 5, offered=True)
    same = [msgspec.structs.replace(each, id=placed(each.id, 3)) for each in (batch(3), batch(2))]
    assert [(work.sealed, work.offered) for work in works(b"job", same, 5, offered=True)] == [(True, True)]
    for work in found:
        assert len({partition_of(each.id) for each in work.batches}) == 1
        assert work.sealed == (len(found) == 1)


def test_progress_is_read_as_it_was_written() -> None:
    kept = Kept(1, b"\1\2", None, b"12345678", True, 7, 2, b"work")
    assert records.decode_kept(records.encode(kept)) == kept


class _Cluster(ClusterMetadata):  # type: ignore[misc]
    """Of twelve partitions a topic."""

    def partitions_for_topic(self, topic: str) -> set[int]:
        return set(range(12))

    def topics(self, exclude_internal_topics: bool = True) -> set[str]:
        return set(TOPICS)


def _assigned(members: dict[str, bytes]) -> dict[str, dict[str, list[int]]]:
    metadata = {name: ConsumerProtocolMemberMetadata(0, TOPICS, data) for name, data in members.items()}
    made = TogetherAssignor.assign(_Cluster(), metadata)
    return {name: dict(one.assignment) for name, one in made.items()}


def _user_data(partitions: list[int]) -> bytes:
    """What a member says it had, as it says it after an assignment."""
    TogetherAssignor.on_assignment(
        type("Assignment", (), {"partitions": lambda self: [_Lane(t, p) for t in TOPICS for p in partitions]})()
    )
    data: bytes = TogetherAssignor.metadata(TOPICS).user_data
    TogetherAssignor.member_assignment = None
    return data


class _Lane:
    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition


def test_a_partition_of_all_topics_is_one_members() -> None:
    """And members have as many as each other."""
    made = _assigned({"a": b"", "b": b"", "c": b""})
    for topics in made.values():
        assert topics.keys() == set(TOPICS)
        assert len({tuple(partitions) for partitions in topics.values()}) == 1
    assert sorted(len(topics["t.jobs"]) for topics in made.values()) == [4, 4, 4]


def test_partitions_stay_with_who_had_them() -> None:
    """A third member takes from the two no more than its part."""
    before = _assigned({"a": b"", "b": b""})
    data = {name: _user_data(topics["t.jobs"]) for name, topics in before.items()}
    after = _assigned({**data, "c": b""})
    for name, topics in before.items():
        assert set(after[name]["t.jobs"]) <= set(topics["t.jobs"])
    assert len(after["c"]["t.jobs"]) == 4
