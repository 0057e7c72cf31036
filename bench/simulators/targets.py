"""Recipients' targets in any number, for load: the same for the same seed."""

from __future__ import annotations

import base64
import random
from collections.abc import Sequence

from .subscriptions import Factory


def targets(
    service: str,
    count: int,
    seed: int = 0,
    *,
    start: int = 0,
    name: str = "",
    endpoints: Sequence[str] = (),
) -> list[bytes]:
    """Members of recipients' JSON objects: `"token":"…"` or `"subscription":{…}`.

    Args:
        service: apns, fcm, webpush or stub.
        start: Index of the first, so that parts of a large set can be made one after the other.
        name: What FCM's, the stub's and Web Push's targets start with, such as `unreg-` (see `script.NAMES`).
        endpoints: For Web Push: the origins of its simulator, taken in turns.
    """
    if service == "webpush":
        factory = Factory()
        return [
            b'"subscription":' + factory.document(endpoints[index % len(endpoints)], f"{name}s{seed}-{index:08x}")
            for index in range(start, start + count)
        ]
    draw = random.Random(f"{service} {seed} {start}")
    if service == "apns":
        digits = draw.randbytes(32 * count).hex()
        tokens = [digits[place : place + 64] for place in range(0, 64 * count, 64)]
    else:
        length = _NAMED_LENGTH[service]
        letters = base64.urlsafe_b64encode(draw.randbytes(3 * (length // 4) * count)).decode()
        middle = ":APA91b" if service == "fcm" else ""
        tokens = [
            f"{name}{letters[place : place + 22]}{middle}{letters[place + 22 : place + length]}"
            for place in range(0, length * count, length)
        ]
    return [b'"token":"%b"' % token.encode() for token in tokens]


_NAMED_LENGTH = {"fcm": 156, "stub": 32}
"""Random characters of a token, a multiple of 4."""
