"""What a simulator does to whom: deterministic from a seed, so that a run can be repeated.

A `Script` is rules in order; the first that applies to a target is what happens to it. Without a rule a valid
request is accepted. Where targets are free text (FCM, Web Push, the stub), their own name can say what happens:
`unreg-…`, `quota-…`, `unavail-2-…`, `slow-50-…`, `lost-…`; see `NAMES`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

Fault = Literal[
    "",
    "hang",  #: never answered
    "lost",  #: processed, then the connection is cut before the answer
    "cut",  #: the connection is cut before anything is processed
    "reset",  #: RST_STREAM with `code` instead of an answer; REFUSED_STREAM (7) means not processed
    "reset_after",  #: the whole answer, then RST_STREAM with `code`
    "goaway",  #: GOAWAY with `code`, last_stream_id below this stream, which is not processed
    "drain",  #: graceful: GOAWAY with 2^31-1, then with the last stream, then closed when all is answered
    "settings",  #: SETTINGS_MAX_CONCURRENT_STREAMS becomes `code`, then the answer
    "slow",  #: the body a byte at a time, `delay` seconds apart
]

TRANSIENT = frozenset({"throttled", "unavailable", "failed"})
"""Answers that another attempt may not get again."""


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens to some targets."""

    prefix: str = ""
    """Targets that start so; "" is every target."""
    share: float = 1.0
    """Of the targets, chosen by the seed. Shares of one script never overlap."""
    attempts: int | None = None
    """Only a target's first so many attempts; later ones are accepted."""
    answer: str = "accepted"
    """accepted, unregistered, rejected, throttled, unavailable, failed, credential; or the service's own reason."""
    fault: Fault = ""
    code: int = 0
    delay: float = 0.0
    """Seconds before the answer."""
    retry_after: int | str | None = None
    """Seconds or an HTTP-date, where the answer may carry it."""
    since: float | None = None
    """UNIX seconds since when an unregistered target is dead; None: since the simulator's start."""


ACCEPT = Rule()


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rules in order, and the seed that chooses shares."""

    rules: tuple[Rule, ...] = ()
    seed: int = 0

    @classmethod
    def shares(cls, shares: Mapping[str, float], seed: int = 0, *, attempts: int = 1) -> Script:
        """A mix such as {"unregistered": 0.05, "throttled": 0.05}; transient answers hit `attempts` attempts only."""
        rules = tuple(
            Rule(answer=answer, share=share, attempts=attempts if answer in TRANSIENT else None)
            for answer, share in shares.items()
        )
        return cls(rules, seed)


class _Bound(NamedTuple):
    """A rule with the interval of places that its share takes."""

    prefix: bytes
    low: float
    high: float
    attempts: float
    rule: Rule


class Player:
    """Plays a script: knows how often each target was tried."""

    def __init__(self, *, named: bool) -> None:
        self._named = named
        self.tries: dict[bytes, int] = {}
        self.load(Script())

    def load(self, script: Script) -> None:
        self._seed = script.seed
        self._bounds = _bind(script.rules)

    def rule(self, target: bytes) -> Rule:
        """What happens to this attempt; counts it."""
        attempt = self.tries[target] = self.tries.get(target, 0) + 1
        place = -1.0
        for prefix, low, high, attempts, rule in self._bounds:
            if not target.startswith(prefix):
                continue
            if high - low < 1:
                if place < 0:
                    place = zlib.crc32(target, self._seed) / 0x100000000
                if not low <= place < high:
                    continue
            return rule if attempt <= attempts else ACCEPT
        return named_rule(target, attempt) if self._named else ACCEPT


def _bind(rules: tuple[Rule, ...]) -> list[_Bound]:
    bounds, used = [], 0.0
    for rule in rules:
        low, high = (0.0, 1.0) if rule.share >= 1 else (used, used + rule.share)
        if rule.share < 1:
            used = high
        attempts = float("inf") if rule.attempts is None else rule.attempts
        bounds.append(_Bound(rule.prefix.encode(), low, high, attempts, rule))
    return bounds


NAMES: dict[bytes, Rule] = {
    b"unreg": Rule(answer="unregistered"),
    b"badtok": Rule(answer="rejected"),
    b"mismatch": Rule(answer="mismatch"),
    b"apns401": Rule(answer="downstream"),
    b"quota": Rule(answer="throttled", retry_after=60),
    b"devrate": Rule(answer="throttled"),
    b"int": Rule(answer="failed", attempts=1),
    b"unavail": Rule(answer="unavailable", attempts=1),
    b"flaky": Rule(answer="unavailable"),
    b"slow": Rule(),
    b"lost": Rule(fault="lost", attempts=1),
    b"hang": Rule(fault="hang", attempts=1),
}
"""First word of a target's name -> what happens. A number after it (`int-2-…`) is the attempts that fail; for
`flaky` the per cent of attempts that fail, for `slow` the milliseconds of delay."""

_NAME = re.compile(rb"([a-z0-9]+)-(?:(\d+)-)?")


def named_rule(target: bytes, attempt: int) -> Rule:
    """What a target's own name asks for."""
    match = _NAME.match(target)
    rule = match and NAMES.get(match[1])
    if not match or not rule:
        return ACCEPT
    number = int(match[2]) if match[2] else None
    if match[1] == b"slow":
        return msgspec.structs.replace(rule, delay=(number or 0) / 1000)
    if match[1] == b"flaky":
        fails = zlib.crc32(target, attempt) % 100 < (50 if number is None else number)
        return rule if fails else ACCEPT
    allowed = number or rule.attempts
    return rule if rule.attempts is None or allowed is None or attempt <= allowed else ACCEPT
