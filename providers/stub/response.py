"""What the stub service's answers mean.

In a provider of your own: a table from the service's own words to outcomes, each row with its reason and, above it,
the address of the page that documents it. Words before status codes, and never a sentence meant for people. It must
not raise, whatever arrives.
"""

from __future__ import annotations

import msgspec

from providers.base import Headers, Outcome, Scope, Verdict
from providers.retry_after import retry_after

TABLE: dict[int, Outcome] = {
    # taken
    200: Outcome(verdict=Verdict.ACCEPTED),
    # our request is wrong: the same again would be as wrong
    400: Outcome(verdict=Verdict.REJECTED, reason="bad_request"),
    # the key is wrong or was taken back: no notification is to blame
    401: Outcome(verdict=Verdict.CREDENTIAL, reason="unauthorized", scope=Scope.CREDENTIAL),
    # too large for the service
    413: Outcome(verdict=Verdict.REJECTED, reason="too_large"),
}


class _Gone(msgspec.Struct):
    """The body of a 410: `{"reason": "gone", "since": UNIX seconds}`."""

    since: float | None = None


_decode_gone = msgspec.json.Decoder(_Gone).decode


def outcome(status: int, headers: Headers, body: bytes, now: float) -> Outcome:
    """By table; then what carries a time; then by class of status."""
    known = TABLE.get(status)
    if known is not None:
        return known
    if status == 410:
        return Outcome(verdict=Verdict.UNREGISTERED, reason="gone", dead_since=_since(body, now))
    if status == 429:
        wait = retry_after(headers, now, least=1, most=3600)
        return Outcome(verdict=Verdict.THROTTLED, reason="throttled", retry_after=wait, scope=Scope.APP)
    if status >= 500:
        wait = retry_after(headers, now, least=1, most=3600)
        return Outcome(verdict=Verdict.UNAVAILABLE, reason=f"http_{status}", retry_after=wait)
    return Outcome(verdict=Verdict.ACCEPTED if 200 <= status < 300 else Verdict.REJECTED, reason=f"http_{status}")


def _since(body: bytes, now: float) -> float:
    try:
        since = _decode_gone(body).since
    except (msgspec.DecodeError, UnicodeDecodeError):
        since = None
    return now if since is None else min(since, now)
