"""From HEADERS, CONTINUATION and DATA to answers.

A run of bare `:status 200` answers is found by one regular expression and settled in one loop, 0.3 us each, and a run
of other answers that are alike (`gateway.http2.alike`) as columns. Every other frame takes the long way. What the fast
ways take is what the long way would: a test sends all of it both ways.
"""

from __future__ import annotations

import contextlib
import re
import struct
from typing import NamedTuple

from gateway.http2 import alike, frames
from gateway.http2.budget import ControlBudget
from gateway.http2.frames import ErrorCode, ProtocolError, Type
from gateway.http2.hpack import ACCEPTED, AnswerDecoder, Decoded, HeaderError, succeeds
from gateway.http2.results import Answer, Run, Tag
from gateway.http2.streams import Incomplete, Streams
from gateway.http2.windows import Inflow
from providers.base import Alike, Headers

MAX_BODY = 64 * 1024 - 1
"""Of an answer, which is also a stream's receive window, so that no stream needs a WINDOW_UPDATE from us."""

MAX_HEADER_BLOCK = 16 * 1024
MAX_FIELDS = 64
MAX_CONTINUATIONS = 16
MAX_INFORMATIONAL = 4

TINY_DATA = 64
"""Bytes of a DATA frame below which it counts against the budget, unless it ends its stream."""

BARE_ACCEPTED = b"\x00\x00\x01\x01\x05"
"""Start of a HEADERS frame of one byte with END_HEADERS and END_STREAM; `:status 200` is the index 0x88."""
_RUN_OF_ACCEPTED = re.compile(rb"(?:\x00\x00\x01\x01\x05[\x00-\x7f]...\x88)+", re.DOTALL)
_STREAM_IDS = struct.Struct(">5xIx").iter_unpack
_BARE_SIZE = 10


class Begun(NamedTuple):
    """A header block of which more is to come."""

    stream_id: int
    flags: int
    fragments: list[bytes]


