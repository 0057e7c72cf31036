"""The watermark by single cases; tests/reliability/test_watermark.py attacks it."""

from __future__ import annotations

import pytest

from gateway.kafka.watermark import Watermark


def test_offsets_only_grow() -> None:
    """A record that is read twice in one assignment is a mistake of the caller's."""
    watermark = Watermark()
    watermark.seen(5, 1)
    with pytest.raises(ValueError, match="after 5"):
        watermark.seen(5, 1)


def test_what_was_never_seen_is_not_done() -> None:
    watermark = Watermark()
    watermark.done(3)
    assert watermark.position is None
    watermark.seen(4, 1)
    watermark.done(3)
    assert watermark.position == 4
