"""The stub provider's service: `POST /push/<token>` with a shared key and a JSON body; the smallest whole one."""

from __future__ import annotations

import hmac
import re
from typing import Any

import msgspec
import orjson

from .message import Answer, Headers, Request
from .script import Rule
from .service import NO_REACTION, Judgement, Reaction
from .wire import Limits

_PATH = re.compile(rb"/push/([A-Za-z0-9_.:-]+)$")
_STATUSES = {
    "rejected": 400,
    "credential": 401,
    "unregistered": 410,
    "throttled": 429,
    "failed": 500,
    "unavailable": 503,
}
_REASONS = {400: "bad_token", 401: "unauthorized", 410: "gone", 429: "throttled", 500: "error", 503: "unavailable"}


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    title: str | None = None
    body: str | None = None
    data: dict[str, str] | None = None


class Stub:
    """The stub.

    Args:
        secret: What requests bear.
        dead_since: UNIX seconds; what unregistered tokens' answers say unless the script knows better.
    """

    name = "stub"
    named_targets = True
    protocols: tuple[str, ...] = ("h2",)
    limits = Limits(streams=100)

    def __init__(self, secret: str, *, dead_since: float = 0.0) -> None:
        self._authorization = f"Bearer {secret}".encode()
        self._dead_since = dead_since

    def opened(self, peer: dict[str, Any]) -> None:
        return None

    def key(self, request: Request) -> bytes:
        try:
            return msgspec.json.decode(request.body, type=_Body).id.encode()
        except msgspec.DecodeError:
            return request.path

    def judge(self, visit: None, request: Request, now: float) -> Judgement:
        path = _PATH.match(request.path)
        return Judgement(self.key(request), path[1] if path else b"", self._refusal(request, bool(path)))

    def _refusal(self, request: Request, known_path: bool) -> Answer | None:
        if not known_path:
            return _error(404, "no_such_path")
        if request.method != b"POST":
            return _error(405, "method_not_allowed")
        if not hmac.compare_digest(request.headers.get(b"authorization", b""), self._authorization):
            return _error(401, "unauthorized")
        try:
            msgspec.json.decode(request.body, type=_Body)
        except msgspec.DecodeError:
            return _error(400, "bad_body")
        return None

    def check(self, rule: Rule) -> None:
        if rule.answer != "accepted" and rule.answer not in _STATUSES:
            raise KeyError(f"the stub has no answer {rule.answer!r}: one of accepted, {', '.join(_STATUSES)}")

    def scripted(self, rule: Rule, request: Request, now: float) -> Answer:
        if rule.answer == "accepted":
            return Answer(200)
        status = _STATUSES[rule.answer]
        headers: Headers = ()
        if status == 429 or rule.retry_after is not None:
            headers = ((b"retry-after", str(1 if rule.retry_after is None else rule.retry_after).encode()),)
        if status == 410:
            since = int(self._dead_since if rule.since is None else rule.since)
            return _error(410, "gone", headers, since=since)
        return _error(status, _REASONS[status], headers)

    def reacted(self, visit: None, answer: Answer) -> Reaction:
        return NO_REACTION


def _error(status: int, reason: str, headers: Headers = (), **more: int) -> Answer:
    body = orjson.dumps({"reason": reason, **more})
    return Answer(status, ((b"content-type", b"application/json"), *headers), body)
