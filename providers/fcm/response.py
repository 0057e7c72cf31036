"""What FCM's answers mean: fcm.md, section 4.

`FcmError.errorCode` decides, then the status and HTTP code; the message text never does, nor the HTTP code alone.

https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode
https://firebase.google.com/docs/cloud-messaging/scale-fcm
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from providers.base import Headers, Outcome, Scope, Verdict
from providers.retry_after import retry_after

LEAST_WAIT = 10.0
"""Seconds before the first try again after a 5xx (Google: at least 10)."""
LONGEST_WAIT = 3600.0
QUOTA_WAIT = 60.0
"""Seconds after a 429 without Retry-After (Google: at least a minute)."""

FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"

UNREGISTERED = "UNREGISTERED"

TABLE: dict[tuple[int, str], Outcome] = {
    # A malformed token, or a payload, package name, size or ttl that `check` did not catch. Which one it is nobody
    # can tell from here, and a good token must not die of a bad message.
    (400, "INVALID_ARGUMENT"): Outcome(verdict=Verdict.REJECTED, reason="INVALID_ARGUMENT"),
    # The APNs key or web push key in the Firebase project is bad: neither our access token nor the target is to
    # blame, and Android targets of the same project go on working.
    (401, "THIRD_PARTY_AUTH_ERROR"): Outcome(verdict=Verdict.REJECTED, reason="THIRD_PARTY_AUTH_ERROR"),
    (401, "APNS_AUTH_ERROR"): Outcome(verdict=Verdict.REJECTED, reason="THIRD_PARTY_AUTH_ERROR"),  # its old name
    # A live token of another project. Not dead: many of these mean a wrong setting.
    (403, "SENDER_ID_MISMATCH"): Outcome(verdict=Verdict.REJECTED, reason="SENDER_ID_MISMATCH"),
    # Seen when a method is gone; the same again would be as unknown.
    (501, "UNIMPLEMENTED"): Outcome(verdict=Verdict.REJECTED, reason="UNIMPLEMENTED"),
}


class _Sent(msgspec.Struct):
    name: str


class _Detail(msgspec.Struct):
    """One of `details[]`, of which there may be several kinds in any order."""

    type: str = msgspec.field(default="", name="@type")
    errorCode: str = ""  # noqa: N815 - Google's spelling
    reason: str = ""
    fieldViolations: list[Any] = []  # noqa: N815 - Google's spelling


class _Error(msgspec.Struct):
    status: str = ""
    details: list[_Detail] = []


class _Body(msgspec.Struct):
    error: _Error = msgspec.field(default_factory=_Error)


_decode_sent = msgspec.json.Decoder(_Sent).decode
_decode_error = msgspec.json.Decoder(_Body).decode
_WORD = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


def outcome(status: int, headers: Headers, body: bytes, now: float) -> Outcome:
    """By error code, then by status."""
    if status == 200:
        return _accepted(body)
    error = _read(body)
    code = _code(error)
    known = TABLE.get((status, code)) or TABLE.get((status, error.status))
    if known is not None and not (status == 400 and _has_violations(error)):
        return known
    if status == 400:
        # With the fields that are wrong: certainly the message.
        return Outcome(verdict=Verdict.REJECTED, reason="BAD_REQUEST" if _has_violations(error) else _name(error, status))
    if status == 404:
        return _not_found(code, error, now)
    if status in (401, 403):
        return _credential(status, error)
    return _by_class(status, headers, code or _name(error, status), now)


def _accepted(body: bytes) -> Outcome:
    try:
        name = _decode_sent(body).name
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Outcome(verdict=Verdict.ACCEPTED)
    return Outcome(verdict=Verdict.ACCEPTED, provider_id=name.rpartition("/")[2])


def _read(body: bytes) -> _Error:
    try:
        return _decode_error(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Error()


def _code(error: _Error) -> str:
    for detail in error.details:
        if detail.type == FCM_ERROR and _WORD.fullmatch(detail.errorCode):
            return detail.errorCode
    return ""


def _has_violations(error: _Error) -> bool:
    return any(detail.type == BAD_REQUEST and detail.fieldViolations for detail in error.details)


def _name(error: _Error, status: int) -> str:
    return error.status if _WORD.fullmatch(error.status) else f"http_{status}"


def _not_found(code: str, error: _Error, now: float) -> Outcome:
    if code == UNREGISTERED:
        return Outcome(verdict=Verdict.UNREGISTERED, reason=UNREGISTERED, dead_since=now)
    # Without the error code it is not the target that was not found but the project or the address.
    return Outcome(verdict=Verdict.CREDENTIAL, reason=_name(error, 404), scope=Scope.APP)


def _credential(status: int, error: _Error) -> Outcome:
    """Ours: an access token that expired or was revoked (401), or an account without the permission (403)."""
    for detail in error.details:
        if detail.reason and _WORD.fullmatch(detail.reason):
            reason = detail.reason
            break
    else:
        reason = _name(error, status)
    return Outcome(verdict=Verdict.CREDENTIAL, reason=reason, scope=Scope.CREDENTIAL, remint=status == 401)


def _by_class(status: int, headers: Headers, reason: str, now: float) -> Outcome:
    wait = retry_after(headers, now, least=LEAST_WAIT, most=LONGEST_WAIT)
    if status == 429:
        # The project's quota or overload; FCM says the same where it is one device's, which only comparison can tell.
        wait = QUOTA_WAIT if wait is None else wait
        return Outcome(verdict=Verdict.THROTTLED, reason=reason, retry_after=wait, scope=Scope.APP)
    if status == 408 or status >= 500:
        wait = LEAST_WAIT if wait is None else wait
        return Outcome(verdict=Verdict.UNAVAILABLE, reason=reason, retry_after=wait)
    return Outcome(verdict=Verdict.ACCEPTED if 200 <= status < 300 else Verdict.REJECTED, reason=reason)
