"""What FCM's answers mean: fcm.md, section 4.

`FcmError.errorCode` decides, then the status and HTTP code; the message text never does, nor the HTTP code alone.

https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode
https://firebase.google.com/docs/cloud-messaging/scale-fcm
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from providers.base import Alike, Headers, Outcome, Scope, Verdict
from providers.retry_after import retry_after

LEAST_WAIT = 10.0
"""Seconds before the first try again after a 5xx (Google: at least 10)."""
LONGEST_WAIT = 3600.0
QUOTA_WAIT = 60.0
"""Seconds after a 429 without Retry-After (Google: at least a minute)."""

DOWNSTREAM_WAIT = 300.0
"""Seconds until a target is tried again that needs a credential of the Firebase project itself."""

FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
QUOTA_KEYS = ("subject", "quotaMetric", "quotaId", "quota_metric", "quota_limit")
"""What names a quota: in a violation of a QuotaFailure, or in the metadata of an ErrorInfo."""

BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"

DOWNSTREAM = Outcome(
    verdict=Verdict.CREDENTIAL, reason="THIRD_PARTY_AUTH_ERROR", scope=Scope.TARGET, retry_after=DOWNSTREAM_WAIT
)

TABLE: dict[str, Outcome] = {
    # A malformed token, or a payload, package name, size or ttl that `check` did not catch. Which one it is nobody
    # can tell from here, and a good token must not die of a bad message.
    "INVALID_ARGUMENT": Outcome(verdict=Verdict.REJECTED, reason="INVALID_ARGUMENT"),
    # The APNs key or web push key in the Firebase project is bad: neither our access token nor the target is to
    # blame, and Android targets of the same project go on working: only this delivery waits for an operator.
    "THIRD_PARTY_AUTH_ERROR": DOWNSTREAM,
    # The same under its old name.
    "APNS_AUTH_ERROR": DOWNSTREAM,
    # A live token of another project. Not dead: many of these mean a wrong setting.
    "SENDER_ID_MISMATCH": Outcome(verdict=Verdict.REJECTED, reason="SENDER_ID_MISMATCH"),
    # The app was removed, or the token expired after 270 days without a sign of life.
    "UNREGISTERED": Outcome(verdict=Verdict.UNREGISTERED, reason="UNREGISTERED"),
}
"""By `FcmError.errorCode`; `dead_since` is when the answer came."""

BY_STATUS: dict[int, Outcome] = {
    # Without an FcmError it is not the target that was not found, but the project or the address: a wrong setting.
    404: Outcome(verdict=Verdict.CREDENTIAL, reason="NOT_FOUND", scope=Scope.APP),
    # Seen where a method is gone; the same again would be as unknown.
    501: Outcome(verdict=Verdict.REJECTED, reason="UNIMPLEMENTED"),
}


class _Sent(msgspec.Struct):
    name: str


class _Detail(msgspec.Struct):
    """One of `details[]`, of which there may be several kinds in any order."""

    type: Any = msgspec.field(default=None, name="@type")
    errorCode: Any = None  # noqa: N815 - Google's spelling
    reason: Any = None
    fieldViolations: Any = None  # noqa: N815 - Google's spelling
    violations: Any = None
    """Of a QuotaFailure."""
    metadata: Any = None
    """Of an ErrorInfo."""


class _Error(msgspec.Struct):
    status: Any = None
    details: list[_Detail] = []


class _Body(msgspec.Struct):
    error: _Error = msgspec.field(default_factory=_Error)


_decode_sent = msgspec.json.Decoder(_Sent).decode
_decode_error = msgspec.json.Decoder(_Body).decode
_WORD = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_MESSAGE = re.compile(r"[0-9A-Fa-f:%-]{1,63}")
"""An id of FCM's: hexadecimal numbers. What is longer may be a token that came back."""
_MESSAGES = re.compile(rf"{_MESSAGE.pattern}(?:\n{_MESSAGE.pattern})*")
"""Several, a line each."""


