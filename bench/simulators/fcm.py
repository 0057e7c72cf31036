"""Firebase Cloud Messaging: `POST /v1/projects/{project}/messages:send`, its checks and its error bodies."""

from __future__ import annotations

import re
import secrets
from typing import Any, NamedTuple

import orjson

from .fcm_schema import Violation, violations
from .message import Answer, Headers, Request
from .oauth import AccessTokens
from .script import Rule
from .service import NO_REACTION, Judgement, Reaction
from .wire import Limits

PAYLOAD = 4096
TOPIC_PAYLOAD = 2048
TARGETS = ("token", "fid", "topic", "condition")

_PATH = re.compile(rb"/v1/projects/([^/?]+)/messages:send(?:\?(.*))?$")
_TOPIC = re.compile(r"[a-zA-Z0-9\-_.~%]+$")
_TOKEN = re.compile(r"[A-Za-z0-9:_-]{4,4096}$")
_HTML = b"<!DOCTYPE html>\n<html lang=en><title>Error</title><p>The requested URL was not found on this server.\n"

_FCM = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_RPC = "type.googleapis.com/google.rpc."


class Word(NamedTuple):
    """One of FCM's errors."""

    code: int
    status: str
    text: str
    error: str | None = None
    """FcmError.errorCode."""
    details: tuple[dict[str, Any], ...] = ()


WORDS: dict[str, Word] = {
    "UNREGISTERED": Word(404, "NOT_FOUND", "Requested entity was not found.", "UNREGISTERED"),
    "INVALID_ARGUMENT": Word(
        400,
        "INVALID_ARGUMENT",
        "The registration token is not a valid FCM registration token",
        "INVALID_ARGUMENT",
    ),
    "SENDER_ID_MISMATCH": Word(403, "PERMISSION_DENIED", "SenderId mismatch", "SENDER_ID_MISMATCH"),
    "THIRD_PARTY_AUTH_ERROR": Word(
        401,
        "UNAUTHENTICATED",
        # Misleading as the real one: an APNs or web push key in Firebase is at fault, not the access token.
        "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or "
        "other valid authentication credential.",
        "THIRD_PARTY_AUTH_ERROR",
    ),
    "QUOTA_EXCEEDED": Word(
        429,
        "RESOURCE_EXHAUSTED",
        "Quota exceeded for quota metric 'Send requests' of service 'fcm.googleapis.com'.",
        "QUOTA_EXCEEDED",
        ({"@type": _RPC + "QuotaFailure", "violations": [{"subject": "project", "description": "per minute"}]},),
    ),
    "DEVICE_RATE_EXCEEDED": Word(
        429,
        "RESOURCE_EXHAUSTED",
        "Quota exceeded for quota metric 'Device messages' of service 'fcm.googleapis.com'.",
        "QUOTA_EXCEEDED",
        ({"@type": _RPC + "QuotaFailure", "violations": [{"subject": "device", "description": "per minute"}]},),
    ),
    "INTERNAL": Word(500, "INTERNAL", "Internal error encountered.", "INTERNAL"),
    "UNAVAILABLE": Word(503, "UNAVAILABLE", "The service is currently unavailable.", "UNAVAILABLE"),
    "ACCESS_TOKEN_EXPIRED": Word(
        401,
        "UNAUTHENTICATED",
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other "
        "valid authentication credential.",
        details=(
            {
                "@type": _RPC + "ErrorInfo",
                "reason": "ACCESS_TOKEN_EXPIRED",
                "domain": "googleapis.com",
                "metadata": {"service": "fcm.googleapis.com"},
            },
        ),
    ),
    "PERMISSION_DENIED": Word(
        403,
        "PERMISSION_DENIED",
        "Permission 'cloudmessaging.messages.create' denied on resource (or it may not exist).",
    ),
}
HTML = {"NOT_FOUND": 404, "BAD_GATEWAY": 502}
"""What Google's front end answers on its own."""
GENERIC = {
    "unregistered": "UNREGISTERED",
    "rejected": "INVALID_ARGUMENT",
    "mismatch": "SENDER_ID_MISMATCH",
    "downstream": "THIRD_PARTY_AUTH_ERROR",
    "throttled": "QUOTA_EXCEEDED",
    "failed": "INTERNAL",
    "unavailable": "UNAVAILABLE",
    "credential": "ACCESS_TOKEN_EXPIRED",
}


