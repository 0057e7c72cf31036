"""Apple Push Notification service: `POST /3/device/<token>` as "Sending notification requests to APNs" has it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import msgspec
import orjson
from cryptography.hazmat.primitives.asymmetric import ec

from . import jws
from .message import Answer, Headers, Request
from .script import Rule
from .service import NO_REACTION, Judgement, Reaction
from .wire import Limits

REASONS: dict[str, int] = {
    "BadCollapseId": 400,
    "BadDeviceToken": 400,
    "BadExpirationDate": 400,
    "BadMessageId": 400,
    "BadPriority": 400,
    "BadRequestPayload": 400,
    "BadTopic": 400,
    "DeviceTokenNotForTopic": 400,
    "DuplicateHeaders": 400,
    "IdleTimeout": 400,
    "InvalidPushType": 400,
    "MissingDeviceToken": 400,
    "MissingTopic": 400,
    "PayloadEmpty": 400,
    "TopicDisallowed": 400,
    "BadCertificate": 403,
    "BadCertificateEnvironment": 403,
    "BadEnvironmentKeyIdInToken": 403,
    "ExpiredProviderToken": 403,
    "Forbidden": 403,
    "InvalidProviderToken": 403,
    "MissingProviderToken": 403,
    "UnrelatedKeyIdInToken": 403,
    "BadPath": 404,
    "MethodNotAllowed": 405,
    "ExpiredToken": 410,
    "Unregistered": 410,
    "PayloadTooLarge": 413,
    "TooManyProviderTokenUpdates": 429,
    "TooManyRequests": 429,
    "InternalServerError": 500,
    "ServiceUnavailable": 503,
    "Shutdown": 503,
}
WORDS = {
    "unregistered": "Unregistered",
    "rejected": "BadDeviceToken",
    "throttled": "TooManyRequests",
    "unavailable": "ServiceUnavailable",
    "failed": "InternalServerError",
    "credential": "ExpiredProviderToken",
}
SUFFIXES = {
    b"alert": b"",
    b"background": b"",
    b"voip": b".voip",
    b"complication": b".complication",
    b"fileprovider": b".pushkit.fileprovider",
    b"mdm": None,
    b"liveactivity": b".push-type.liveactivity",
    b"pushtotalk": b".voip-ptt",
    b"location": b".location-query",
    b"widgets": b".push-type.widgets",
    b"controls": b".push-type.controls",
}
"""Push type -> what its topic ends with after the bundle id; MDM's topic is the certificate's UID."""

PRIORITIES = {b"background": {b"5"}, b"liveactivity": {b"5", b"10"}, b"location": {b"5", b"10"}}
_ANY_PRIORITY = {b"1", b"5", b"10"}

TOKEN_LIFE = 3600.0
TOKEN_FLOOR = 1200.0
"""A connection's provider token may change once in so many seconds ("Establishing a token-based connection")."""
STREAMS = 1000
ERRORS_TO_GOAWAY = 200
"""A policy of `manners`, counting `BadDeviceToken` double; Apple names no number."""

NOBODY = b"0" * 64
"""A device token that no device was ever given."""

_PATH = re.compile(rb"/3/device/([^/?]*)$")
_HEX = re.compile(rb"(?:[0-9a-fA-F]{2}){1,200}$")
_UUID = re.compile(rb"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")
_TOPIC = re.compile(rb"[A-Za-z0-9.-]{1,255}$")


class Refused(Exception):
    """Why a request is not valid, in the service's own word."""


class Key(NamedTuple):
    """A registered signing key."""

    team_id: str
    public_key: ec.EllipticCurvePublicKey
    sandbox: bool | None = None
    """The environment it is for; None for both, as keys were before 2025."""


class Visit:
    """What APNs knows of a connection."""

    __slots__ = (
        "authenticated", "certificate_topic", "errors", "key_id", "limit", "serial", "team_id", "token", "token_at",
    )  # fmt: skip

    def __init__(self, certificate_topic: str, limit: int, serial: str = "") -> None:
        self.certificate_topic = certificate_topic
        self.serial = serial
        self.limit = limit
        self.authenticated = False
        self.team_id = self.key_id = ""
        self.token = b""
        self.token_at = 0.0
        self.errors = 0


