"""Rows as tuples of what the schema's STRICT tables say, which a type checker cannot know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import apsw


def every(db: apsw.Connection, sql: str, bindings: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
    return db.execute(sql, bindings).fetchall()


def first(db: apsw.Connection, sql: str, bindings: Sequence[Any] | Mapping[str, Any] = ()) -> tuple[Any, ...] | None:
    return db.execute(sql, bindings).fetchone()


def only(db: apsw.Connection, sql: str, bindings: Sequence[Any] | Mapping[str, Any] = ()) -> tuple[Any, ...]:
    """The row of a query that always has one."""
    row: tuple[Any, ...] | None = db.execute(sql, bindings).fetchone()
    assert row is not None
    return row
