"""A process that sends all that its slice of a shared rate allows, as one gateway's dispatcher would.

Run as `python -m tests.gateway.shared.spender URL RATE`; each line is an instant of the machine's clock, in seconds,
and what was sent since the one before.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time

from gateway.dispatch.governor import Governor
from gateway.dispatch.slices import Slices
from gateway.shared.redis import RedisState

LOOK = 0.01
TOLD = 0.05


async def main(url: str, rate: float) -> None:
    state = RedisState(url, prefix="test")
    await state.open()
    slices = Slices(state, 1, random.Random())
    slice_ = slices.open("shop/fcm", rate, lambda: None)
    governor = Governor(rate, asyncio.get_running_loop().time(), random.Random(), slice_)
    running = asyncio.create_task(slices.run())
    sent, tell_at = 0, 0.0
    while not running.done():
        count = governor.room(asyncio.get_running_loop().time())
        governor.spend(count)
        sent += count
        if (now := time.monotonic()) >= tell_at:
            print(f"{now:.4f} {sent}", flush=True)
            sent, tell_at = 0, now + TOLD
        await asyncio.sleep(LOOK)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
