"""A disk that refuses to write: nothing is told to be stored, and the queue goes on as soon as it writes again."""

from __future__ import annotations

from collections.abc import Iterator

import apsw
import pytest

from gateway.queue.base import Idempotency, QueueFull
from tests.gateway.queue.contract import Opener, accept
from tests.gateway.queue.samples import NOW, batch, job, room, stored


class Disk(apsw.VFS):
    """Raises what it is told to at each write, while it is told to."""

    def __init__(self) -> None:
        super().__init__("failing", "unix", makedefault=True)
        self.error: type[apsw.Error] | None = None

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _File(self, name, flags)


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("unix", name, flags)
        self._disk = disk

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._disk.error is not None:
            raise self._disk.error("by the test")
        super().xWrite(data, offset)


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.unregister()


@pytest.mark.parametrize("error", [apsw.FullError, apsw.ReadOnlyError, apsw.IOError], ids=["full", "readonly", "io"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # apsw shows what a VFS raises
async def test_nothing_is_stored_and_it_goes_on(disk: Disk, open_queue: Opener, error: type[apsw.Error]) -> None:
    """Also a lease that finds nothing says that the disk is failing, and later that it is not."""
    queue = await open_queue("first")
    await stored(queue, batch())
    (lease,) = await queue.lease(room(), NOW)
    disk.error = error
    with pytest.raises(QueueFull, match="nothing was stored"):
        await queue.submit(job(), Idempotency("key", b"f"), [batch()], b"answer")
    for _ in range(2):
        with pytest.raises(QueueFull):
            await queue.lease(room(), NOW)
    with pytest.raises(QueueFull):
        await queue.complete(accept(lease), [], NOW)
    assert (await queue.depth())[:2] == (1, 3)
    disk.error = None
    assert await queue.lease(room(), NOW) == []
    await queue.complete(lease, [], NOW)
    assert await queue.submit(job(), Idempotency("key", b"f"), [batch()], b"answer") is None
    assert len(await queue.lease(room(), NOW)) == 1
    await queue.close()
