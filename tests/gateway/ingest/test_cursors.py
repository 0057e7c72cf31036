"""Cursors lead back to where they were given out, and say nothing of how far that is."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from gateway.ingest.cursors import LEFT, RIGHT, Cursors

POSITIONS = st.integers(0, (1 << LEFT + RIGHT) - 1)


@given(position=POSITIONS, secret=st.binary(min_size=16, max_size=32), tenant=st.sampled_from(["default", "acme"]))
def test_there_and_back(position: int, secret: bytes, tenant: str) -> None:
    """At most 18 digits; only the start looks like the start."""
    cursors = Cursors(secret)
    cursor = cursors.write(tenant, position)
    assert len(cursor) <= 18
    assert cursor.isdecimal()
    assert cursors.read(tenant, int(cursor)) == position


def test_neighbours_are_far_apart() -> None:
    """What was done between two pages cannot be told from their cursors, nor by comparing with another tenant's."""
    cursors = Cursors(bytes(32))
    written = [int(cursors.write("acme", position)) for position in range(1, 2001)]
    assert len(set(written)) == 2000
    steps = [abs(after - before) for before, after in itertools.pairwise(written)]
    assert min(steps) > 1 << 34
    rising = sum(after > before for before, after in itertools.pairwise(written))
    assert 800 < rising < 1200
    assert not set(written) & {int(cursors.write("globex", position)) for position in range(1, 2001)}
    assert not set(written) & {int(Cursors(bytes([1] * 32)).write("acme", position)) for position in range(1, 2001)}


@given(cursor=st.integers(0, 10**18 - 1))
def test_what_nobody_was_given_is_some_position(cursor: int) -> None:
    """It fails nobody: a page from somewhere, of the caller's own."""
    assert 0 <= Cursors(bytes(32)).read("acme", cursor) < 1 << LEFT + RIGHT
