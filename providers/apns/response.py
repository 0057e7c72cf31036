"""What APNs' answers mean: apns.md, section 6.

https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns
"""

from __future__ import annotations

import re

import msgspec

from providers.base import Headers, Outcome, Scope, Verdict
from providers.retry_after import retry_after

LEAST_WAIT = 1.0
LONGEST_WAIT = 3600.0

ACCEPTED = Outcome(verdict=Verdict.ACCEPTED)


def _rejected(reason: str) -> Outcome:
    return Outcome(verdict=Verdict.REJECTED, reason=reason)


def _credential(reason: str, scope: Scope = Scope.CREDENTIAL, *, remint: bool = False) -> Outcome:
    return Outcome(verdict=Verdict.CREDENTIAL, reason=reason, scope=scope, remint=remint)


def _unavailable(reason: str) -> Outcome:
    return Outcome(verdict=Verdict.UNAVAILABLE, reason=reason)


TABLE: dict[tuple[int, str], Outcome] = {
    # Our request is wrong. `check` and `render` should make these impossible: each one also slows the connection down.
    (400, "BadCollapseId"): _rejected("BadCollapseId"),
    (400, "BadExpirationDate"): _rejected("BadExpirationDate"),
    (400, "BadMessageId"): _rejected("BadMessageId"),
    (400, "BadPriority"): _rejected("BadPriority"),
    (400, "DuplicateHeaders"): _rejected("DuplicateHeaders"),
    (400, "InvalidPushType"): _rejected("InvalidPushType"),
    (400, "PayloadEmpty"): _rejected("PayloadEmpty"),
    (400, "MissingDeviceToken"): _rejected("MissingDeviceToken"),
    (404, "BadPath"): _rejected("BadPath"),
    (405, "MethodNotAllowed"): _rejected("MethodNotAllowed"),
    (413, "PayloadTooLarge"): _rejected("PayloadTooLarge"),
    # The app's topic is wrong or not this credential's: no notification of the app can pass. A message that names a
    # topic or push type of its own is judged alone, see `outcome`.
    (400, "BadTopic"): _credential("BadTopic", Scope.APP),
    (400, "MissingTopic"): _credential("MissingTopic", Scope.APP),
    (400, "TopicDisallowed"): _credential("TopicDisallowed", Scope.APP),
    # A live token of another app. Not dead: the caller may have it under the wrong app only.
    (400, "DeviceTokenNotForTopic"): _rejected("DeviceTokenNotForTopic"),
    # The connection was idle for too long and never looked at the request.
    (400, "IdleTimeout"): Outcome(verdict=Verdict.UNSENT, reason="IdleTimeout"),
    # The certificate or key is wrong, revoked, or not for this environment: only an operator can help.
    (403, "BadCertificate"): _credential("BadCertificate"),
    (403, "BadCertificateEnvironment"): _credential("BadCertificateEnvironment"),
    (403, "InvalidProviderToken"): _credential("InvalidProviderToken"),
    (403, "MissingProviderToken"): _credential("MissingProviderToken"),
    (403, "Forbidden"): _credential("Forbidden"),
    (403, "BadEnvironmentKeyIdInToken"): _credential("BadEnvironmentKeyIdInToken"),
    # The same as the one before, as it is spelt on the wire.
    (403, "BadEnvironmentKeyInToken"): _credential("BadEnvironmentKeyInToken"),
    # The provider token is older than an hour; the request was not processed.
    (403, "ExpiredProviderToken"): _credential("ExpiredProviderToken", remint=True),
    # The connection is bound to another key, as after a rotation: not processed, and other connections will do.
    (403, "UnrelatedKeyIdInToken"): _unavailable("UnrelatedKeyIdInToken"),
    # Too many in a row to one device; the others are not concerned. Apple names no time.
    (429, "TooManyRequests"): Outcome(verdict=Verdict.THROTTLED, reason="TooManyRequests", scope=Scope.TARGET),
    # Somebody mints provider tokens more often than every 20 minutes; the present one stays good.
    (429, "TooManyProviderTokenUpdates"): Outcome(
        verdict=Verdict.THROTTLED, reason="TooManyProviderTokenUpdates", scope=Scope.CREDENTIAL, retry_after=60.0
    ),
    (500, "InternalServerError"): _unavailable("InternalServerError"),
    (503, "ServiceUnavailable"): _unavailable("ServiceUnavailable"),
    # This server goes away; another connection will do.
    (503, "Shutdown"): _unavailable("Shutdown"),
}