class Fcm:
    """FCM v1 of one project."""

    name = "fcm"
    named_targets = True
    protocols: tuple[str, ...] = ("h2", "http/1.1")
    limits = Limits(
        streams=100,
        window=1 << 20,
        header_list=16_384,
        overrun="goaway",
        overrun_code=1,
        overrun_text=b"exceeded_max_concurrent_streams",
    )

    def __init__(self, project: str, tokens: AccessTokens) -> None:
        self._project = project
        self._tokens = tokens

    def opened(self, peer: dict[str, Any]) -> None:
        return None

    def key(self, request: Request) -> bytes:
        return _target(_message(request.body)) or request.path

    def judge(self, visit: None, request: Request, now: float) -> Judgement:
        message = _message(request.body)
        target = _target(message)
        return Judgement(target or request.path, target, self._refusal(request, message, now))

    def _refusal(self, request: Request, message: dict[str, Any] | None, now: float) -> Answer | None:
        path = _PATH.match(request.path)
        if path is None or request.method != b"POST":
            return Answer(404, ((b"content-type", b"text/html; charset=UTF-8"),), _HTML)
        scheme, _, token = request.headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer":
            return _error(request, WORDS["ACCESS_TOKEN_EXPIRED"]._replace(details=()))
        state = self._tokens.state(token, now)
        if state != "valid":
            word = WORDS["ACCESS_TOKEN_EXPIRED"]
            return _error(request, word if state == "expired" else word._replace(details=()))
        if path[1].decode() != self._project:
            return _error(request, WORDS["PERMISSION_DENIED"])
        return _invalid(request, message) or self._tried(request, message)

    def _tried(self, request: Request, message: dict[str, Any] | None) -> Answer | None:
        """A dry run is answered like the real one, and nobody gets it: it is not among what was taken."""
        if message is None or not message.get("validate_only"):
            return None
        return _json(request, 200, {"name": f"projects/{self._project}/messages/fake_message_id"})

    def check(self, rule: Rule) -> None:
        if rule.answer not in GENERIC and rule.answer not in WORDS and rule.answer not in (*HTML, "accepted"):
            raise KeyError(f"FCM has no answer {rule.answer!r}: one of {', '.join((*GENERIC, *WORDS, *HTML))}")

    def scripted(self, rule: Rule, request: Request, now: float) -> Answer:
        if rule.answer == "accepted":
            message_id = f"0:{int(now * 1_000_000)}%{secrets.token_hex(8)}"
            return _json(request, 200, {"name": f"projects/{self._project}/messages/{message_id}"})
        if rule.answer in HTML:
            return Answer(HTML[rule.answer], ((b"content-type", b"text/html; charset=UTF-8"),), _HTML)
        headers: Headers = ()
        if rule.retry_after is not None:
            headers = ((b"retry-after", str(rule.retry_after).encode()),)
        return _error(request, WORDS[GENERIC.get(rule.answer, rule.answer)], headers)

    def reacted(self, visit: None, answer: Answer) -> Reaction:
        return NO_REACTION


def _message(body: bytes) -> dict[str, Any] | None:
    """The whole document; None where it is not an object with a message."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) and isinstance(document.get("message"), dict) else None


def _target(document: dict[str, Any] | None) -> bytes:
    message = document["message"] if document else {}
    for kind in TARGETS:
        if isinstance(target := message.get(kind), str):
            return target.encode("utf-8", "surrogatepass")
    return b""


def _invalid(request: Request, document: dict[str, Any] | None) -> Answer | None:
    """What is wrong with a message."""
    if document is None:
        return _bad_request(request, [Violation("message", "Invalid JSON payload received.")])
    if found := violations(document):
        return _bad_request(request, found)
    message = document["message"]
    kinds = [kind for kind in TARGETS if kind in message]
    if len(kinds) != 1:
        return _bad_request(request, [Violation("message", "Exactly one target is required.")])
    [kind], target = kinds, message[kinds[0]]
    if kind == "topic" and not _TOPIC.match(target):
        return _bad_request(request, [Violation("message.topic", "Malformed topic name")])
    if kind == "token" and not _TOKEN.match(target):
        return _error(request, WORDS["INVALID_ARGUMENT"])
    if kind == "fid" and not _TOKEN.match(target):
        return _error(request, WORDS["UNREGISTERED"])
    most = PAYLOAD if kind in ("token", "fid") else TOPIC_PAYLOAD
    if _size(message) > most:
        return _error(request, WORDS["INVALID_ARGUMENT"]._replace(text="Message too big"))
    return None


def _size(message: dict[str, Any]) -> int:
    """Bytes of keys and values of what a device gets; Google does not document its count."""
    android = message.get("android", {})
    parts = [message.get("notification", {}), android.get("data") or message.get("data", {})]
    return sum(len(str(text).encode()) for part in parts for item in part.items() for text in item)


def _bad_request(request: Request, found: list[Violation]) -> Answer:
    fields = [{"field": field, "description": description} for field, description in found]
    detail = {"@type": _RPC + "BadRequest", "fieldViolations": fields}
    text = "; ".join(f"Invalid value at '{field}': {description}" for field, description in found)
    return _error(request, Word(400, "INVALID_ARGUMENT", text, details=(detail,)))


def _error(request: Request, word: Word, headers: Headers = ()) -> Answer:
    details = [{"@type": _FCM, "errorCode": word.error}] if word.error else []
    error: dict[str, Any] = {"code": word.code, "message": word.text, "status": word.status}
    if details or word.details:
        error["details"] = [*word.details, *details]
    return _json(request, word.code, {"error": error}, headers)


def _json(request: Request, status: int, document: dict[str, Any], headers: Headers = ()) -> Answer:
    """Indented unless the query says `prettyPrint=false`, as Google's APIs answer."""
    option = 0 if b"prettyPrint=false" in request.path else orjson.OPT_INDENT_2
    content_type = (b"content-type", b"application/json; charset=UTF-8")
    return Answer(status, (content_type, *headers), orjson.dumps(document, option=option))
