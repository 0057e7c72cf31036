"""The filter of dead targets never misses one and is seldom wrong about the living."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.queue.dead import DeadFilter


@given(st.lists(st.binary(max_size=80)))
def test_never_misses(keys: list[bytes]) -> None:
    """Whatever was added is a candidate."""
    dead = DeadFilter(len(keys))
    dead.add(keys)
    assert dead.candidates(keys) == keys


def test_seldom_wrong() -> None:
    """At the size where a larger one is due, fewer than one in five hundred living targets is looked up in vain."""
    dead = DeadFilter()
    number = 0
    while not dead.crowded:
        dead.add([b"dead-%d" % number])
        number += 1
    living = [b"living-%d" % number for number in range(20_000)]
    assert len(dead.candidates(living)) < 40
    assert not DeadFilter(number).crowded


def test_it_is_crowded_by_more_than_a_key_in_eight_slots() -> None:
    """The smallest has 65,536; one that expects more than a sixteenth of that starts with the next size."""
    smallest, next_size = DeadFilter(4096), DeadFilter(4097)
    for dead in (smallest, next_size):
        dead.add([b"%d" % number for number in range(8192)])
        assert not dead.crowded
        dead.add([b"one more"])
    assert smallest.crowded
    assert not next_size.crowded
    next_size.add([b"%d" % number for number in range(8191)])
    assert not next_size.crowded
    next_size.add([b"one more"])
    assert next_size.crowded
