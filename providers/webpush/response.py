"""What push services' answers mean: webpush.md, sections 6 and 7.

RFC 8030 leaves much open, so the words are each service's own:

https://www.rfc-editor.org/rfc/rfc8030#section-7.3 and #section-8.4
https://developer.apple.com/documentation/usernotifications/sending-web-push-notifications-in-web-apps-and-browsers
https://mozilla-services.github.io/autopush-rs/errors.html
https://learn.microsoft.com/en-us/windows/apps/design/shell/tiles-and-notifications/push-request-response-headers
"""

from __future__ import annotations

import enum
import re
from typing import Any

import msgspec

from providers.base import Alike, Headers, Outcome, Scope, Verdict
from providers.retry_after import retry_after

LEAST_WAIT = 1.0
LONGEST_WAIT = 3600.0
LONGEST_ID = 512
"""Characters of a message's address that are worth keeping."""


class Service(enum.Enum):
    """Whose dialect an origin speaks."""

    FCM = "fcm"
    MOZILLA = "mozilla"
    APPLE = "apple"
    WINDOWS = "windows"
    OTHER = "other"


_SERVICES = {
    "fcm.googleapis.com": Service.FCM,
    "jmt17.google.com": Service.FCM,
    "services.mozilla.com": Service.MOZILLA,
    "push.apple.com": Service.APPLE,
    "notify.windows.com": Service.WINDOWS,
}


def service(origin: str) -> Service:
    """The service behind an origin, by its host."""
    host = origin.removeprefix("https://").partition(":")[0]
    for name, known in _SERVICES.items():
        if host == name or host.endswith("." + name):
            return known
    return Service.OTHER


def _credential(reason: str, *, remint: bool) -> Outcome:
    return Outcome(verdict=Verdict.CREDENTIAL, reason=reason, scope=Scope.ORIGIN, remint=remint)


def _rejected(reason: str) -> Outcome:
    return Outcome(verdict=Verdict.REJECTED, reason=reason)


_WRONG_KEY = _rejected("VapidPkHashMismatch")
_UNREGISTERED = Outcome(verdict=Verdict.UNREGISTERED, reason="gone")

BY_WORD: dict[tuple[Service, int, str], Outcome] = {
    # The browser subscribed with another VAPID key: it has to subscribe anew, and no other message will do either.
    (Service.APPLE, 400, "VapidPkHashMismatch"): _WRONG_KEY,
    (Service.FCM, 403, "do not correspond"): _WRONG_KEY,
    # Unregistered a while ago; FCM calls it forbidden then.
    (Service.FCM, 403, "invalid push subscription endpoint"): _UNREGISTERED,
    # Our signature is refused, not the subscription: stop this key at this service, and let an operator look.
    (Service.FCM, 400, "unauthorizedregistration"): _credential("UnauthorizedRegistration", remint=False),
    (Service.APPLE, 400, "BadAuthorizationHeader"): _credential("BadAuthorizationHeader", remint=False),
    (Service.APPLE, 403, "BadAuthorizationHeader"): _credential("BadAuthorizationHeader", remint=False),
    (Service.APPLE, 400, "BadVapidPublicKey"): _credential("BadVapidPublicKey", remint=False),
    (Service.APPLE, 403, "BadVapidPublicKey"): _credential("BadVapidPublicKey", remint=False),
    # Wrong key, subject, audience or expiry; only the expiry can be cured by signing again.
    (Service.APPLE, 403, "BadJwtToken"): _credential("BadJwtToken", remint=True),
    (Service.APPLE, 403, "ExpiredJwtToken"): _credential("ExpiredJwtToken", remint=True),
    # The connection was idle for too long and never looked at the request.
    (Service.APPLE, 400, "IdleTimeout"): Outcome(verdict=Verdict.UNSENT, reason="IdleTimeout"),
}

BY_STATUS: dict[int, Outcome] = {
    # Gone; 410 is what the services say, 404 what RFC 8030 wants (section 7.3) and FCM says after 270 idle days.
    404: _UNREGISTERED,
    410: _UNREGISTERED,
    # No signature, or one that is wrong or too old. Deleting subscriptions for it would delete all of them.
    401: _credential("http_401", remint=True),
    403: _credential("http_403", remint=True),
    # Too large. RFC 8030 forbids it for our 4,096 bytes; Mozilla's bridge to Android takes about 2,744 of data.
    413: _rejected("http_413"),
}