class ProviderToken(NamedTuple):
    """A verified JWT."""

    team_id: str
    key_id: str
    issued_at: float


class Apns:
    """APNs.

    Args:
        keys: The registered ones, by key id.
        topics: The team's bundle ids; empty for any.
        manners: As Apple's does, rejections bring the stream limit down to 1 until the next success, and many of
            them end the connection; so do streams over the limit.
        token_floor: Seconds between two provider tokens of a connection.
        dead_since: UNIX seconds; what unregistered tokens' timestamps say unless the script knows better.
    """

    name = "apns"
    named_targets = False
    protocols: tuple[str, ...] = ("h2",)

    def __init__(
        self,
        keys: dict[str, Key],
        topics: frozenset[str] = frozenset(),
        *,
        manners: bool = False,
        sandbox: bool = False,
        token_floor: float = TOKEN_FLOOR,
        dead_since: float = 0.0,
    ) -> None:
        self._keys = keys
        self._topics = {topic.encode() for topic in topics}
        self._manners = manners
        self._sandbox = sandbox
        self._token_floor = token_floor
        self._dead_since = dead_since
        self._verified: dict[bytes, ProviderToken | str] = {}
        self._revoked: set[str] = set()
        self.limits = Limits(
            streams=1,
            overrun="goaway" if manners else "refuse",
            overrun_text=b"Maximum active streams violated for this endpoint.",
        )

    def register(self, key_id: str, key: Key) -> None:
        """Takes provider tokens of one more key."""
        self._keys[key_id] = key
        self._verified.clear()

    def revoke(self, key_id: str) -> None:
        """Takes none of a key any more, also on open connections; a certificate is named by its serial number."""
        self._keys.pop(key_id, None)
        self._revoked.add(key_id)
        self._verified.clear()

    def opened(self, peer: dict[str, Any]) -> Visit:
        subject = {name: value for part in peer.get("subject", ()) for name, value in part}
        topic = subject.get("userId") or subject.get("UID") or ""
        return Visit(topic, 1, str(peer.get("serialNumber", "")).lower().lstrip("0"))

    # validation

    def judge(self, visit: Visit, request: Request, now: float) -> Judgement:
        path = _PATH.match(request.path)
        token = path[1].lower() if path else None
        try:
            self._check(visit, request, token, now)
        except Refused as reason:
            return Judgement(self.key(request), token or b"", self._answer(str(reason), request))
        return Judgement(self.key(request), token or b"", None)

    def key(self, request: Request) -> bytes:
        return request.headers.get(b"apns-id", b"").lower() or request.path

    def _check(self, visit: Visit, request: Request, token: bytes | None, now: float) -> None:
        headers = request.headers
        if request.repeated:
            raise Refused("DuplicateHeaders")
        identity = headers.get(b"apns-id")
        if identity is not None and not _UUID.match(identity):
            raise Refused("BadMessageId")
        if request.method != b"POST":
            raise Refused("MethodNotAllowed")
        if token is None:
            raise Refused("BadPath")
        self._check_headers(visit, headers)
        if not token:
            raise Refused("MissingDeviceToken")
        if not _HEX.match(token):
            raise Refused("BadDeviceToken")
        self._check_authorization(visit, headers.get(b"authorization"), now)
        if token == NOBODY:
            raise Refused("BadDeviceToken")
        self._check_payload(headers[b"apns-push-type"], request.body)

    def _check_headers(self, visit: Visit, headers: dict[bytes, bytes]) -> None:
        topic = headers.get(b"apns-topic") or visit.certificate_topic.encode()
        if not topic:
            raise Refused("MissingTopic")
        collapse = headers.get(b"apns-collapse-id")
        if collapse is not None and not 0 < len(collapse) <= 64:
            raise Refused("BadCollapseId")
        expiration = headers.get(b"apns-expiration")
        if expiration is not None and not expiration.isdigit():
            raise Refused("BadExpirationDate")
        kind = headers.get(b"apns-push-type", b"")
        if kind not in SUFFIXES:  # an absent one is "recommended" only for old systems
            raise Refused("InvalidPushType")
        if headers.get(b"apns-priority", b"10") not in PRIORITIES.get(kind, _ANY_PRIORITY):
            raise Refused("BadPriority")
        self._check_topic(topic, kind)

    def _check_topic(self, topic: bytes, kind: bytes) -> None:
        if not _TOPIC.match(topic):
            raise Refused("BadTopic")
        suffix = SUFFIXES[kind]
        if suffix is None:
            return
        if not topic.endswith(suffix):
            raise Refused("BadTopic")
        if self._topics and topic[: len(topic) - len(suffix)] not in self._topics:
            longer = any(topic == base + other for base in self._topics for other in SUFFIXES.values() if other)
            raise Refused("BadTopic" if longer else "TopicDisallowed")

    def _check_authorization(self, visit: Visit, authorization: bytes | None, now: float) -> None:
        if visit.certificate_topic:
            if visit.serial in self._revoked:
                raise Refused("BadCertificate")
            visit.authenticated = True
            return
        if authorization is None:
            raise Refused("MissingProviderToken")
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            raise Refused("InvalidProviderToken")
        verified = self._verified.get(token)
        if verified is None:
            verified = self._verified[token] = self._verify(token)
        if isinstance(verified, str):
            raise Refused(verified)
        if abs(now - verified.issued_at) > TOKEN_LIFE:
            raise Refused("ExpiredProviderToken")
        if token != visit.token:
            self._bind(visit, token, verified, now)

    def _bind(self, visit: Visit, token: bytes, verified: ProviderToken, now: float) -> None:
        """A connection belongs to the team and key of its first push, and takes few tokens."""
        if visit.authenticated and verified.team_id != visit.team_id:
            raise Refused("InvalidProviderToken")
        if visit.authenticated and verified.key_id != visit.key_id:
            raise Refused("UnrelatedKeyIdInToken")
        if visit.authenticated and now - visit.token_at < self._token_floor:
            raise Refused("TooManyProviderTokenUpdates")
        visit.authenticated = True
        visit.team_id, visit.key_id = verified.team_id, verified.key_id
        visit.token, visit.token_at = token, now

    def _verify(self, token: bytes) -> ProviderToken | str:
        """The claims of a JWT, or the reason it is refused."""
        try:
            token_parts = jws.parse(token)
        except ValueError:
            return "InvalidProviderToken"
        key_id, claims = str(token_parts.header.get("kid")), token_parts.claims
        key = self._keys.get(key_id)
        if key is None or key.team_id != claims.get("iss") or not isinstance(claims.get("iat"), int):
            return "InvalidProviderToken"
        if key.sandbox not in (None, self._sandbox):
            return "BadEnvironmentKeyIdInToken"
        if not jws.verify_es256(token_parts, key.public_key):
            return "InvalidProviderToken"
        return ProviderToken(key.team_id, key_id, claims["iat"])

    def _check_payload(self, kind: bytes, body: bytes) -> None:
        if not body:
            raise Refused("PayloadEmpty")
        if len(body) > (5120 if kind == b"voip" else 4096):
            raise Refused("PayloadTooLarge")
        try:
            payload = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise Refused("BadRequestPayload") from None
        if not isinstance(payload, dict) or not _payload_fits(kind, payload):
            # Apple documents no reason for it on this path; the word is the broadcast API's.
            raise Refused("BadRequestPayload")

    # answers

    def check(self, rule: Rule) -> None:
        if rule.answer != "accepted" and WORDS.get(rule.answer, rule.answer) not in REASONS:
            raise KeyError(f"APNs has no answer {rule.answer!r}: a generic word or one of {', '.join(REASONS)}")

    def scripted(self, rule: Rule, request: Request, now: float) -> Answer:
        if rule.answer != "accepted":
            since = self._dead_since if rule.since is None else rule.since
            return self._answer(WORDS.get(rule.answer, rule.answer), request, since)
        headers: Headers = ((b"apns-id", _identity(request)),)
        if self._sandbox:
            headers = (*headers, (b"apns-unique-id", str(uuid.uuid4()).encode()))
        return Answer(200, headers)

    def _answer(self, reason: str, request: Request, since: float = 0.0) -> Answer:
        status = REASONS[reason]
        body: dict[str, Any] = {"reason": reason}
        if status == 410:
            body["timestamp"] = int(since * 1000)
        headers = ((b"apns-id", _identity(request)), (b"content-type", b"application/json"))
        return Answer(status, headers, orjson.dumps(body))

    def reacted(self, visit: Visit, answer: Answer) -> Reaction:
        limit = STREAMS if visit.authenticated else 1
        if self._manners and 400 <= answer.status < 500 and answer.status != 410:
            visit.errors += 2 if b"BadDeviceToken" in answer.body else 1
            if visit.errors >= ERRORS_TO_GOAWAY:
                visit.errors = 0
                return Reaction(goaway=b"")
            limit = 1
        elif self._manners and answer.status != 200:
            return NO_REACTION
        if limit == visit.limit:
            return NO_REACTION
        visit.limit = limit
        return Reaction(streams=limit)


