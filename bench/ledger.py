"""The ledger: what the client was told, what the services saw and what the receipts say, held against each other.

It is taken from three sides that share no code: the client's own list of accepted recipients, the simulators' journals
and the receipts as the gateway's API gives them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

ON_THE_WIRE = frozenset({"accepted", "unknown"})
"""States of a delivery that a service may have taken. With any other, it must not have, but in tries that the receipt
says got no answer: a target may die, or a service change its mind, between such a try and the next."""


class Balance(NamedTuple):
    """What `Ledger.balance` found. Clean: nothing missing, nothing extra, nothing unfinished, duplicates bounded."""

    accepted: int
    """Recipients that the client was told are accepted."""
    receipts: int
    missing: int
    """Accepted recipients without a receipt, and receipts of acceptance that no service knows of."""
    extra: int
    """Receipts nobody is owed, or second ones; notifications that a service took although their receipt denies it."""
    non_terminal: int
    duplicates: int
    """Notifications that a service took more than once, each time after the first counted."""
    duplicates_bound: int
    """What faults of the run allow: what was on the wire when they happened."""

    @property
    def clean(self) -> bool:
        return not (self.missing or self.extra or self.non_terminal) and self.duplicates <= self.duplicates_bound


class Ledger:
    """Collects the three sides. A recipient is named by the caller's id, unique over the run."""

    def __init__(self) -> None:
        self._accepted: dict[str, str | None] = {}
        self._receipts: dict[str, tuple[str, str, int]] = {}
        self._surplus = 0
        self._seen: Counter[str] = Counter()
        self.duplicates_bound = 0

    def accepted(self, recipients: Mapping[str, str | None]) -> None:
        """The client was told 202 for these: recipient -> the key by which its service's journal knows it.

        None means that the journal's key is the delivery id (APNs, the stub), which the receipt tells.
        """
        self._accepted.update(recipients)

    def receipt(self, receipt: Mapping[str, Any]) -> None:
        """A receipt as the API gives it."""
        recipient = receipt["recipient"]
        if recipient in self._receipts or recipient not in self._accepted:
            self._surplus += 1
        self._receipts[recipient] = (receipt["id"], receipt["state"], receipt.get("unanswered", 0))

    def taken(self, keys: Mapping[str, int]) -> None:
        """A service's journal: key -> how often it took such a notification."""
        self._seen.update(keys)

    def balance(self) -> Balance:
        missing = extra = non_terminal = 0
        owed: set[str] = set()
        for recipient, service_key in self._accepted.items():
            delivery, state, unanswered = self._receipts.get(recipient, ("", "", 0))
            if not state:
                missing += 1
                continue
            non_terminal += state == "pending"
            key = service_key or delivery
            owed.add(key)
            taken = self._seen.get(key, 0)
            missing += state == "accepted" and not taken
            extra += state not in ON_THE_WIRE and taken > unanswered
        extra += self._surplus + sum(key not in owed for key in self._seen)
        return Balance(
            accepted=len(self._accepted),
            receipts=sum(state != "pending" for _, state, _ in self._receipts.values()),
            missing=missing,
            extra=extra,
            non_terminal=non_terminal,
            duplicates=sum(times - 1 for times in self._seen.values() if times > 1),
            duplicates_bound=self.duplicates_bound,
        )
