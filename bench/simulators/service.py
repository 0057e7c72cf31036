"""What the engine needs to know of a push service."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from .message import Answer, Request
from .script import Rule
from .wire import Limits


class Judgement(NamedTuple):
    """What a service thinks of a request before the script has its say."""

    key: bytes
    """For the journal."""
    target: bytes
    """What the script's rules go by."""
    refusal: Answer | None
    """The answer to a request that is not valid; None where it may be accepted."""


class Reaction(NamedTuple):
    """What a service does to a connection after an answer."""

    streams: int | None = None
    """A new MAX_CONCURRENT_STREAMS."""
    goaway: bytes | None = None
    """GOAWAY with this debug data, then closing."""


NO_REACTION = Reaction()


class Service(Protocol):
    """A push service: validates as the real one and knows its words. Does no IO."""

    name: str
    named_targets: bool
    """Whether targets are free text, so that their names may say what happens (`script.NAMES`)."""
    limits: Limits
    protocols: tuple[str, ...]
    """ALPN protocols, as the real service offers them."""

    def opened(self, peer: dict[str, Any]) -> Any:
        """A connection's state; `peer` is the client's certificate as `ssl` gives it, or empty."""

    def key(self, request: Request) -> bytes:
        """What the journal counts a request by (see `journal.Journal`)."""

    def judge(self, visit: Any, request: Request, now: float) -> Judgement:
        """Validate a request. `visit` is what `opened` gave; `now` in UNIX seconds."""

    def scripted(self, rule: Rule, request: Request, now: float) -> Answer:
        """The answer that a rule asks for; "accepted" is one of them.

        Raises:
            KeyError: the service has no such answer.
        """

    def reacted(self, visit: Any, answer: Answer) -> Reaction:
        """What follows for the connection."""

    def check(self, rule: Rule) -> None:
        """Raises KeyError where the service has no such answer."""
