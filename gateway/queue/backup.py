"""A copy of the queue's file while it is in use: one moment of it, checked before it gets its name.

SQLite's online backup reads in one snapshot, so writers neither wait for it nor make it begin anew. They cannot shorten
their log meanwhile: hence it goes as fast as the disk allows at half of its time, and leaves the other half to them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import apsw

from gateway.queue import schema
from gateway.queue.base import QueueError
from gateway.queue.rows import only
from gateway.queue.writer import sentence

PAGES_AT_ONCE = 512
"""4 MiB: some milliseconds."""


class Copied(NamedTuple):
    """What is in a backup."""

    path: str
    bytes: int
    jobs: int
    batches: int
    """Not complete."""
    deliveries: int
    """Not complete."""
    seconds: float


def backup(source: Path, destination: Path, progress: Callable[[float], None]) -> Copied:
    """Copy the queue's file, whether a gateway is running on it or not. Blocks.

    Args:
        progress: told the share that is done, up to 1.0.

    Raises:
        QueueError: there is no queue, the destination exists, or the copy is not whole. Nothing is left behind.
    """
    if not source.is_file():
        raise QueueError(f"{source} does not exist: name the configuration of the gateway that is to be backed up")
    if destination.exists():
        raise QueueError(f"{destination} exists: backups overwrite nothing, so name a new file")
    began = time.monotonic()
    part = destination.with_name(f"{destination.name}.part")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise QueueError(f"{part} cannot be created: {error.strerror}") from error
    try:
        _copy(source, part, progress)
        jobs, batches, deliveries = _checked(part)
        _settle(part, destination)
    except apsw.FullError as error:
        raise QueueError(f"there is no room for {destination}: nothing was left behind") from error
    except apsw.Error as error:
        raise sentence(error) from error
    except OSError as error:
        raise QueueError(f"{destination} cannot be written: {error.strerror}") from error
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            with suppress(FileNotFoundError):
                os.unlink(f"{part}{suffix}")
    size = destination.stat().st_size
    return Copied(str(destination), size, jobs, batches, deliveries, round(time.monotonic() - began, 3))


def _copy(source: Path, part: Path, progress: Callable[[float], None]) -> None:
    flags = apsw.SQLITE_OPEN_READWRITE
    with closing(apsw.Connection(str(source), flags=flags)) as ours, closing(apsw.Connection(str(part))) as copy:
        schema.be_patient(ours, schema.BUSY_MILLISECONDS)
        schema.check_ours(ours, source)
        ours.execute("BEGIN")
        only(ours, "SELECT count(*) FROM sqlite_schema")  # the snapshot is of now, and stays
        with copy.backup("main", ours, "main") as copying:
            while not copying.done:
                began = time.monotonic()
                copying.step(PAGES_AT_ONCE)
                progress(1.0 - copying.remaining / max(1, copying.page_count))
                time.sleep(time.monotonic() - began)
        ours.execute("COMMIT")


def _checked(part: Path) -> tuple[int, int, int]:
    """What is in a copy.

    Raises:
        QueueError: it is damaged, and then so is what it was made of.
    """
    with closing(apsw.Connection(str(part))) as copy:
        found = copy.execute("PRAGMA integrity_check(1)").get
        if found != "ok":
            raise QueueError(f"the copy is damaged ({found}), so the queue's file is probably damaged, too")
        (jobs,) = only(copy, "SELECT count(*) FROM jobs")
        batches, deliveries = only(copy, "SELECT batches, deliveries FROM stored")
    return jobs, batches, deliveries


def _settle(part: Path, destination: Path) -> None:
    """Give a copy its name, durably."""
    for path in (part, part.parent):
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
            if path == part:
                os.link(part, destination)  # unlike a rename, it does not replace what came there meanwhile
        finally:
            os.close(file)
