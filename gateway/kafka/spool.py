"""An upload until it is whole: beside the queue, so that nothing of one that breaks off is ever in a topic."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from gateway.model import Job
from gateway.queue.base import Idempotency, NewBatch, QueueFull

_LENGTH = struct.Struct("<I")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(NewBatch).decode


class Spool:
    """One upload, in a file without a name: it goes with the process, whatever becomes of it."""

    def __init__(self, folder: Path, job: Job, idempotency: Idempotency | None) -> None:
        self.job = job
        self.idempotency = idempotency
        self.batches = 0
        self.deliveries = 0
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (lives until `close`)

    def put(self, batches: Sequence[NewBatch]) -> None:
        """Add batches.

        Raises:
            QueueFull: the disk is.
        """
        try:
            for batch in batches:
                encoded = _encode(batch)
                self._file.write(_LENGTH.pack(len(encoded)) + encoded)
            self._file.flush()
        except OSError as error:
            raise QueueFull(
                f"the upload cannot be kept ({error.strerror}): free some room, and send it again"
            ) from error
        self.batches += len(batches)
        self.deliveries += sum(batch.count for batch in batches)

    def read(self) -> Iterator[NewBatch]:
        """All of them, in their order."""
        self._file.seek(0)
        while head := self._file.read(_LENGTH.size):
            yield _decode(self._file.read(*_LENGTH.unpack(head)))

    def close(self) -> None:
        self._file.close()
