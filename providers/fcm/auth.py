"""How FCM's requests are signed: an OAuth access token, exchanged for an assertion of the service account.

The provider makes no request itself: `exchange` says which one is due, and `exchanged` takes its answer. An access
token lives for an hour; a new one is asked for after 50 minutes while the old one still works, so that nothing waits.
The assertion is dated 30 s back, and where the service still finds our clock wrong (`invalid_grant`), its Date header
corrects it once.

https://developers.google.com/identity/protocols/oauth2/service-account#httprest
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import urlencode

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from providers.base import ClientCertificate, Exchange, Headers, Material, Outcome, Scope, Verdict
from providers.fcm.settings import FcmSettings, account
from providers.keys import GIVEN, check_parts, fingerprint
from providers.retry_after import date, retry_after

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
PARTS = frozenset({"service_account"})
GOOGLE = (
    "https://oauth2.googleapis.com/token",
    "https://accounts.google.com/o/oauth2/token",
    "https://www.googleapis.com/oauth2/v4/token",
)
"""Token endpoints that Google's key files have named so far."""

GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"

LIFETIME: Final = 3600
"""Seconds; the longest that an assertion may claim."""
LONGEST_LIFETIME: Final = 10**9
"""Seconds; what an access token claims beyond it is no lifetime, but digits."""
BACKDATED: Final = 30
"""Seconds by which the assertion is older than it is."""
EARLY: Final = 600
"""Seconds before expiry at which the next access token is due."""
SKEW: Final = 60
"""Seconds of difference to the service's clock that explain `invalid_grant`."""
FRESH: Final = 60
"""Seconds within which an access token is kept although requests are refused: those were signed with the one before."""

TEMPORARY = frozenset({"internal_failure", "server_error", "temporarily_unavailable"})
"""Errors of the token endpoint that pass by themselves, whatever the status."""


class _Grant(msgspec.Struct):
    access_token: str
    expires_in: int | str = LIFETIME


class _Refusal(msgspec.Struct):
    error: str = ""


_decode_grant = msgspec.json.Decoder(_Grant).decode
_decode_refusal = msgspec.json.Decoder(_Refusal).decode
_VISIBLE = re.compile(r"[!-~]+")
"""An access token that a header field can hold."""


class ServiceAccount:
    """A `Credential`: access tokens for a service account."""

    client_certificate: ClientCertificate | None = None
    expires_at: float | None = None

    def __init__(self, settings: FcmSettings, material: Material | None = None) -> None:
        given, path = settings.service_account, settings.service_account_file or GIVEN
        if material is not None:
            given, path = _given(settings, material), GIVEN
        self._key = _rsa_key(given["private_key"], path)
        self.key_id = str(given["private_key_id"])
        self._email = str(given["client_email"])
        self._audience = str(given["token_uri"])
        self._token_uri = settings.token_uri or self._audience
        self._headers: Headers | None = None
        self._obtained_at = 0.0
        self._expires_at = 0.0
        self._refresh_at = 0.0
        self._offset = 0.0
        self._corrected = False
        self.fingerprint = fingerprint(self._email.encode(), self.key_id.encode(), settings.project.encode())

    def __repr__(self) -> str:
        return f"<ServiceAccount {self.fingerprint}>"

    def headers(self, origin: str, now: float) -> Headers | None:
        return self._headers if now < self._expires_at else None

    def exchange(self, now: float) -> Exchange | None:
        if self._headers is not None and now < self._refresh_at:
            return None
        form = urlencode({"grant_type": GRANT, "assertion": self._assertion(now)})
        return Exchange(
            url=self._token_uri,
            headers=((b"content-type", b"application/x-www-form-urlencoded"), (b"accept", b"application/json")),
            body=form.encode(),
        )

    def exchanged(self, status: int, headers: Headers, body: bytes, now: float) -> Outcome:
        if status == 200:
            return self._take(body, now)
        error = _error(body)
        if status in (408, 429) or status >= 500 or error in TEMPORARY:
            wait = retry_after(headers, now, least=1, most=3600)
            return Outcome(verdict=Verdict.UNAVAILABLE, reason=error or f"http_{status}", retry_after=wait)
        if error == "invalid_grant" and self._correct_clock(headers, now):
            return Outcome(verdict=Verdict.UNAVAILABLE, reason="clock_skew", retry_after=0.0)
        return Outcome(verdict=Verdict.CREDENTIAL, reason=error or f"http_{status}", scope=Scope.CREDENTIAL)

    def renew(self, now: float) -> None:
        """Drop the access token, unless it is so new that the refused request was signed with the one before."""
        if now - self._obtained_at >= FRESH or now < self._obtained_at:
            self._headers = None
            self._expires_at = self._refresh_at = 0.0

    def _assertion(self, now: float) -> str:
        issued = int(now + self._offset) - BACKDATED
        claims: dict[str, Any] = {
            "iss": self._email,
            "scope": SCOPE,
            "aud": self._audience,
            "iat": issued,
            "exp": issued + LIFETIME,
        }
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": self.key_id})

    def _take(self, body: bytes, now: float) -> Outcome:
        try:
            grant = _decode_grant(body)
            lifetime = int(grant.expires_in)
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
            return Outcome(verdict=Verdict.UNAVAILABLE, reason="unreadable_grant")
        if not _VISIBLE.fullmatch(grant.access_token) or not 0 < lifetime <= LONGEST_LIFETIME:
            return Outcome(verdict=Verdict.UNAVAILABLE, reason="unreadable_grant")
        self._headers = ((b"authorization", b"Bearer " + grant.access_token.encode()),)
        self._obtained_at = now
        self._expires_at = now + lifetime
        # Short-lived ones, as a test server gives, are refreshed after five sixths of their life as well.
        self._refresh_at = now + lifetime - min(EARLY, lifetime / 6)
        self._corrected = False
        return Outcome(verdict=Verdict.ACCEPTED)

    def _correct_clock(self, headers: Headers, now: float) -> bool:
        """Take the service's time for ours, once; whether that may help."""
        theirs = date(headers)
        if theirs is None or self._corrected or abs(theirs - now - self._offset) < SKEW:
            return False
        self._offset = theirs - now
        self._corrected = True
        return True


def _given(settings: FcmSettings, material: Material) -> dict[str, Any]:
    """An account other than the settings'; it has to be one of the project that the app sends to."""
    check_parts(material, PARTS, *PARTS)
    found = account(material["service_account"].reveal(), GIVEN)
    if settings.project_id is None and found["project_id"] != settings.project:
        raise ValueError(
            f"service_account: is of project {found['project_id']}, and this app sends to {settings.project}; if the "
            "account may do that too, set project_id"
        )
    # Whoever may add an account is not to choose where this machine sends its requests.
    if settings.token_uri is None and found["token_uri"] not in (*GOOGLE, settings.service_account["token_uri"]):
        raise ValueError(
            "service_account: its `token_uri` is neither Google's nor that of the configured account; download the key "
            "file anew, or set token_uri"
        )
    return found


def _error(body: bytes) -> str:
    try:
        error = _decode_refusal(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return error if error.isascii() and error.replace("_", "").isalnum() and len(error) <= 64 else ""


def _rsa_key(pem: str, path: str) -> rsa.RSAPrivateKey:
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError):
        raise ValueError(f"service_account_file: `private_key` in {path} is not a PEM private key") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError(f"service_account_file: `private_key` in {path} is not an RSA key")
    return key
