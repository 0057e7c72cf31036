"""The embedded queue's file: its tables, how it is opened, and which files are refused.

Rows that change are narrow and rows that are wide never change, because SQLite rewrites a row with all its overflow
pages: recipients and columns are written once, and what leasing and sealing touch is some forty bytes.
"""

from __future__ import annotations

import enum
import os
from contextlib import closing
from pathlib import Path

import apsw

from gateway.queue.base import QueueError

APPLICATION_ID = 0x43524C4E
"""'CRLN' in the file's header (SQLite's `application_id`): how our files are told from others."""

BUSY_MILLISECONDS = 10_000
"""Longest wait for another process's transaction. Ours take milliseconds; one that takes seconds is stuck."""

PAGE_SIZE = 8192
"""A batch's receipts fit one page, and 270 KiB of columns need 34 overflow pages instead of 68."""


class JobState(enum.IntEnum):
    UPLOADING = 0  #: invisible until sealed; belongs to the process named in `uploader`
    READY = 1
    CANCELLED = 2
    DISCARDED = 3  #: abandoned or older than the retention: gone for readers, and swept away in small pieces


class BatchState(enum.IntEnum):
    UPLOADING = 0
    READY = 1  #: waits for a holder
    LEASED = 2
    DONE = 3  #: all its deliveries are terminal
    CANCELLING = 4  #: was unheld when its job was cancelled: the sweep ends it
    BEHIND = 5  #: an earlier job with its ordering key has not ended, see `ordering`
    SCHEDULED = 6  #: becomes ready at `due`, UNIX seconds: when its caller wants it delivered
    DEFERRED = 7  #: becomes ready at `due` of the queue's clock (see `clock`): it was given back until then
    PARKED = 8  #: holder after holder died with it: an operator decides


_FIRST = """
CREATE TABLE routes (
    number INTEGER PRIMARY KEY,
    app TEXT NOT NULL,
    provider TEXT NOT NULL,
    origin TEXT NOT NULL,
    UNIQUE (app, provider, origin)
) STRICT;

CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    app TEXT NOT NULL,
    lane INTEGER NOT NULL,
    due REAL NOT NULL,
    created REAL NOT NULL,
    state INTEGER NOT NULL,
    uploader TEXT,
    ordering_key TEXT,
    expires REAL,
    deliveries INTEGER NOT NULL DEFAULT 0,
    open_batches INTEGER NOT NULL DEFAULT 0,
    finished REAL
) STRICT;
CREATE INDEX jobs_unsettled ON jobs (state) WHERE state IN (0, 3);
CREATE INDEX jobs_finished ON jobs (finished) WHERE finished IS NOT NULL;

CREATE TABLE lines (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    app TEXT NOT NULL,
    key TEXT NOT NULL,
    job INTEGER NOT NULL UNIQUE
) STRICT;
CREATE INDEX lines_key ON lines (app, key, number);

CREATE TABLE messages (
    job INTEGER PRIMARY KEY,
    body BLOB NOT NULL
) STRICT;

CREATE TABLE idempotency (
    key TEXT PRIMARY KEY,
    job_id TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    answer BLOB,
    expires REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_job ON idempotency (job_id);
CREATE INDEX idempotency_expires ON idempotency (expires);

CREATE TABLE batches (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    job INTEGER NOT NULL,
    route INTEGER NOT NULL,
    lane INTEGER NOT NULL,
    due REAL,
    count INTEGER NOT NULL,
    state INTEGER NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    owner TEXT,
    lease_until REAL,
    parked REAL,
    finished REAL
) STRICT;
CREATE INDEX batches_job ON batches (job);
CREATE INDEX batches_ready ON batches (lane, route, sequence, crashes, count) WHERE state = 1;
CREATE INDEX batches_suspected ON batches (lane, sequence) WHERE state = 1 AND crashes > 0;
CREATE INDEX batches_oldest ON batches (sequence) WHERE state = 1;
CREATE INDEX batches_scheduled ON batches (due) WHERE state = 6;
CREATE INDEX batches_deferred ON batches (due) WHERE state = 7;
CREATE INDEX batches_leased ON batches (lease_until, owner) WHERE state = 2;
CREATE INDEX batches_cancelling ON batches (sequence) WHERE state = 4;
CREATE INDEX batches_parked ON batches (sequence) WHERE state = 8;

CREATE TABLE work (
    sequence INTEGER PRIMARY KEY,
    columns BLOB NOT NULL
) STRICT;

CREATE TABLE recipients (
    sequence INTEGER PRIMARY KEY,
    ids BLOB NOT NULL
) STRICT;

CREATE TABLE receipts (
    sequence INTEGER PRIMARY KEY,
    states BLOB NOT NULL,
    notes BLOB,
    milliseconds BLOB NOT NULL
) STRICT;

CREATE TABLE feed (
    revision INTEGER PRIMARY KEY AUTOINCREMENT,
    job INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    indexes BLOB
) STRICT;
CREATE INDEX feed_job ON feed (job);

CREATE TABLE cancellations (
    revision INTEGER PRIMARY KEY AUTOINCREMENT,
    job INTEGER NOT NULL UNIQUE
) STRICT;

CREATE TABLE dead_targets (
    revision INTEGER PRIMARY KEY AUTOINCREMENT,
    app TEXT NOT NULL,
    provider TEXT NOT NULL,
    key BLOB NOT NULL,
    since REAL NOT NULL,
    reason TEXT NOT NULL,
    UNIQUE (app, provider, key)
) STRICT;

CREATE INDEX dead_targets_app ON dead_targets (app);

CREATE TABLE stored (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    batches INTEGER NOT NULL,
    deliveries INTEGER NOT NULL
) STRICT;
INSERT INTO stored VALUES (1, 0, 0);

CREATE TABLE machine (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    boot BLOB NOT NULL,
    starts INTEGER NOT NULL,
    probes INTEGER NOT NULL
) STRICT;
INSERT INTO machine VALUES (1, x'', 0, 0);
"""

