"""One process's numbers in two files that outlive it, and the reading of all processes' numbers.

`SLOT.keys` has a line for each series, in the order of their cells; `SLOT.values` is the cells, doubles in a
memory map. Counting is then one addition in memory, no process waits for another, and what a killed process had
counted stays. The holder keeps `SLOT.keys` locked (flock), which the kernel undoes when it dies, however it dies:
that is how a reader knows whose gauges still mean something.

Prometheus' own multiprocess mode keeps such files too, but takes their folder from an environment variable read at
import, one folder and one behaviour for the whole process.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from array import array
from collections.abc import Iterator, Sequence
from io import BufferedIOBase, RawIOBase
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import orjson

SUPERVISOR = "supervisor"
"""The slot of the parent process."""

_DOUBLE = 8
_PAGE = mmap.PAGESIZE // _DOUBLE

Key = tuple[str, ...]
"""A family's name, then its label values."""


class SlotTaken(RuntimeError):
    """A living process counts in this slot: another gateway uses the same data folder."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return (
            f"another gateway is running on {self.path.parent} (it holds {self.path.name}); stop it and let it finish "
            "draining, or give this one a queue.path of its own"
        )


class Cells:
    """The numbers of the process that holds `slot`. Not for several threads."""

    def __init__(self, directory: Path, slot: str) -> None:
        """Take the slot, and go on with what its former holder counted.

        Raises:
            SlotTaken: its holder lives.
            OSError: there is no room, or it is not ours to write.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._file = (directory / f"{slot}.values").open(
            "a+b", buffering=0
        )  # first, so that no reader finds keys without values
        self._keys = (directory / f"{slot}.keys").open("a+b", buffering=0)
        try:
            fcntl.flock(self._keys, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._keys.close()
            self._file.close()
            raise SlotTaken(directory / f"{slot}.keys") from None
        self.known = _known(self._keys)
        self._used = sum(width for _, width in self.known)
        self._file.truncate(self._used * _DOUBLE)  # what is added later has to begin at zero
        self._map()

    def _map(self) -> None:
        size = (self._used // _PAGE + 1) * mmap.PAGESIZE
        # Blocks are taken now: a store to a hole of a sparse file on a full disk would kill the process (SIGBUS).
        try:
            os.posix_fallocate(self._file.fileno(), 0, size)
        except OSError as error:
            error.filename = self._file.name
            raise
        self._memory = mmap.mmap(self._file.fileno(), size)
        self.values = memoryview(self._memory).cast("d")

    def add(self, series: Sequence[tuple[Key, int]]) -> list[int]:
        """Give each series its `width` of cells, all zero; returns where each begins.

        Raises:
            OSError: the disk is full; nothing changed.
        """
        ends = list(accumulate((width for _, width in series), initial=self._used))
        before, self._used = self._used, ends[-1]
        try:
            if self._used > len(self.values):
                self._remap()
            # The cells are zero before their line can be read.
            self._append(b"".join(orjson.dumps([width, *key]) + b"\n" for key, width in series))
        except OSError:
            self._used = before
            raise
        return ends[:-1]

    def _append(self, lines: bytes) -> None:
        end = self._keys.seek(0, os.SEEK_END)
        try:
            if self._keys.write(lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._keys.truncate(end)
            raise

    def _remap(self) -> None:
        values, memory = self.values, self._memory
        self._map()
        values.release()
        memory.close()

    def close(self) -> None:
        self.values.release()
        self._memory.close()
        self._file.close()
        self._keys.close()


class Slot(NamedTuple):
    """What a reader finds."""

    name: str
    alive: bool
    series: dict[Key, list[float]]


def read(directory: Path) -> Iterator[Slot]:
    """Everything that the living and the dead have counted."""
    for path in sorted(directory.glob("*.keys")):
        with path.open("rb") as keys, path.with_suffix(".values").open("rb") as file:
            cells = array("d", file.read())
            series: dict[Key, list[float]] = {}
            start = 0
            for key, width in _known(keys):
                # A series added after `cells` was read would come out short.
                if start + width <= len(cells):
                    series[key] = cells[start : start + width].tolist()
                start += width
            yield Slot(path.stem, _locked(keys), series)


def clear(directory: Path) -> None:
    """Forget all counts, before a gateway starts: a counter begins at zero with the gateway.

    Raises:
        SlotTaken: a process still counts here.
    """
    for path in directory.glob("*.keys"):
        with path.open("rb") as keys:
            if _locked(keys):
                raise SlotTaken(path)
        path.unlink()
        path.with_suffix(".values").unlink()


def _known(keys: RawIOBase | BufferedIOBase) -> list[tuple[Key, int]]:
    """The series in a keys file. Without its last line if that is torn, because its writer was killed there."""
    keys.seek(0)
    whole, newline, torn = keys.read().rpartition(b"\n")
    if torn and keys.writable():
        keys.truncate(len(whole) + len(newline))
    lines = (orjson.loads(line) for line in whole.splitlines())
    return [(tuple(key), width) for width, *key in lines]


def _locked(keys: RawIOBase | BufferedIOBase) -> bool:
    try:
        fcntl.flock(keys, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False