_PHRASES = tuple(word for (of, _, word) in BY_WORD if of is Service.FCM)
_WORD = re.compile(r"[A-Za-z]{1,64}")
_SENTENCE = re.compile(r"[A-Za-z][A-Za-z .,'_-]{0,119}")
"""Without digits: whatever came back of a token or a payload is none."""


class _Apple(msgspec.Struct):
    reason: Any = None


class _Mozilla(msgspec.Struct):
    errno: Any = None


_decode_apple = msgspec.json.Decoder(_Apple).decode
_decode_mozilla = msgspec.json.Decoder(_Mozilla).decode


def outcome(of: Service, status: int, headers: Headers, body: bytes, now: float) -> Outcome:
    """By the service's word, then by status."""
    if 200 <= status < 300:
        return Outcome(verdict=Verdict.ACCEPTED, provider_id=_message_id(headers))
    word = _word(of, headers, body)
    known = BY_WORD.get((of, status, word))
    if known is None and status in BY_STATUS:
        known = BY_STATUS[status]
        if reason := _reason(of, word):
            known = msgspec.structs.replace(known, reason=reason)
    if known is None:
        return _by_class(of, status, headers, _reason(of, word) or f"http_{status}", now)
    return msgspec.structs.replace(known, dead_since=now) if known.verdict is Verdict.UNREGISTERED else known


def provider_ids(alike: Alike) -> list[str] | None:
    """The addresses of message resources, where they are what differs; 0.1 us each."""
    names = [name for name, _ in alike.headers]
    if not 200 <= alike.status < 300 or alike.place < 0 or names.count(b"location") != 1:
        return None
    if names[alike.place] != b"location":
        return None
    return [value.decode("latin-1")[:LONGEST_ID] for value in alike.values]


def _message_id(headers: Headers) -> str:
    """The address of the message resource (RFC 8030, section 5), or Apple's id where there is none."""
    found = {name: value for name, value in headers if name in (b"location", b"apns-id")}
    return found.get(b"location", found.get(b"apns-id", b"")).decode("latin-1")[:LONGEST_ID]


def _word(of: Service, headers: Headers, body: bytes) -> str:
    """The service's own word for what is wrong, safe to count and to show; "" where it has none."""
    if of is Service.WINDOWS:
        return _field(headers, b"x-wns-error-description")
    if of is Service.FCM:
        text = body[:2048].decode("utf-8", "replace").lower()
        return next((phrase for phrase in _PHRASES if phrase in text), "")
    try:
        if of is Service.APPLE:
            reason = _decode_apple(body).reason
            return reason if isinstance(reason, str) and _WORD.fullmatch(reason) else ""
        if of is Service.MOZILLA:
            errno = _decode_mozilla(body).errno
            return f"errno_{errno}" if isinstance(errno, int) and 0 <= errno < 1000 else ""
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    return ""


def _reason(of: Service, word: str) -> str:
    """A word to show; FCM's are parts of sentences."""
    return "" if of is Service.FCM else word


def _field(headers: Headers, wanted: bytes) -> str:
    for name, value in headers:
        if name == wanted:
            text = value.decode("latin-1")
            return text if _SENTENCE.fullmatch(text) else ""
    return ""


def _by_class(of: Service, status: int, headers: Headers, reason: str, now: float) -> Outcome:
    wait = retry_after(headers, now, least=LEAST_WAIT, most=LONGEST_WAIT)
    if status == 429 or (status == 406 and of is Service.WINDOWS):
        # RFC 8030 leaves open whether it concerns the subscription or the sender (section 8.4).
        return Outcome(verdict=Verdict.THROTTLED, reason=reason, retry_after=wait, scope=Scope.UNNAMED)
    if status == 408 or status >= 500:
        return Outcome(verdict=Verdict.UNAVAILABLE, reason=reason, retry_after=wait)
    # Other 4xx are our mistakes, and redirects are never followed: a registered host could point anywhere.
    return _rejected(reason)
