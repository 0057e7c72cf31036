"""The flight recorder: which deliveries a process had on the wire, readable after its death.

A leased batch's `states` column is a view into a memory-mapped file, so that marking a delivery as sent is a store to
memory and nothing else, and yet survives kill -9: the page cache belongs to the kernel. The file is locked (flock)
while its owner lives; a free lock means death, however it came. A power cut or a reboot loses the page cache, so the
file names the boot in which it is worth anything.

Beside the states, a slot says whether its owner is in the middle of preparing or rendering the batch. What kills or
stops its holder there is found by that, and does not bring its neighbours under suspicion.

A slot is armed after its lease is durable and before the holder sees the batch, and disarmed after the batch was
durably given back. A lease without a slot was therefore never touched by its holder.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from gateway.model import BATCH_SIZE
from gateway.queue.clock import boot_id
from gateway.queue.lock import locked

_MAGIC = b"carillon-flight1"
_HEADER_SIZE = 4096
_HEADER = struct.Struct("<16s40sI")
"""Magic, boot id, number of slots."""
_SLOT = struct.Struct("<qII?")
"""Sequence (0: free), attempt, count, whether the owner is at work on it right now; the states follow."""
_SLOT_SIZE = 1024

assert _SLOT.size + BATCH_SIZE <= _SLOT_SIZE


class Entry(NamedTuple):
    """Which lease a slot belongs to."""

    sequence: int
    attempt: int


class Trace(NamedTuple):
    """What a recorder's file tells."""

    trusted: bool
    """Whether all that its owner did is in it: written since the machine started, and the owner is dead."""
    states: dict[Entry, bytes]
    """What its owner had in hand."""
    at_work: frozenset[Entry] = frozenset()
    """Of these, what it was in the middle of preparing or rendering."""

    def blames(self, entry: Entry) -> bool:
        """Whether its owner's death may be this batch's doing: what it was in the middle of, or else all it had."""
        return entry in (self.at_work or self.states)


class FlightRecorder:
    """The living owner's side."""

    def __init__(self, path: Path, slots: int) -> None:
        self._path = path
        self._file = _create(path)
        size = _HEADER_SIZE + slots * _SLOT_SIZE
        # Blocks are taken now: a store to a hole of a sparse file on a full disk would kill the process (SIGBUS).
        os.posix_fallocate(self._file, 0, size)
        self._map = mmap.mmap(self._file, size)
        self._map[: _HEADER.size] = _HEADER.pack(_MAGIC, boot_id(), slots)
        self._free = list(range(slots))
        self._armed: dict[Entry, int] = {}
        self._used: set[int] = set()  # the slots of `_armed`
        self._views: dict[int, weakref.ref[memoryview]] = {}

    @property
    def room(self) -> int:
        """How many more batches can be recorded."""
        return len(self._free)

    def reserve(self, wanted: int) -> list[int]:
        """Take at most `wanted` slots, for `arm` or `unreserve`."""
        return [self._free.pop() for _ in range(min(wanted, len(self._free)))]

    def unreserve(self, slots: list[int]) -> None:
        self._free.extend(slots)

    def arm(self, slot: int, entry: Entry, states: bytes) -> tuple[memoryview, memoryview]:
        """Record a batch from now on; the views are where its holder writes: the states, and the byte `at_work`.

        The second may not be written to any more when the first is gone.
        """
        start = _HEADER_SIZE + slot * _SLOT_SIZE
        body = start + _SLOT.size
        self._map[body : body + len(states)] = states
        _SLOT.pack_into(self._map, start, *entry, len(states), False)
        view = memoryview(self._map)[body : body + len(states)]
        at_work = memoryview(self._map)[body - 1 : body]
        self._armed[entry] = slot
        self._used.add(slot)
        # A holder may keep its view for longer than the lease and even write to it: the slot is another batch's only
        # when nobody can reach it any more.
        self._views[slot] = weakref.ref(view, partial(self._forsaken, slot))
        return view, at_work

    def disarm(self, entry: Entry) -> None:
        """What happened to a batch is stored elsewhere by now, or is no longer ours to tell."""
        slot = self._armed.pop(entry, None)
        if slot is None:
            return
        self._used.discard(slot)
        _SLOT.pack_into(self._map, _HEADER_SIZE + slot * _SLOT_SIZE, 0, 0, 0, False)
        if self._views[slot]() is None:
            self._free.append(slot)

    def _forsaken(self, slot: int, _view: weakref.ref[memoryview]) -> None:
        if slot not in self._used:
            self._free.append(slot)

    def close(self, *, remove: bool) -> None:
        """Let go of the file. It is not to be removed while a lease is out: then it is for the recovery."""
        if remove:
            self._path.unlink(missing_ok=True)
        self._views.clear()
        fcntl.flock(self._file, fcntl.LOCK_UN)  # the map has a descriptor of its own, and may outlive this
        with contextlib.suppress(BufferError):  # a holder still has a view; the map goes with it
            self._map.close()
        os.close(self._file)


def _create(path: Path) -> int:
    """A new locked file. Another process may take a new-born file for a dead one's and remove it: then once more."""
    for _ in range(100):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            return file
        os.close(file)
    raise OSError(f"{path} is removed as fast as it is created")


def read(path: Path, *, dead: bool) -> Trace:
    """What a recorder's file tells of its owner, who is `dead` or may still be writing."""
    try:
        content = path.read_bytes()
    except OSError:
        return Trace(False, {})
    if len(content) < _HEADER_SIZE:
        return Trace(False, {})
    magic, boot, slots = _HEADER.unpack_from(content)
    boot = boot.rstrip(b"\0")
    if magic != _MAGIC or not boot or boot != boot_id():
        return Trace(False, {})
    armed = list(_entries(content, slots))
    at_work = frozenset(entry for entry, _, working in armed if working)
    return Trace(dead, {entry: states for entry, states, _ in armed}, at_work)


def _entries(content: bytes, slots: int) -> Iterator[tuple[Entry, bytes, bool]]:
    for slot in range(min(slots, (len(content) - _HEADER_SIZE) // _SLOT_SIZE)):
        start = _HEADER_SIZE + slot * _SLOT_SIZE
        sequence, attempt, count, working = _SLOT.unpack_from(content, start)
        if sequence > 0 and count <= BATCH_SIZE:
            body = start + _SLOT.size
            yield Entry(sequence, attempt), content[body : body + count], working


@contextlib.contextmanager
def locked_if_dead(path: Path) -> Iterator[bool]:
    """Hold the file of an owner who is dead; False if it lives, or another process is at its recovery."""
    with contextlib.ExitStack() as held:
        try:
            dead = held.enter_context(locked(path, create=False))
        except OSError:
            dead = False
        yield dead
