"""The open streams of a connection, and how each of them ends: once, in one of the lists of `Results`."""

from __future__ import annotations

from gateway.http2.budget import ControlBudget
from gateway.http2.frames import ErrorCode, ProtocolError, Type, frame, word
from gateway.http2.results import Answer, Results, Tag
from gateway.http2.windows import Outflow
from providers.base import Headers


class Incomplete:
    """An answer of which a part has arrived."""

    __slots__ = ("body", "headers", "informational", "received", "status")

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = ()
        self.body = b""
        self.received = 0
        """Bytes of DATA, with padding: how much of the stream's window is used up."""
        self.informational = 0


class Streams:
    """What is open, what of its answers has come, and what became of the rest."""

    def __init__(self, outgoing: list[bytes], outflow: Outflow, budget: ControlBudget) -> None:
        """`outgoing` gets the frames that reset streams."""
        self.open: dict[int, Tag] = {}  # in order of their ids, which is the order of sending
        self.incomplete: dict[int, Incomplete] = {}
        self.next_id = 1
        self.results = Results()
        self.cautious = True
        """A connection's other requests wait for its first answer: APNs lowers its limit to one for token
        authentication, and what is over it when that arrives is refused, or closes the connection."""
        self._outgoing = outgoing
        self._partials = outflow.partials
        self._budget = budget

    @property
    def simple(self) -> bool:
        """Whether no stream has a part of its answer, or its body not through."""
        return not self.incomplete and not self._partials

    def untouched(self, stream_id: int) -> bool:
        """The same of one that is open."""
        return stream_id not in self.incomplete and stream_id not in self._partials

    def check_known(self, stream_id: int) -> None:
        """Section 5.1: answers belong to streams that we opened, which have odd ids."""
        if not stream_id & 1 or stream_id >= self.next_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a frame for a stream that was never opened")

    def progressed(self, answers: int) -> None:
        """So many got their answers."""
        self.cautious = False
        self._budget.answered(answers)

    def accept(self, stream_id: int) -> None:
        self.results.accepted.append(self.open.pop(stream_id))
        self.progressed(1)

    def complete(self, stream_id: int) -> None:
        """The answer is whole."""
        if stream_id in self._partials:
            # Answered before the body was through (section 8.1): nobody needs the rest.
            self.reset(stream_id, ErrorCode.CANCEL)
        self._answer(stream_id)

    def cut_short(self, stream_id: int) -> None:
        """Take what has come of the answer for all of it."""
        self.reset(stream_id, ErrorCode.CANCEL)
        self._answer(stream_id)

    def _answer(self, stream_id: int) -> None:
        partial = self.incomplete[stream_id]
        tag = self._forget(stream_id)
        self.results.answers.append(Answer(tag, partial.status, partial.headers, partial.body))
        self.progressed(1)

    def malformed(self, stream_id: int) -> None:
        """Section 8.1.1: a stream error; its neighbours do not suffer."""
        self.reset(stream_id, ErrorCode.PROTOCOL_ERROR)
        self.results.unknown.append((self._forget(stream_id), "malformed answer"))
        self._budget.count()

    def finish_broken(self, stream_id: int, reason: str) -> None:
        """No more will come. A final status that did come is an answer, even if its body is cut off."""
        partial = self.incomplete.get(stream_id)
        if partial is not None and partial.status:
            self._answer(stream_id)
        else:
            self.results.unknown.append((self._forget(stream_id), reason))

    def finish_unprocessed(self, stream_id: int, reason: str) -> None:
        """The peer says that it did nothing with the request (section 8.7), unless its own answer says otherwise."""
        if stream_id in self.incomplete:
            self.finish_broken(stream_id, reason)
        else:
            self.results.unsent.append(self._forget(stream_id))

    def expire(self, mark: int) -> int:
        """Cancel those below an id that still have no whole answer; returns how many."""
        overdue = []
        for stream_id in self.open:
            if stream_id >= mark:
                break
            overdue.append(stream_id)
        for stream_id in overdue:
            self.reset(stream_id, ErrorCode.CANCEL)
            self.finish_broken(stream_id, "timeout")
        return len(overdue)

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        self._outgoing.append(frame(Type.RST_STREAM, 0, stream_id, word(code)))

    def _forget(self, stream_id: int) -> Tag:
        self.incomplete.pop(stream_id, None)
        self._partials.pop(stream_id, None)
        return self.open.pop(stream_id)
