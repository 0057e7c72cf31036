"""A Web Push service (RFC 8030, 8188, 8291, 8292) in the manners of the RFCs or of one of the big ones."""

from __future__ import annotations

import re
import secrets
from collections import Counter, deque
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from . import jws
from .message import Answer, Headers, Request
from .script import Rule
from .service import NO_REACTION, Judgement, Reaction
from .subscriptions import PATH, Factory, Secrets, Undecryptable, point
from .webpush_profiles import PROFILES, Profile
from .wire import Limits

__all__ = ["PROFILES", "WebPush"]

DAY = 86_400
OVERFLOW = 2**31
"""What a larger TTL is treated as (RFC 8030, section 5.2)."""
KEPT = 1000
"""Decrypted messages kept for questions."""

_AUTHORIZATION = re.compile(rb"vapid\s+(.+)", re.IGNORECASE)
_PARAMETER = re.compile(rb"\s*([a-z]+)=\"?([A-Za-z0-9_.\-=+/]+)\"?\s*(?:,|$)")
_TTL = re.compile(rb"\d+$")
_TOPIC = re.compile(rb"[A-Za-z0-9_-]{1,32}$")
_SUBJECT = re.compile(r"https://[^/\s]+|mailto:[^@\s:]+@[^@\s]+\.[^@\s.]+$")
_URGENCIES = frozenset({b"very-low", b"low", b"normal", b"high"})

WORDS = {
    "unregistered": "gone",
    "rejected": "unknown",
    "mismatch": "wrong_key",
    "credential": "bad_authorization",
    "throttled": "throttled",
    "unavailable": "unavailable",
    "failed": "failed",
}


class Refused(Exception):
    """Why a request is not valid, as a word of `webpush_profiles`."""


class Vapid(NamedTuple):
    """A verified token."""

    audience: str
    expires: float
    subject: str | None
    key: bytes