_AUDIT = """
CREATE TABLE audit (
    number INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    tenant TEXT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE INDEX audit_tenant ON audit (tenant, number);
CREATE TRIGGER audit_stays BEFORE UPDATE ON audit BEGIN SELECT raise(ABORT, 'the audit log is only added to'); END;
CREATE TRIGGER audit_keeps BEFORE DELETE ON audit BEGIN SELECT raise(ABORT, 'the audit log is only added to'); END;

CREATE TABLE audit_head (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    number INTEGER NOT NULL,
    hash BLOB NOT NULL
) STRICT;
INSERT INTO audit_head VALUES (1, 0, zeroblob(32));

UPDATE idempotency SET key = substr(key, 1, instr(key, '/') - 1) || ' ' || substr(key, instr(key, '/') + 1);
"""
"""Its last line: the keys of two apps cannot be the same, whatever is in an app's name or a caller's key."""

_ORDERED_EXPIRY = """
CREATE INDEX jobs_ordered ON jobs (expires)
    WHERE ordering_key IS NOT NULL AND finished IS NULL AND expires IS NOT NULL;
"""

_CREDENTIALS = """
CREATE TABLE credentials (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    app TEXT NOT NULL,
    provider TEXT NOT NULL,
    source TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    key_id TEXT NOT NULL,
    expires REAL,
    sealed BLOB,
    state TEXT NOT NULL,
    share REAL NOT NULL,
    trouble TEXT NOT NULL,
    proven REAL,
    promoted REAL,
    since REAL NOT NULL,
    until REAL,
    added REAL NOT NULL,
    actor TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX credentials_active ON credentials (app, provider) WHERE state = 'active';
CREATE UNIQUE INDEX credentials_canary ON credentials (app, provider) WHERE state = 'canary';

CREATE TABLE credential_steps (
    revision INTEGER PRIMARY KEY AUTOINCREMENT,
    credential INTEGER NOT NULL,
    app TEXT NOT NULL,
    provider TEXT NOT NULL,
    at REAL NOT NULL,
    actor TEXT NOT NULL,
    step TEXT NOT NULL,
    state TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;

CREATE TABLE credential_counts (
    credential INTEGER NOT NULL,
    worker TEXT NOT NULL,
    since REAL NOT NULL,
    accepted INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    all_accepted INTEGER NOT NULL,
    all_failed INTEGER NOT NULL,
    PRIMARY KEY (credential, worker)
) STRICT, WITHOUT ROWID;
"""
"""Several of an (app, provider), with the steps that brought them where they are; `sealed` is ciphertext."""

_KEYS = """
CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE,
    scopes TEXT NOT NULL,
    apps TEXT,
    created REAL NOT NULL,
    created_by TEXT NOT NULL,
    expires REAL,
    revoked REAL,
    last_used REAL
) STRICT, WITHOUT ROWID;
CREATE INDEX api_keys_name ON api_keys (tenant, name);

CREATE TABLE api_keys_state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    revision INTEGER NOT NULL
) STRICT;
INSERT INTO api_keys_state VALUES (1, 0);
"""

_CURSORS = """
ALTER TABLE api_keys_state ADD COLUMN cursors BLOB NOT NULL DEFAULT x'';
UPDATE api_keys_state SET cursors = randomblob(32);
"""

_WEBHOOKS = """
CREATE TABLE webhook_endpoints (
    number INTEGER PRIMARY KEY,
    app TEXT NOT NULL,
    name TEXT NOT NULL,
    receipts INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    disabled TEXT NOT NULL DEFAULT '',
    failing_since REAL,
    delivered INTEGER NOT NULL DEFAULT 0,
    delivered_at REAL,
    trouble TEXT NOT NULL DEFAULT '',
    UNIQUE (app, name)
) STRICT;

CREATE TABLE webhook_messages (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    endpoint INTEGER NOT NULL,
    kind TEXT NOT NULL,
    start INTEGER NOT NULL,
    stop INTEGER NOT NULL,
    count INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    since REAL NOT NULL,
    due REAL NOT NULL,
    exhausted INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX webhook_messages_due ON webhook_messages (endpoint, exhausted, due);
"""