def _identity(request: Request) -> bytes:
    """Echoed, or made in upper case as APNs makes them."""
    return request.headers.get(b"apns-id") or str(uuid.uuid4()).upper().encode()


# "Generating a remote notification"; unknown keys inside `aps` are ignored, as APNs does.


class _LocalisedText(msgspec.Struct, rename="kebab"):
    loc_key: str
    loc_args: list[str] = []


class _Alert(msgspec.Struct, rename="kebab"):
    title: str | _LocalisedText | None = None
    subtitle: str | None = None
    body: str | _LocalisedText | None = None
    launch_image: str | None = None
    title_loc_key: str | None = None
    title_loc_args: list[str] | None = None
    subtitle_loc_key: str | None = None
    subtitle_loc_args: list[str] | None = None
    loc_key: str | None = None
    loc_args: list[str] | None = None


class _Sound(msgspec.Struct):
    name: str
    critical: Literal[0, 1] = 0
    volume: float = 1.0


class _Aps(msgspec.Struct, rename="kebab"):
    alert: str | _Alert | None = None
    badge: int | None = None
    sound: str | _Sound | None = None
    thread_id: str | None = None
    category: str | None = None
    target_content_id: str | None = None
    filter_criteria: str | None = None
    content_available: Literal[0, 1] | None = None
    mutable_content: Literal[0, 1] | None = None
    interruption_level: Literal["passive", "active", "time-sensitive", "critical"] | None = None
    relevance_score: float | None = None
    event: Literal["start", "update", "end"] | None = None
    timestamp: int | None = None
    content_state: dict[str, Any] | None = None
    stale_date: int | None = None
    dismissal_date: int | None = None
    attributes_type: str | None = None
    attributes: dict[str, Any] | None = None
    input_push_token: Literal[1] | None = None
    input_push_channel: str | None = None
    content_changed: bool | None = None


