"""The first key: made when there has never been one, and left where the command line of this machine finds it."""

from __future__ import annotations

import os
from pathlib import Path

import apsw

from gateway.access import keys
from gateway.access.keys import Wish
from gateway.access.names import DEFAULT
from gateway.audit.log import GATEWAY
from gateway.queue.rows import only

NAME = "first"
FILE = "carillon.key"
"""In the data folder, for its owner alone."""


def path(data: Path) -> Path:
    """Where the first key of a gateway with this data folder lies."""
    return data / FILE


def make(db: apsw.Connection, data: Path, now: float) -> str | None:
    """Make it inside a transaction, if there has never been a key; the secret, or None.

    Raises:
        OSError: it cannot be written down, so it must not be made.
    """
    if only(db, "SELECT count(*) FROM api_keys")[0]:
        return None
    secret = keys.create(db, now, GATEWAY, Wish(DEFAULT, NAME)).secret
    file = path(data)
    file.unlink(missing_ok=True)  # of a gateway whose queue's file is gone
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as written:
        written.write(secret + "\n")
    return secret


def read(data: Path) -> str | None:
    """The key that lies there, if it does and may be read."""
    try:
        return path(data).read_text("ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
