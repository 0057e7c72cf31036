"""When to look at what nobody tells of: on one beat, so that an idle process wakes once for all that is due.

To wake costs more than most looks, some 0.15 ms. Timers of their own, 10 to 20 times a second each, woke it 50 times.
"""

from __future__ import annotations

import asyncio
import math

LEAST = 0.02
"""Of a period, that a pause takes at least: else one that ends a little early would be followed by a second of none."""


def following(now: float, period: float) -> float:
    """The next multiple of a period, in the loop's time, that is not all but here."""
    return math.ceil(now / period + LEAST) * period


async def beat(period: float) -> None:
    """Sleep for about so many seconds, until what has the same period, or a multiple of it, wakes as well."""
    now = asyncio.get_running_loop().time()
    await asyncio.sleep(following(now, period) - now)
