"""How the big push services differ: limits, statuses and the shape of their errors."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import NamedTuple

import orjson

from .message import Answer, Headers

DAYS_28, DAYS_30 = 2_419_200, 2_592_000


class Refusal(NamedTuple):
    """A row of a service's errors."""

    status: int
    text: str
    number: int = 0
    """Mozilla's errno."""
    retry_after: int | None = None


class Profile(NamedTuple):
    """A service's manners. `refusals` are by the words that `webpush.Refused` has."""

    refusals: dict[str, Refusal]
    shape: Callable[[Refusal], tuple[Headers, bytes]]
    identity: Callable[[], Headers] = tuple
    """Header fields of every success."""
    protocols: tuple[str, ...] = ("h2", "http/1.1")
    body: int = 4096
    longest_ttl: int = DAYS_28
    positive_ttl: bool = False
    needs_subject: bool = False
    decodes_topic: bool = False
    """Whether a topic has to be decodable base64url."""
    cache_policy: bool = False
    """Whether X-WNS-Cache-Policy and TTL have to agree."""

    def refuse(self, word: str) -> Answer:
        refusal = self.refusals[word]
        headers, body = self.shape(refusal)
        if refusal.retry_after is not None:
            headers = (*headers, (b"retry-after", b"%d" % refusal.retry_after))
        return Answer(refusal.status, headers, body)


def _text(refusal: Refusal) -> tuple[Headers, bytes]:
    return ((b"content-type", b"text/plain; charset=utf-8"),), refusal.text.encode()


def _errno(refusal: Refusal) -> tuple[Headers, bytes]:
    document = {
        "code": refusal.status,
        "errno": refusal.number,
        "error": refusal.text,
        "message": refusal.text,
        "more_info": "http://autopush.readthedocs.io/en/latest/http.html#error-codes",
    }
    headers: Headers = ((b"content-type", b"application/json"),)
    if refusal.status == 410:
        headers = (*headers, (b"cache-control", b"max-age=86400"))
    return headers, orjson.dumps(document)


def _reason(refusal: Refusal) -> tuple[Headers, bytes]:
    return ((b"content-type", b"application/json"), *_apns_id()), orjson.dumps({"reason": refusal.text})


def _apns_id() -> Headers:
    return ((b"apns-id", str(uuid.uuid4()).upper().encode()),)


def _described(refusal: Refusal) -> tuple[Headers, bytes]:
    status = b"dropped" if refusal.status < 500 else b"channelthrottled"
    headers = (
        (b"x-wns-error-description", refusal.text.encode()),
        (b"x-wns-status", status),
        (b"x-wns-notificationstatus", status),
    )
    return headers, b""


_RFC = {
    "bad_method": Refusal(405, "use POST"),
    "unknown": Refusal(404, "no such subscription"),
    "no_authorization": Refusal(401, "no vapid authorization"),
    "bad_authorization": Refusal(403, "the vapid token is not valid"),
    "wrong_key": Refusal(403, "the subscription belongs to another application server key"),
    "gone": Refusal(410, "the subscription is gone"),
    "too_large": Refusal(413, "the body is too large"),
    "no_ttl": Refusal(400, "TTL is missing"),
    "bad_ttl": Refusal(400, "TTL is not a number of seconds"),
    "bad_urgency": Refusal(400, "Urgency is not one of very-low, low, normal, high"),
    "bad_encoding": Refusal(400, "Content-Encoding is not aes128gcm"),
    "bad_encryption": Refusal(400, "the body is not a message of RFC 8291"),
    "bad_topic": Refusal(400, "Topic is not up to 32 characters of base64url"),
    "throttled": Refusal(429, "too many messages", retry_after=1),
    "unavailable": Refusal(503, "try again later"),
    "failed": Refusal(500, "something went wrong"),
}

_FCM = {
    **_RFC,
    "no_authorization": Refusal(401, "authorization header must be specified."),
    "bad_authorization": Refusal(400, "UnauthorizedRegistration"),
    "wrong_key": Refusal(
        403,
        "the VAPID credentials in the authorization header do not correspond to the credentials used to create "
        "the subscriptions.",
    ),
    "gone": Refusal(410, "push subscription has unsubscribed or expired."),
    "unsubscribed": Refusal(403, "invalid push subscription endpoint."),
}

_MOZILLA = {
    "bad_method": Refusal(405, "Method Not Allowed", 999),
    "unknown": Refusal(404, "Not Found", 102),
    "no_authorization": Refusal(401, "Unauthorized", 109),
    "bad_authorization": Refusal(401, "Unauthorized", 109),
    "wrong_key": Refusal(401, "Unauthorized", 109),
    "gone": Refusal(410, "Gone", 106),
    "too_large": Refusal(413, "Payload Too Large", 104),
    "no_ttl": Refusal(400, "Bad Request", 111),
    "bad_ttl": Refusal(400, "Bad Request", 114),
    "bad_urgency": Refusal(400, "Bad Request", 110),
    "bad_encoding": Refusal(400, "Bad Request", 110),
    "bad_encryption": Refusal(400, "Bad Request", 110),
    "bad_topic": Refusal(400, "Bad Request", 113),
    "throttled": Refusal(503, "Service Unavailable", 201, 120),
    "unavailable": Refusal(503, "Service Unavailable", 201, 120),
    "failed": Refusal(500, "Internal Server Error", 999),
}

_APPLE = {
    "bad_method": Refusal(405, "MethodNotAllowed"),
    "unknown": Refusal(404, "BadPath"),
    "no_authorization": Refusal(403, "BadAuthorizationHeader"),
    "bad_authorization": Refusal(403, "BadJwtToken"),
    "wrong_key": Refusal(400, "VapidPkHashMismatch"),
    "gone": Refusal(410, "Unregistered"),
    "too_large": Refusal(413, "PayloadTooLarge"),
    "no_ttl": Refusal(400, "BadTtl"),
    "bad_ttl": Refusal(400, "BadTtl"),
    "bad_urgency": Refusal(400, "BadUrgency"),
    "bad_encoding": Refusal(400, "BadWebPushRequest"),
    "bad_encryption": Refusal(400, "BadWebPushRequest"),
    "bad_topic": Refusal(400, "BadWebPushTopic"),
    "throttled": Refusal(429, "TooManyRequests"),
    "unavailable": Refusal(503, "ServiceUnavailable"),
    "failed": Refusal(500, "InternalServerError"),
}

_WNS = {
    **_RFC,
    "bad_authorization": Refusal(401, "The vapid token is not valid"),
    "cache_policy": Refusal(400, "Ttl value conflicts with X-WNS-Cache-Policy"),
    "throttled": Refusal(406, "The cloud service has exceeded its throttle limit", retry_after=1),
}

PROFILES: dict[str, Profile] = {
    "rfc": Profile(_RFC, _text),
    "fcm": Profile(_FCM, _text),
    "mozilla": Profile(_MOZILLA, _errno, longest_ttl=DAYS_30),
    "apple": Profile(
        _APPLE,
        _reason,
        identity=_apns_id,
        longest_ttl=DAYS_30,
        positive_ttl=True,
        needs_subject=True,
        decodes_topic=True,
    ),
    "wns": Profile(_WNS, _described, cache_policy=True),
}
