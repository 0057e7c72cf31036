"""Subscriptions: attacker-chosen text until it has passed here (webpush.md, sections 5 and 8).

An endpoint is a place that this machine will post to, so its host has to be one of the push services that the app
allows, and it is taken apart once: what is checked here is what is connected to later.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric import ec

from providers.base import Recipient, Subscription, Targets
from providers.jws import base64url
from providers.webpush.encryption import CURVE
from providers.webpush.settings import WebPushSettings

LONGEST_ENDPOINT = 4096

# Visible ASCII only; no userinfo, no fragment, and no backslash, which parsers disagree about.
_ENDPOINT = re.compile(r"(?i:https)://([A-Za-z0-9.:\[\]-]+)(/(?:(?![#\\])[!-~])*)")
_HOST = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
_TO_URL_SAFE = str.maketrans("+/", "-_")

NO_SUBSCRIPTION = "subscription: is missing; a webpush recipient has one instead of a token"
BAD_ENDPOINT = "subscription.endpoint: has to be an https:// address of at most 4096 visible ASCII characters"
GONE = "subscription.endpoint: the browser has removed this subscription"
BAD_HOST = "subscription.endpoint: its host is not one of the push services in allowed_hosts"
BAD_PORT = "subscription.endpoint: has to be on port 443"
BAD_P256DH = "subscription.keys.p256dh: has to be an uncompressed point on P-256, 65 bytes in base64url"
BAD_AUTH = "subscription.keys.auth: has to be 16 bytes in base64url"


class Refused(Exception):
    """A subscription that cannot be used; the message says why, without the endpoint."""


def targets(recipients: Sequence[Recipient], settings: WebPushSettings) -> Targets:
    """Origins, and three columns: path with query, `p256dh` and `auth`, both in base64url without padding."""
    hosts = _Hosts(settings)
    origins: list[str] = []
    columns: tuple[list[bytes], list[bytes], list[bytes]] = ([], [], [])
    refused: dict[int, str] = {}
    for position, recipient in enumerate(recipients):
        try:
            origin, *values = _take_apart(recipient.subscription, hosts)
        except Refused as reason:
            refused[position] = str(reason)
            origin, values = "", ["", "", ""]
        origins.append(origin)
        for column, value in zip(columns, values, strict=True):
            column.append(value.encode())
    return Targets(origins, columns, refused)


def _take_apart(subscription: Subscription | None, hosts: _Hosts) -> tuple[str, str, str, str]:
    if subscription is None:
        raise Refused(NO_SUBSCRIPTION)
    match = _ENDPOINT.fullmatch(subscription.endpoint)
    if match is None or len(subscription.endpoint) > LONGEST_ENDPOINT:
        raise Refused(BAD_ENDPOINT)
    origin = hosts.origin(match[1].lower())
    p256dh = _decoded(subscription.keys.get("p256dh"), 65)
    if p256dh is None or not _is_point(p256dh):
        raise Refused(BAD_P256DH)
    auth = _decoded(subscription.keys.get("auth"), 16)
    if auth is None:
        raise Refused(BAD_AUTH)
    return origin, match[2], base64url(p256dh).decode(), base64url(auth).decode()


class _Hosts:
    """Which hosts are allowed; remembers its answers, as a million subscriptions have a few dozen hosts."""

    def __init__(self, settings: WebPushSettings) -> None:
        self._origins = {origin.lower() for origin in settings.origins}
        self._allowed = frozenset(settings.allowed_hosts)
        self._known: dict[str, str | Refused] = {}

    def origin(self, authority: str) -> str:
        """The canonical origin of an authority in lower case.

        Raises:
            Refused: it is not allowed.
        """
        if authority not in self._known:
            self._known[authority] = self._judge(authority)
        known = self._known[authority]
        if isinstance(known, Refused):
            raise Refused(str(known))
        return known

    def _judge(self, authority: str) -> str | Refused:
        if f"https://{authority}" in self._origins:
            return f"https://{authority}"
        host, colon, port = authority.partition(":")
        host = host.removesuffix(".")
        if colon and port != "443":
            return Refused(BAD_PORT)
        if host.endswith(".invalid"):
            return Refused(GONE)
        # A last label that starts with a letter is no part of an IP address in any notation.
        if len(host) > 253 or not _HOST.fullmatch(host) or not self._is_allowed(host):
            return Refused(BAD_HOST)
        return f"https://{host}"

    def _is_allowed(self, host: str) -> bool:
        labels = host.split(".")
        return any(".".join(labels[start:]) in self._allowed for start in range(len(labels)))


def _decoded(text: str | None, length: int) -> bytes | None:
    """Strict base64url; padding and the standard alphabet are tolerated, as some browsers' code sends these."""
    if text is None:
        return None
    text = text.rstrip("=").translate(_TO_URL_SAFE)
    # The decoder drops foreign characters silently, so the alphabet is checked here.
    if len(text) != (length * 8 + 5) // 6 or not _BASE64URL.fullmatch(text):
        return None
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _is_point(p256dh: bytes) -> bool:
    if p256dh[0] != 0x04:
        return False
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(CURVE, p256dh)
    except ValueError:
        return False
    return True
