"""Google's OAuth token endpoint for service accounts: an RS256 assertion becomes an access token (RFC 7523)."""

from __future__ import annotations

import secrets
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qsl

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from . import jws
from .message import Answer, Request
from .script import Rule
from .service import NO_REACTION, Judgement, Reaction
from .wire import Limits

GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
SCOPES = frozenset(
    {"https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform"}
)
SKEW = 300.0
"""Seconds that a client's clock may be off; a choice, Google names none."""
TOKEN_LIFE = 3600


class AccessTokens:
    """Tokens issued, and until when they hold."""

    def __init__(self, life: int = TOKEN_LIFE) -> None:
        self.life = life
        self._expiry: dict[bytes, float] = {}
        self._keys: dict[bytes, str] = {}

    def issue(self, now: float, key_id: str = "") -> str:
        token = "ya29.sim." + secrets.token_urlsafe(96)
        self._expiry[token.encode()] = now + self.life
        self._keys[token.encode()] = key_id
        return token

    def state(self, token: bytes, now: float) -> str:
        """valid, expired or unknown."""
        expiry = self._expiry.get(token)
        if expiry is None:
            return "unknown"
        return "valid" if now < expiry else "expired"

    def revoke(self, key_id: str | None = None) -> None:
        """All of them, or those that a key got, as when it is rolled."""
        for token, issued_to in self._keys.items():
            if key_id in (None, issued_to):
                self._expiry[token] = 0.0


class OAuth:
    """`POST /token`. `audience` is its own URL."""

    name = "oauth"
    named_targets = False
    protocols: tuple[str, ...] = ("h2", "http/1.1")
    limits = Limits(streams=100)

    def __init__(self, key: rsa.RSAPublicKey, client_email: str, key_id: str, tokens: AccessTokens) -> None:
        self.audience = ""
        self._keys = {key_id: key}
        self._client_email = client_email
        self._tokens = tokens

    def register(self, key_id: str, key: rsa.RSAPublicKey) -> None:
        """Takes assertions of one more key of the account."""
        self._keys[key_id] = key

    def revoke(self, key_id: str) -> None:
        """Takes none of a key any more, nor the access tokens that it got."""
        self._keys.pop(key_id, None)
        self._tokens.revoke(key_id)

    def opened(self, peer: dict[str, Any]) -> None:
        return None

    def key(self, request: Request) -> bytes:
        return self._client_email.encode()

    def judge(self, visit: None, request: Request, now: float) -> Judgement:
        return Judgement(self.key(request), self.key(request), self._refusal(request, now))

    def _refusal(self, request: Request, now: float) -> Answer | None:
        if request.path != b"/token":
            return _error(404, "not_found", "no such page", now)
        if request.method != b"POST":
            return _error(405, "invalid_request", "use POST", now)
        form = dict(parse_qsl(request.body.decode("utf-8", "replace")))
        kind = request.headers.get(b"content-type", b"").partition(b";")[0].strip()
        if kind != b"application/x-www-form-urlencoded" or "assertion" not in form:
            return _error(400, "invalid_request", "missing form parameter: assertion", now)
        if form.get("grant_type") != GRANT:
            return _error(400, "unsupported_grant_type", "Invalid grant_type", now)
        return self._refusal_of(form["assertion"].encode(), now)

    def _refusal_of(self, assertion: bytes, now: float) -> Answer | None:
        try:
            header, claims, signed, signature = jws.parse(assertion)
            key = self._keys.get(str(header.get("kid")))
            if key is None:
                return _error(400, "invalid_grant", "Invalid JWT Signature.", now)
            key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
        except ValueError:
            return _error(400, "invalid_grant", "Invalid JWT: not decodable", now)
        except InvalidSignature:
            return _error(400, "invalid_grant", "Invalid JWT Signature.", now)
        if header.get("alg") != "RS256":
            return _error(400, "invalid_grant", "Invalid JWT Signature.", now)
        if claims.get("iss") != self._client_email:
            return _error(400, "invalid_grant", "Invalid grant: account not found", now)
        if claims.get("aud") != self.audience:
            return _error(400, "invalid_grant", "Invalid JWT: aud is not this token endpoint", now)
        if not SCOPES & set(str(claims.get("scope", "")).split()):
            return _error(400, "invalid_scope", "no scope of Firebase Cloud Messaging was asked for", now)
        return self._refusal_of_times(claims.get("iat"), claims.get("exp"), now)

    def _refusal_of_times(self, issued: Any, expires: Any, now: float) -> Answer | None:
        numbers = isinstance(issued, int) and isinstance(expires, int)
        if not numbers or issued > now + SKEW or expires < now - SKEW or not 0 < expires - issued <= 3600:
            text = (
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
                "Check your iat and exp values in the JWT claim."
            )
            return _error(400, "invalid_grant", text, now)
        return None

    def check(self, rule: Rule) -> None:
        if rule.answer not in ("accepted", "unavailable", "credential"):
            raise KeyError("the token endpoint answers accepted, unavailable or credential")

    def scripted(self, rule: Rule, request: Request, now: float) -> Answer:
        if rule.answer == "unavailable":
            return _error(503, "temporarily_unavailable", "try again", now)
        if rule.answer == "credential":
            return _error(400, "invalid_grant", "Invalid JWT Signature.", now)
        form = dict(parse_qsl(request.body.decode("utf-8", "replace")))
        key_id = str(jws.parse(form["assertion"].encode()).header.get("kid"))
        document = {
            "access_token": self._tokens.issue(now, key_id),
            "expires_in": self._tokens.life,
            "token_type": "Bearer",
        }
        return Answer(200, _headers(now), orjson.dumps(document))

    def reacted(self, visit: None, answer: Answer) -> Reaction:
        return NO_REACTION


def _headers(now: float) -> tuple[tuple[bytes, bytes], ...]:
    date = formatdate(now, usegmt=True).encode()
    return ((b"content-type", b"application/json; charset=utf-8"), (b"date", date))


def _error(status: int, error: str, description: str, now: float) -> Answer:
    return Answer(status, _headers(now), orjson.dumps({"error": error, "error_description": description}))