MIGRATIONS: tuple[str, ...] = (_FIRST, _AUDIT, _ORDERED_EXPIRY, _CREDENTIALS, _KEYS, _CURSORS, _WEBHOOKS)
"""What leads from each schema version (SQLite's `user_version`) to the next; the first starts from an empty file."""

VERSION = len(MIGRATIONS)


def check_library(version: str) -> None:
    """Refuse an SQLite that may lose committed pages.

    3.7.0 to 3.51.2 have the WAL-reset bug: with two connections, a checkpoint that races with a write can drop
    committed pages. It was fixed in 3.51.3 and in the maintenance releases 3.44.6 and 3.50.7.
    """
    parts = tuple(int(part) for part in version.split(".")[:3])
    fixed = parts >= (3, 51, 3) or (3, 50, 7) <= parts < (3, 51) or (3, 44, 6) <= parts < (3, 45)
    if not fixed:
        raise QueueError(
            f"SQLite {version} can lose committed data (the WAL-reset bug); install apsw 3.51.3 or newer, "
            "which brings its own SQLite"
        )


def be_patient(connection: apsw.Connection, milliseconds: int) -> None:
    """How long to wait for what another connection holds."""
    connection.set_busy_timeout(milliseconds)
    # Tries a held lock each millisecond instead of backing off to 100 ms as the busy handler does.
    connection.setlk_timeout(milliseconds, 0)


def damaged(path: Path) -> QueueError:
    return QueueError(
        f"{path} is not an SQLite database, or it is damaged: point the queue to another file, or restore it "
        "from a backup"
    )


def connect(path: Path) -> apsw.Connection:
    """Open a connection with the settings that the queue's promises need; the file need not exist.

    Raises:
        QueueError: the file cannot be opened, or it is not an SQLite database.
    """
    check_library(apsw.sqlite_lib_version())
    try:
        connection = apsw.Connection(os.fspath(path))
        be_patient(connection, BUSY_MILLISECONDS)
        check_ours(connection, path)  # before anything of it is changed
        if connection.pragma("page_count") == 0:
            connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # on an existing file it would write each time
        if (mode := connection.pragma("journal_mode", "wal")) != "wal":
            raise QueueError(f"{path} cannot use a write-ahead log ({mode}): put it on a local file system")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA mmap_size = 0")  # memory-mapped reads have made corruption worse before
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA cache_size = -16384")
        connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
        connection.wal_autocheckpoint(0)
        # Else a statement that could use a partial index for some values of its parameters is compiled anew for each:
        # 90 of the 520 us that the writer spends on a one-time code. No statement of ours wants that.
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise damaged(path) from error
    except apsw.Error as error:
        raise QueueError(
            f"{path} cannot be opened ({type(error).__name__}): its directory must exist and be writable, and "
            "there must be room on the disk"
        ) from error
    return connection


def prepare(path: Path) -> None:
    """See that a file can be used, and bring it up to date, before processes are started that share it.

    Raises:
        QueueError: as `connect` and `migrate`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(connect(path)) as connection:
        migrate(connection, path)


def check_ours(connection: apsw.Connection, path: Path) -> None:
    """Refuse a database that this program cannot read; one with nothing in it is anybody's.

    Raises:
        QueueError: it is somebody else's file, or a newer program has written it.
    """
    application, version = connection.pragma("application_id"), connection.pragma("user_version")
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
    if application != APPLICATION_ID and (application, version, tables) != (0, 0, 0):
        raise QueueError(f"{path} is another program's database: point the queue to a file of its own")
    if version > VERSION:
        raise QueueError(
            f"{path} has schema {version} and this program knows {VERSION}: it was written by a newer one. Run "
            "that one, or point the queue to another file"
        )


def migrate(connection: apsw.Connection, path: Path) -> None:
    """Bring the file to this program's schema.

    Raises:
        QueueError: it is somebody else's file, or a newer program has written it.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        _migrate(connection, path)
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if isinstance(error, apsw.NotADBError | apsw.CorruptError):
            raise damaged(path) from error
        raise


def _look_into(connection: apsw.Connection) -> None:
    """Touch where each table begins: a damage there is found now. A check of the whole file would take minutes."""
    for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
        connection.execute(f'SELECT * FROM "{name}" NOT INDEXED LIMIT 1').fetchall()


def _migrate(connection: apsw.Connection, path: Path) -> None:
    check_ours(connection, path)
    version = connection.pragma("user_version")
    _look_into(connection)
    if version < VERSION:  # otherwise nothing is written, so that a full disk does not keep the gateway from starting
        for step in MIGRATIONS[version:]:
            connection.execute(step)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