DEAD = {
    # The token is malformed, or from the other environment. A jump in these is a wrong setting, not many dead devices.
    (400, "BadDeviceToken"),
    # The app was removed, or the token replaced; `timestamp` says since when at least.
    (410, "Unregistered"),
    (410, "ExpiredToken"),
}

OF_THE_TOPIC = frozenset({"BadTopic", "MissingTopic", "TopicDisallowed"})


class _Body(msgspec.Struct):
    reason: str = ""
    timestamp: float | None = None
    """Milliseconds; only with 410."""


_decode = msgspec.json.Decoder(_Body).decode
_WORD = re.compile(r"[A-Za-z]{1,64}")
_UUID = re.compile(rb"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


def outcome(status: int, headers: Headers, body: bytes, now: float, *, own_topic: bool) -> Outcome:
    """By table; what is not in it by its class of status.

    Args:
        own_topic: the request went to the topic of the settings, so that a refused topic concerns the whole app.
    """
    if status == 200:
        return _accepted(headers)
    answer = _read(body)
    known = TABLE.get((status, answer.reason))
    if known is not None:
        if answer.reason in OF_THE_TOPIC and not own_topic:
            return _rejected(answer.reason)
        return _waiting(known, headers, now)
    if (status, answer.reason) in DEAD or status == 410:
        since = now if answer.timestamp is None else min(answer.timestamp / 1000, now)
        return Outcome(
            verdict=Verdict.UNREGISTERED,
            reason=answer.reason or f"http_{status}",
            dead_since=since,
            ambiguous=answer.reason == "BadDeviceToken",
        )
    return _waiting(_by_class(status, answer.reason or f"http_{status}"), headers, now)


def farewell(debug: bytes) -> Outcome | None:
    """The reason in a GOAWAY: a refused certificate is often told so, before any request was answered (section 2.4)."""
    return TABLE.get((403, _read(debug).reason))


def _accepted(headers: Headers) -> Outcome:
    for name, value in headers:
        if name == b"apns-unique-id" and _UUID.fullmatch(
            value
        ):  # the sandbox's key into the Push Notifications Console
            return Outcome(verdict=Verdict.ACCEPTED, provider_id=value.decode("latin-1"))
    return ACCEPTED


def _waiting(outcome: Outcome, headers: Headers, now: float) -> Outcome:
    """As long as the answer asks for. Apple documents no Retry-After; a proxy or a new version may send one."""
    if outcome.verdict not in (Verdict.THROTTLED, Verdict.UNAVAILABLE):
        return outcome
    wait = retry_after(headers, now, least=LEAST_WAIT, most=LONGEST_WAIT)
    return outcome if wait is None else msgspec.structs.replace(outcome, retry_after=wait)


def _read(body: bytes) -> _Body:
    try:
        answer = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Body()
    return answer if _WORD.fullmatch(answer.reason) else _Body(timestamp=answer.timestamp)


def _by_class(status: int, reason: str) -> Outcome:
    if status == 403:
        return _credential(reason)
    if status == 429:
        return Outcome(verdict=Verdict.THROTTLED, reason=reason, scope=Scope.UNNAMED)
    if status == 408 or status >= 500:
        return _unavailable(reason)
    return Outcome(verdict=Verdict.ACCEPTED if 200 <= status < 300 else Verdict.REJECTED, reason=reason)