class Answers:
    """Reads the answers of one connection. Each `settle_…` takes whole frames from `data`, or nothing.

    They return the position behind what they took: 0 if the first frame has to go the long way.
    """

    def __init__(self, streams: Streams, inflow: Inflow, budget: ControlBudget) -> None:
        self.successes = alike.Successes()
        """What the next ones probably look like."""
        self.block: Begun | None = None
        """A header block that has begun and not ended; nothing else may come in between (section 6.10)."""
        self._streams = streams
        self._inflow = inflow
        self._budget = budget
        self._decoder = AnswerDecoder(MAX_HEADER_BLOCK, MAX_FIELDS)

    def settle_bare(self, data: bytes, start: int) -> int:
        """A run of one-byte HEADERS frames that are a whole answer each.

        What is skipped: decoding (the byte is an index into the static table, whatever the dynamic table holds) and
        the search for a part of the answer that came before, or of a request that is not through, which streams that
        are not simple have. From a stream on that we closed or never opened, the run goes the long way.
        """
        if self.block is not None:
            return 0
        run = _RUN_OF_ACCEPTED.match(data, start)
        if run is None:
            return 0
        streams = self._streams
        settled = 0
        if streams.simple:
            pop, accepted = streams.open.pop, streams.results.accepted
            before = len(accepted)
            try:  # with `contextlib.suppress`, 0.4 us a run: refusals cut answers into short ones
                for (stream_id,) in _STREAM_IDS(run.group()):
                    accepted.append(pop(stream_id))
            except KeyError:
                pass
            settled = len(accepted) - before
            if settled:
                streams.progressed(settled)
        behind = run.end()
        if start + settled * _BARE_SIZE < behind:
            for (stream_id,) in _STREAM_IDS(data[start + settled * _BARE_SIZE : behind]):
                self.headers(frames.END_STREAM | frames.END_HEADERS, stream_id, b"\x88")
        return behind

    def settle_alike(self, shape: alike.Shape, data: bytes, start: int) -> int:
        """Answers of a shape.

        What is skipped: the same as in `settle_bare`. From a stream on that we closed or never opened, they go the
        long way.
        """
        streams = self._streams
        if self.block is not None or not streams.simple:
            return 0
        found = shape.find(data, start)
        if found is None:
            return 0
        tags: list[Tag] = []
        with contextlib.suppress(KeyError):
            tags.extend(map(streams.open.pop, found.stream_ids))  # keeps those before the one that is missing
        count = len(tags)
        if not count:
            return 0
        if shape.accepted:
            streams.results.accepted += tags
        else:
            told = Alike(shape.status, shape.headers, shape.place, found.values[:count], found.bodies[:count])
            streams.results.answers.append(Run(tags, told))
        self._inflow.received += shape.body_size * count
        streams.progressed(count)
        return start + shape.stride * count

    def settle_pair(self, data: bytes, start: int, stop: int, stream_id: int) -> int:
        """HEADERS (a block that was decoded before) and the one DATA frame that ends the stream, both whole in `data`.

        FCM's successes look so: 1.7 us a pair instead of 3.1. The block is from `start` to `stop`.
        """
        decoded = self._decoder.remembered(data[start:stop])
        if decoded is None or decoded.status is None or decoded.status < 200:
            return 0
        if len(data) - stop < frames.HEADER_SIZE:
            return 0
        high, low, kind, flags, answered_id = frames.FRAME_HEADER.unpack_from(data, stop)
        behind: int = stop + frames.HEADER_SIZE + low
        simple = kind == Type.DATA and flags == frames.END_STREAM and not high and low <= frames.DEFAULT_MAX_FRAME
        streams = self._streams
        if not simple or answered_id != stream_id or behind > len(data) or stream_id not in streams.open:
            return 0
        if not streams.untouched(stream_id) or self.block is not None:
            return 0
        self._inflow.received += low
        tag, body = streams.open.pop(stream_id), data[stop + frames.HEADER_SIZE : behind]
        if decoded.status < 300:  # a refusal among successes is not to make them forgotten
            self.successes.with_body(decoded, data[start:stop], body)
        streams.results.answers.append(Answer(tag, decoded.status, decoded.fields, body))
        streams.progressed(1)
        return behind

    # The long way

    def headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        """A HEADERS frame."""
        self._streams.check_known(stream_id)
        block = _unpadded(flags, payload)
        if flags & frames.PRIORITY_FLAG:
            if len(block) < 5:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            block = block[5:]
        if flags & frames.END_HEADERS:
            self._block_complete(stream_id, flags, block)
        else:
            self.block = Begun(stream_id, flags, [block])

    def continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        """A CONTINUATION frame."""
        if self.block is None:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        _, first_flags, fragments = self.block
        fragments.append(payload)
        if len(fragments) > 1 + MAX_CONTINUATIONS or sum(map(len, fragments)) > MAX_HEADER_BLOCK:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "a header block without end")
        if flags & frames.END_HEADERS:
            self.block = None
            self._block_complete(stream_id, first_flags, b"".join(fragments))

    def data(self, flags: int, stream_id: int, payload: bytes) -> None:
        """A DATA frame."""
        streams = self._streams
        streams.check_known(stream_id)
        self._inflow.received += len(payload)
        data = _unpadded(flags, payload)
        if stream_id not in streams.open:
            self._budget.count()
            return
        partial = streams.incomplete.get(stream_id)
        if partial is None or not partial.status:
            streams.malformed(stream_id)
            return
        if len(payload) < TINY_DATA and not flags & frames.END_STREAM:
            self._budget.count()
        partial.body += data
        partial.received += len(payload)
        if flags & frames.END_STREAM:
            streams.complete(stream_id)
        elif partial.received >= MAX_BODY:
            # The status says enough; the rest of such a body is not worth its memory, nor the stream a new window.
            streams.cut_short(stream_id)

    def _block_complete(self, stream_id: int, flags: int, block: bytes) -> None:
        streams = self._streams
        ends = bool(flags & frames.END_STREAM)
        if stream_id not in streams.open:
            self._budget.count()  # closed by us: what was on its way is ignored (section 5.1)
            return
        if ends and succeeds(block) and streams.untouched(stream_id):
            if flags == frames.END_HEADERS | frames.END_STREAM:
                self.successes.alone(ACCEPTED, block)
            streams.accept(stream_id)
            return
        status, headers = self._decode(block)
        partial = streams.incomplete.get(stream_id)
        if partial is None:
            partial = streams.incomplete[stream_id] = Incomplete()
        if partial.status:
            self._trailers(stream_id, ends, headers)
            return
        if status is None or (status < 200 and ends):
            streams.malformed(stream_id)
        elif status < 200:
            partial.informational += 1
            if partial.informational > MAX_INFORMATIONAL:
                raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "informational answers without end")
        else:
            partial.status = status
            partial.headers = headers
            if ends:
                if flags == frames.END_HEADERS | frames.END_STREAM and status < 300:
                    self.successes.alone(Decoded(status, headers), block)
                streams.complete(stream_id)

    def _decode(self, block: bytes) -> Decoded:
        try:
            return self._decoder.decode(block)
        except HeaderError as error:
            raise ProtocolError(ErrorCode.COMPRESSION_ERROR, "a header block that cannot be decoded") from error

    def _trailers(self, stream_id: int, ends: bool, headers: Headers) -> None:
        """Section 8.1: trailers end the stream and hold no pseudo-header fields."""
        if not ends or any(name.startswith(b":") for name, _ in headers):
            self._streams.malformed(stream_id)
        else:
            self._streams.complete(stream_id)


def _unpadded(flags: int, payload: bytes) -> bytes:
    """Section 6.1: a length byte in front, as many bytes behind."""
    if not flags & frames.PADDED:
        return payload
    if not payload:
        raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without its padding's length")
    if payload[0] >= len(payload):
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
    return payload[1 : len(payload) - payload[0]]
