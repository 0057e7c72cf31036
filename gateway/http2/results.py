"""What becomes of requests, as a protocol tells its owner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from providers.base import Alike, Headers

Tag = Any
"""Whatever the sender wants to find a request by; the protocol hands it back untouched."""


class Answer(NamedTuple):
    tag: Tag
    status: int
    headers: Headers
    body: bytes


class Run(NamedTuple):
    """Answers that came one after the other and are alike."""

    tags: list[Tag]
    alike: Alike

    @property
    def headers(self) -> Headers:
        """The first one's."""
        return next(self.alike.each_headers())

    def each(self) -> Iterator[Answer]:
        """They one by one."""
        for tag, headers, body in zip(self.tags, self.alike.each_headers(), self.alike.bodies, strict=True):
            yield Answer(tag, self.alike.status, headers, body)


class Results:
    """What became of requests since the last look. Each tag appears once, in one of the lists."""

    __slots__ = ("accepted", "answers", "cut", "unknown", "unsent")

    def __init__(self) -> None:
        self.accepted: list[Tag] = []
        """Status 200 without a body, and header fields nobody looked at."""
        self.answers: list[Answer | Run] = []
        """In order."""
        self.unsent: list[Tag] = []
        """Known not to have been processed: REFUSED_STREAM, above GOAWAY's last stream id (section 8.7)."""
        self.unknown: list[tuple[Tag, str]] = []
        """Sent, and no answer will come; with the reason."""
        self.cut = False
        """Whether they are unknown because their connection broke off."""

    def __bool__(self) -> bool:
        return bool(self.accepted or self.answers or self.unsent or self.unknown)

    @property
    def answered(self) -> list[Answer]:
        """The answers one by one."""
        return [one for answer in self.answers for one in (answer.each() if isinstance(answer, Run) else (answer,))]

    @property
    def settled(self) -> int:
        """How many requests got an answer."""
        return len(self.accepted) + sum(len(answer.tags) if isinstance(answer, Run) else 1 for answer in self.answers)
