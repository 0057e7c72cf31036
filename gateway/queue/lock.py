"""Locks of processes on files: flock's, which the kernel undoes when their process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def try_lock(file: int) -> bool:
    """Whether the open file is ours alone now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def locked(path: Path, *, create: bool) -> Iterator[bool]:
    """Whether the file is ours alone for as long as the block runs.

    Raises:
        OSError: it cannot be opened, or it does not exist and is not to be created.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT if create else os.O_RDWR, 0o600)
    try:
        yield try_lock(file)
    finally:
        os.close(file)