def outcome(status: int, headers: Headers, body: bytes, now: float) -> Outcome:
    """By error code, then by status."""
    if status == 200:
        return _accepted(body)
    error = _read(body)
    code = _code(error)
    if code in TABLE:
        known = TABLE[code]
        return msgspec.structs.replace(known, dead_since=now) if known.verdict is Verdict.UNREGISTERED else known
    if status in BY_STATUS:
        return BY_STATUS[status]
    reason = code or _word(error.status) or f"http_{status}"
    if status in (401, 403):
        return _credential(status, error, reason)
    if status == 429:
        wait = retry_after(headers, now, least=LEAST_WAIT, most=LONGEST_WAIT)
        return Outcome(
            verdict=Verdict.THROTTLED,
            reason=reason,
            retry_after=QUOTA_WAIT if wait is None else wait,
            scope=_quota_scope(error),
        )
    return _by_class(status, headers, reason, now)


def provider_ids(alike: Alike) -> list[str] | None:
    """The message names of successes; 0.3 us each."""
    if alike.status != 200:
        return None
    try:
        ids = [_last_part(body) for body in alike.bodies]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    lines = "\n".join(ids)
    return ids if lines.count("\n") == len(ids) - 1 and _MESSAGES.fullmatch(lines) else None


def _last_part(body: bytes) -> str:
    return _decode_sent(body).name.rpartition("/")[2]


def _accepted(body: bytes) -> Outcome:
    try:
        message = _last_part(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Outcome(Verdict.ACCEPTED)
    return Outcome(Verdict.ACCEPTED, "", message if _MESSAGE.fullmatch(message) else "")


def _read(body: bytes) -> _Error:
    try:
        return _decode_error(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Error()


def _word(value: Any) -> str:
    return value if isinstance(value, str) and _WORD.fullmatch(value) else ""


def _code(error: _Error) -> str:
    """`BAD_REQUEST` for an INVALID_ARGUMENT that names fields: certainly the message, not the token."""
    violations = any(detail.type == BAD_REQUEST and detail.fieldViolations for detail in error.details)
    for detail in error.details:
        if detail.type == FCM_ERROR and (code := _word(detail.errorCode)):
            return "BAD_REQUEST" if violations and code == "INVALID_ARGUMENT" else code
    return "BAD_REQUEST" if violations else ""


def _credential(status: int, error: _Error, reason: str) -> Outcome:
    """Ours: an access token that expired or was revoked (401), or an account without the permission (403)."""
    info = next((word for detail in error.details if (word := _word(detail.reason))), reason)
    return Outcome(verdict=Verdict.CREDENTIAL, reason=info, scope=Scope.CREDENTIAL, remint=status == 401)


def _quota_scope(error: _Error) -> Scope:
    """Whose quota ran out: the project's, a device's, or nobody says, and only comparison with others can tell.

    Looked for in the names that machines give to subjects, metrics and limits; never in descriptions for people.
    """
    named = " ".join(_quota_names(error)).lower()
    if any(word in named for word in ("device", "registration", "token")):
        return Scope.TARGET
    return Scope.APP if "project" in named else Scope.UNNAMED


def _quota_names(error: _Error) -> Iterator[str]:
    for detail in error.details:
        violations = detail.violations if isinstance(detail.violations, list) else []
        for named in (*violations, detail.metadata):
            if isinstance(named, dict):
                yield from (value for key in QUOTA_KEYS if isinstance(value := named.get(key), str))


def _by_class(status: int, headers: Headers, reason: str, now: float) -> Outcome:
    wait = retry_after(headers, now, least=LEAST_WAIT, most=LONGEST_WAIT)
    if status == 408 or status >= 500:
        wait = LEAST_WAIT if wait is None else wait
        return Outcome(verdict=Verdict.UNAVAILABLE, reason=reason, retry_after=wait)
    return Outcome(verdict=Verdict.ACCEPTED if 200 <= status < 300 else Verdict.REJECTED, reason=reason)
