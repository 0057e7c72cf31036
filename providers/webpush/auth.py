"""How push messages are signed: VAPID (RFC 8292), one JWT per origin of push services.

A JWT is signed for 12 hours (RFC 8292 allows 24, which fails where clocks differ) and replaced with one to two hours
left, at a moment that differs by origin. Push services cache the check of a signature, so the same JWT is used for as
long as it is good; Apple wants no other within an hour.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from providers import keys
from providers.base import ClientCertificate, Exchange, Headers, Material, Outcome, Verdict
from providers.jws import base64url, es256
from providers.webpush.settings import WebPushSettings

LIFETIME: Final = 12 * 3600
LEFT: Final = 3600
"""Seconds that a JWT has left at least when it is replaced; up to twice as many by origin."""
FLOOR: Final = 3600
"""Seconds before which a refused JWT is not signed anew."""
MOST_ORIGINS: Final = 1024
"""JWTs kept; the browsers' push services have a few dozen origins."""


class _Signed(NamedTuple):
    headers: Headers
    at: float
    until: float


class Vapid:
    """A `Credential`: the app's VAPID key."""

    client_certificate: ClientCertificate | None = None
    expires_at: float | None = None

    def __init__(self, key: ec.EllipticCurvePrivateKey, *, subject: str) -> None:
        self._key = key
        self._subject = subject
        self._signed: dict[str, _Signed] = {}
        point = keys.point(key.public_key())
        self.public_key = base64url(point).decode()
        """What the website gives `PushManager.subscribe` as `applicationServerKey`."""
        self.fingerprint = keys.fingerprint(point)
        self.key_id = self.public_key

    def __repr__(self) -> str:
        return f"<Vapid {self.fingerprint}>"

    def headers(self, origin: str, now: float) -> Headers | None:
        signed = self._signed.get(origin)
        if signed is None or not signed.at <= now < signed.until:
            signed = self._sign(origin, now)
            if len(self._signed) >= MOST_ORIGINS:
                self._signed.pop(next(iter(self._signed)))
            self._signed[origin] = signed
        return signed.headers

    def exchange(self, now: float) -> Exchange | None:
        return None

    def exchanged(self, status: int, headers: Headers, body: bytes, now: float) -> Outcome:
        return Outcome(verdict=Verdict.ACCEPTED)

    def renew(self, now: float) -> None:
        """Drop the JWTs that are more than an hour old; a younger one that is refused was not refused for its age."""
        self._signed = {origin: signed for origin, signed in self._signed.items() if now - signed.at < FLOOR}

    def _sign(self, origin: str, now: float) -> _Signed:
        expires = int(now) + LIFETIME
        claims = {"aud": origin, "exp": expires, "sub": self._subject}
        token = es256(self._key, {"typ": "JWT", "alg": "ES256"}, claims)
        value = b"vapid t=" + token + b", k=" + self.public_key.encode()
        spread = zlib.crc32(origin.encode()) % LEFT
        return _Signed(((b"authorization", value),), at=now, until=expires - LEFT - spread)


PARTS = frozenset({"vapid_key"})


def credential(settings: WebPushSettings, material: Material | None = None) -> Vapid:
    """A VAPID key of the app.

    Raises:
        ValueError: a part or file is missing, or holds something else.
    """
    field, path = "vapid_key_file", settings.vapid_key_file or keys.GIVEN
    if material is None:
        contents = keys.read(path, field)
    else:
        keys.check_parts(material, PARTS, *PARTS)
        field, path, contents = "vapid_key", keys.GIVEN, material["vapid_key"].reveal()
    raw = _raw_key(contents)
    key = keys.p256(contents, field, path) if raw is None else raw
    return Vapid(key, subject=settings.subject)


def _raw_key(contents: bytes) -> ec.EllipticCurvePrivateKey | None:
    """The form in which most tools for web push print a private key: 32 bytes in base64url."""
    text = contents.strip().rstrip(b"=")
    if len(text) != 43:
        return None
    try:
        number = int.from_bytes(base64.b64decode(text + b"=", altchars=b"-_", validate=True), "big")
        return ec.derive_private_key(number, ec.SECP256R1())
    except (binascii.Error, ValueError):
        return None
