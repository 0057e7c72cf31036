"""How much ingest takes on: every bound of the HTTP side in one place."""

from __future__ import annotations

import msgspec

KIB = 1024
MIB = 1024 * KIB


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes are bytes, durations seconds.

    What uploads hold is bounded as a whole by `memory`: a stream reserves `stream_memory` when it begins, a JSON body
    three times its size once it is larger than `free`. With the defaults that is 64 MiB, and 16 MiB for small bodies
    (`uploads` times `free`).
    """

    body: int = 8 * MIB
    """A job sent as one JSON document."""
    line: int = 64 * KIB
    """A line of a job sent as NDJSON, and a job without its recipients; also how much is decoded at a time: 350
    recipients of 180 bytes take about half a millisecond."""
    refused: int = 1000
    """Refused recipients that an answer lists; it always counts all."""
    put: int = 512 * KIB
    """Columns of whole batches that a stream collects before it stores them in one transaction."""
    open: int = MIB
    """Columns of batches that a stream keeps open for more recipients; beyond it the fullest is closed. So this is also
    what a batch of long variables can grow to."""
    routes: int = 256
    """Batches that a stream keeps open, one for each (provider, origin)."""
    stream_memory: int = 4 * MIB
    """A stream's share of `memory`: `put` and `open` twice over (columns, and their joined copies), buffers."""
    memory: int = 64 * MIB
    free: int = 64 * KIB
    """Of a JSON body, not counted: a one-time code is let in while campaigns fill the memory."""
    uploads: int = 256
    """Jobs that are being received at a time."""
    app_streams: int = 8
    """NDJSON uploads of one app at a time: half of what `memory` allows, so that two apps always fit."""
    pause: float = 30.0
    """The longest silence of a sender in the middle of a body."""
    grace: float = 30.0
    pace: int = KIB
    """All waiting for a body may take `grace` and a second for every `pace` bytes that came."""
    page: int = 1000
    """Receipts on a page, unless the caller asks for another number."""
    most: int = 10_000
    """Receipts or invalid tokens on a page at most."""
    ids: int = 1000
    """Delivery ids that may be asked for at once."""
