"""A disk that can lose its power: what SQLite has written and not yet synced is kept apart, write by write.

The files themselves are what the page cache shows to the living. `Disk.survivors` makes of them what a machine may find
after a power cut: all that was synced, and of the rest any part, torn by sectors, in any order of files.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import apsw

SECTOR = 512


class Write(NamedTuple):
    """Bytes at an offset."""

    offset: int
    data: bytes

    def apply(self, content: bytearray, chance: random.Random, share: float) -> None:
        """Sector by sector; what lies between what is written and the end of the file is zeros."""
        for start in range(0, len(self.data), SECTOR):
            if chance.random() < share:
                piece = self.data[start : start + SECTOR]
                at = self.offset + start
                content.extend(bytes(max(0, at + len(piece) - len(content))))
                content[at : at + len(piece)] = piece


class Truncate(NamedTuple):
    """A new size."""

    size: int

    def apply(self, content: bytearray, chance: random.Random, share: float) -> None:
        if chance.random() < share:
            del content[self.size :]


class Platter:
    """What of one file would survive: `synced` for certain (None: not even its name), `waiting` perhaps."""

    def __init__(self) -> None:
        self.synced: bytes | None = None
        self.waiting: list[Write | Truncate] = []

    def sync(self) -> None:
        self.synced = self.after(random.Random(0), 1.0)
        self.waiting = []

    def after(self, chance: random.Random, share: float) -> bytes | None:
        if self.synced is None and chance.random() >= share:
            return None
        content = bytearray(self.synced or b"")
        for change in self.waiting:
            change.apply(content, chance, share)
        return bytes(content)


class Disk(apsw.VFS):
    """The default of all connections until it is closed. `moment` is called before each write, sync and truncation."""

    def __init__(self, moment: Callable[[], None]) -> None:
        super().__init__("power-loss", "unix", makedefault=True)
        self.platters: dict[Path, Platter] = {}
        self.lock = threading.RLock()
        self.syncs = 0
        self._moment = moment

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        assert name is not None
        path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name)
        with self.lock:
            return _File(self, name, flags, self.platters.setdefault(path, Platter()))

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        with self.lock:
            self.platters.pop(Path(filename), None)

    def moment(self) -> None:
        self._moment()

    def survivors(self, folder: Path, chance: random.Random) -> None:
        """Write into a folder what a machine finds whose power is cut now."""
        share = chance.choice((0.0, 0.0, 0.3, 0.7, 1.0))
        folder.mkdir()
        with self.lock:
            for path, platter in self.platters.items():
                content = platter.after(chance, share)
                if content is not None:
                    (folder / path.name).write_bytes(content)


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: str | apsw.URIFilename, flags: list[int], platter: Platter) -> None:
        super().__init__("unix", name, flags)
        self._disk = disk
        self._platter = platter

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.moment()
        super().xWrite(data, offset)
        with self._disk.lock:
            self._platter.waiting.append(Write(offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        self._disk.moment()
        super().xTruncate(newsize)
        with self._disk.lock:
            self._platter.waiting.append(Truncate(newsize))

    def xSync(self, flags: int) -> None:
        self._disk.moment()
        super().xSync(flags)
        with self._disk.lock:
            self._platter.sync()
            self._disk.syncs += 1