def _alert(aps: _Aps) -> bool:
    return aps.badge is None or aps.badge >= 0


def _background(aps: _Aps) -> bool:
    return aps.content_available == 1 and aps.alert is None and aps.badge is None and aps.sound is None


def _live_activity(aps: _Aps) -> bool:
    if aps.event is None or aps.timestamp is None or (aps.event != "end" and aps.content_state is None):
        return False
    if aps.input_push_token is not None and aps.input_push_channel is not None:
        return False
    starts = (aps.attributes_type, aps.attributes, aps.alert)
    return aps.event != "start" or None not in starts


def _widgets(aps: _Aps) -> bool:
    return aps.content_changed is True


_FITS: dict[bytes, Callable[[_Aps], bool]] = {
    b"alert": _alert,
    b"background": _background,
    b"liveactivity": _live_activity,
    b"widgets": _widgets,
}


def _payload_fits(kind: bytes, payload: dict[str, Any]) -> bool:
    """Whether a payload has the shape of its push type."""
    if kind == b"mdm":
        return isinstance(payload.get("mdm"), str)
    fits = _FITS.get(kind)
    if "aps" not in payload:
        return fits is None
    try:
        aps = msgspec.convert(payload["aps"], _Aps)
    except msgspec.ValidationError:
        return False
    return fits is None or fits(aps)