class WebPush:
    """A push service of one or more origins.

    Args:
        factory: Who made the subscriptions, and decrypts for them.
        bound_key: The application server's key that they are bound to; None for open ones.
        decrypt_every: One message of so many is decrypted; 0: none. A real service cannot, so what does not
            decrypt is accepted all the same and counted in `stats`.
    """

    name = "webpush"
    named_targets = True
    limits = Limits(streams=100, window=1 << 20, header_list=16_384)

    def __init__(
        self,
        factory: Factory,
        *,
        bound_key: ec.EllipticCurvePublicKey | None,
        profile: Profile,
        decrypt_every: int = 1,
    ) -> None:
        self.protocols = profile.protocols
        self.stats: Counter[str] = Counter()
        self.messages: deque[tuple[str, bytes]] = deque(maxlen=KEPT)
        """The last decrypted ones: endpoint path and text."""
        self._factory = factory
        self._bound_key = point(bound_key) if bound_key else None
        self._bound_keys: dict[str, bytes] = {}
        self._profile = profile
        self._decrypt_every = decrypt_every
        self._received = 0
        self._vapids: dict[bytes, Vapid | str] = {}
        self._used: set[bytes] = set()

    def register(self, name: str, key: ec.EllipticCurvePublicKey) -> None:
        """Subscriptions whose names begin so are bound to another key."""
        self._bound_keys[name] = point(key)

    def opened(self, peer: dict[str, Any]) -> None:
        return None

    def key(self, request: Request) -> bytes:
        return request.path

    def judge(self, visit: None, request: Request, now: float) -> Judgement:
        token = request.path.removeprefix(PATH.encode())
        try:
            subscription = self._check(request, token, now)
        except Refused as word:
            return Judgement(request.path, token, self._profile.refuse(str(word)))
        self._received += 1
        if request.body and self._decrypt_every and self._received % self._decrypt_every == 0:
            self._decrypt(request, subscription)
        return Judgement(request.path, token, None)

    # validation, in the order of Mozilla's service

    def _check(self, request: Request, token: bytes, now: float) -> Secrets:
        if request.method != b"POST":
            raise Refused("bad_method")
        subscription = self._factory.secrets(token) if len(token) < len(request.path) else None
        if subscription is None:
            raise Refused("unknown")
        vapid = self._check_vapid(request.headers, token.decode(), now)
        if len(request.body) > self._profile.body:
            raise Refused("too_large")
        self._check_ttl(request.headers)
        if request.body:
            self._check_encryption(request, vapid)
        topic = request.headers.get(b"topic")
        if topic is not None and (not _TOPIC.match(topic) or (self._profile.decodes_topic and len(topic) % 4 == 1)):
            raise Refused("bad_topic")
        if request.headers.get(b"urgency", b"normal") not in _URGENCIES or request.repeated:
            raise Refused("bad_urgency")
        return subscription

    def _check_vapid(self, headers: dict[bytes, bytes], subscription: str, now: float) -> Vapid:
        authorization = headers.get(b"authorization")
        if authorization is None:
            raise Refused("no_authorization")
        vapid = self._vapids.get(authorization)
        if vapid is None:
            vapid = self._vapids[authorization] = self._verify(authorization)
        if isinstance(vapid, str):
            raise Refused(vapid)
        authority = headers.get(b":authority") or headers.get(b"host", b"")
        if vapid.audience != "https://" + authority.decode("latin-1").removesuffix(":443"):
            raise Refused("bad_authorization")
        if not now < vapid.expires <= now + DAY:
            raise Refused("bad_authorization")
        named = (key for name, key in self._bound_keys.items() if subscription.startswith(name))
        if next(named, self._bound_key) not in (None, vapid.key):
            raise Refused("wrong_key")
        return vapid

    def _verify(self, authorization: bytes) -> Vapid | str:
        """A header's token, or the word that refuses it; what does not depend on the time of the request."""
        scheme = _AUTHORIZATION.match(authorization)
        parameters = dict(_PARAMETER.findall(scheme[1])) if scheme else {}
        try:
            token = jws.parse(parameters[b"t"])
            encoded = jws.unbase64(parameters[b"k"].rstrip(b"="))
            key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), encoded)
        except (KeyError, ValueError):
            return "bad_authorization"
        claims = token.claims
        expires, subject = claims.get("exp"), claims.get("sub")
        if len(encoded) != 65 or not jws.verify_es256(token, key):
            return "bad_authorization"
        if isinstance(expires, bool) or not isinstance(expires, int | float):
            return "bad_authorization"
        if subject is None and self._profile.needs_subject:
            return "bad_authorization"
        if subject is not None and not (isinstance(subject, str) and _SUBJECT.match(subject)):
            return "bad_authorization"
        return Vapid(str(claims.get("aud")), expires, subject, encoded)

    def _check_ttl(self, headers: dict[bytes, bytes]) -> None:
        ttl = headers.get(b"ttl")
        if ttl is None:
            raise Refused("no_ttl")
        if not _TTL.match(ttl) or (self._profile.positive_ttl and int(ttl) == 0):
            raise Refused("bad_ttl")
        policy = headers.get(b"x-wns-cache-policy", b"cache")
        if self._profile.cache_policy and (policy == b"cache") != (int(ttl) > 0):
            raise Refused("cache_policy")

    def _check_encryption(self, request: Request, vapid: Vapid) -> None:
        if request.headers.get(b"content-encoding") != b"aes128gcm":
            raise Refused("bad_encoding")
        body = request.body
        if len(body) < 103 or body[20:22] != b"\x41\x04" or int.from_bytes(body[16:20], "big") < 18:
            raise Refused("bad_encryption")
        if body[21:86] == vapid.key:  # RFC 8292, section 3.2: the keys must differ
            raise Refused("bad_encryption")

    def _decrypt(self, request: Request, subscription: Secrets) -> None:
        try:
            plain = self._factory.decrypt(subscription, request.body)
        except Undecryptable:
            self.stats["undecryptable"] += 1
            return
        self.stats["decrypted"] += 1
        self.messages.append((request.path.decode(), plain.text))
        for reused, what in ((plain.sender_key, "sender_key_reused"), (plain.sender_key + plain.salt, "salt_reused")):
            if reused in self._used:
                self.stats[what] += 1
            self._used.add(reused)

    # answers

    def check(self, rule: Rule) -> None:
        if rule.answer != "accepted" and WORDS.get(rule.answer, rule.answer) not in self._profile.refusals:
            known = ", ".join(self._profile.refusals)
            raise KeyError(f"this push service has no answer {rule.answer!r}: a generic word or one of {known}")

    def scripted(self, rule: Rule, request: Request, now: float) -> Answer:
        if rule.answer == "accepted":
            return self._accepted(request)
        answer = self._profile.refuse(WORDS.get(rule.answer, rule.answer))
        if rule.retry_after is None:
            return answer
        others = tuple(field for field in answer.headers if field[0] != b"retry-after")
        return answer._replace(headers=(*others, (b"retry-after", str(rule.retry_after).encode())))

    def _accepted(self, request: Request) -> Answer:
        authority = request.headers.get(b":authority") or request.headers.get(b"host", b"")
        location = b"https://%b/m/%b" % (authority, secrets.token_hex(12).encode())
        headers: Headers = ((b"location", location), (b"ttl", self._granted(request.headers[b"ttl"])))
        return Answer(201, (*headers, *self._profile.identity()))

    def _granted(self, ttl: bytes) -> bytes:
        return b"%d" % min(int(ttl), OVERFLOW, self._profile.longest_ttl)

    def reacted(self, visit: None, answer: Answer) -> Reaction:
        return NO_REACTION
