"""Which of an app's VAPID keys signs for a subscription: a browser binds it for life to the one it was made with.

A subscription that comes with its `applicationServerKey` goes by that key. One that comes without goes by when it was
registered: with the last key that was promoted before. One that says neither goes by the oldest key that is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gateway.credentials.store import Line
from providers.base import Recipient

UNKNOWN = (
    "subscription.applicationServerKey: is of a key that this app does not have, or not any more; have the browser "
    "subscribe again"
)


class Bound(NamedTuple):
    """What was found of a list of recipients, by position."""

    pairs: dict[int, str]
    """Fingerprints of other keys than the first."""
    refused: dict[int, str]


def bind(line: Line, recipients: Sequence[Recipient], registered: Sequence[bytes]) -> Bound:
    """Find the keys. `registered` is UNIX seconds as text, or empty."""
    bound = Bound({}, {})
    signings = line.pairs.values() or (line.first,)
    by_key = {signing.credential.key_id: signing for signing in signings}
    newest_first = sorted(signings, key=lambda signing: signing.promoted, reverse=True)
    for position, recipient in enumerate(recipients):
        key = recipient.subscription.applicationServerKey if recipient.subscription is not None else None
        if key is not None:
            signing = by_key.get(key.rstrip("="))
            if signing is None:
                bound.refused[position] = UNKNOWN
                continue
        elif len(newest_first) == 1 or not registered[position]:
            continue
        else:
            at = float(registered[position])
            signing = next((each for each in newest_first if each.promoted <= at), line.first)
        if signing is not line.first:
            bound.pairs[position] = signing.credential.fingerprint
    return bound
