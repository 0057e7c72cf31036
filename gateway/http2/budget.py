"""How many frames that bring no answer forward a peer may send."""

from __future__ import annotations

from gateway.http2.frames import ErrorCode, ProtocolError

CONTROL_BUDGET = 10_000
"""Frames that bring no answer forward (PING, SETTINGS, DATA of nothing and their like) above what answers and seconds
have earned. It also bounds what we write because of them."""

CONTROL_AN_ANSWER = 100
CONTROL_A_SECOND = 10
"""So that a server that pings an idle connection for days does not use the budget up."""


class ControlBudget:
    """Counts them for one connection."""

    def __init__(self) -> None:
        self.used = 0.0

    def count(self) -> None:
        """One more came.

        Raises:
            ProtocolError: it is one too many.
        """
        self.used += 1
        if self.used > CONTROL_BUDGET:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "many frames and hardly an answer")

    def answered(self, answers: int) -> None:
        if self.used:
            self._forgive(CONTROL_AN_ANSWER * answers)

    def pass_time(self, seconds: float) -> None:
        self._forgive(CONTROL_A_SECOND * seconds)

    def _forgive(self, count: float) -> None:
        self.used = max(0.0, self.used - count)
