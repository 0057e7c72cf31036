"""Which offset of a partition may be committed: that of the first record that is not done.

One object belongs to one assignment of one partition. What an earlier assignment left behind goes on telling its own,
which nobody commits any more, so a late completion cannot move the offset past records that this one never read.
"""

from __future__ import annotations

from collections import deque


class Watermark:
    """Records in the order in which they were read; offsets may have gaps."""

    def __init__(self) -> None:
        self._open: deque[tuple[int, int, int]] = deque()  # offset, size, note, from the first that is not done on
        self._done: set[int] = set()
        self.next: int | None = None
        """The offset behind the last record that was read; None before any was."""
        self.size = 0
        """Bytes of the records from the first that is not done on: what is read once more after a loss."""

    @property
    def span(self) -> int:
        """Records from the first that is not done on."""
        return len(self._open)

    @property
    def position(self) -> int | None:
        """What may be committed: everything before it is done. None before anything was read."""
        return self._open[0][0] if self._open else self.next

    @property
    def note(self) -> int | None:
        """What was noted with the first record that is not done; None if all are."""
        return self._open[0][2] if self._open else None

    def seen(self, offset: int, size: int, note: int = 0) -> None:
        """A record was read; the offset is above all before.

        Raises:
            ValueError: it is not.
        """
        if self.next is not None and offset < self.next:
            raise ValueError(f"offset {offset} was read after {self.next - 1}")
        self._open.append((offset, size, note))
        self.size += size
        self.next = offset + 1

    def done(self, offset: int) -> None:
        """A record that was seen needs to be read no more. Twice is as good as once."""
        if not self._open or offset < self._open[0][0]:
            return
        self._done.add(offset)
        while self._open and self._open[0][0] in self._done:
            first, size, _ = self._open.popleft()
            self._done.discard(first)
            self.size -= size
