"""Subscriptions: attacker-chosen text until it has passed here (webpush.md, sections 5 and 8).

An endpoint is a place that this machine will post to, so its host has to be one of the push services that the app
allows, and it is taken apart once: what is checked here is what is connected to later. Where the name leads is checked
when it is connected to (`ProviderSettings.names`).
"""

from __future__ import annotations

import re
import string
from binascii import a2b_base64
from collections.abc import Sequence

from providers.base import Recipient, Subscription, Targets
from providers.hosts import is_name, is_public_name
from providers.webpush.settings import WebPushSettings

LONGEST_ENDPOINT = 4096
POINT = 65
"""Bytes of a `p256dh` key."""
SECRET = 16
"""Bytes of an `auth` secret."""
_NO_POINT = b"A" * 87
"""In place of a `p256dh` that is not even base64."""

# Visible ASCII only; no userinfo, no fragment, and no backslash, which parsers disagree about.
_ENDPOINT = re.compile(r"(?i:https)://([A-Za-z0-9.:\[\]-]+)(/[!-\x22$-\[\]-~]*)")
_BASE64URL = string.ascii_letters.encode() + string.digits.encode() + b"-_"
_LINES = _BASE64URL + b"\n"
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_TO_URL_SAFE = bytes.maketrans(b"+/", b"-_")

# The curve y^2 = x^3 - 3x + b over the integers modulo p (FIPS 186-5, P-256).
_P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B

NO_SUBSCRIPTION = "subscription: is missing; a webpush recipient has one instead of a token"
BAD_ENDPOINT = "subscription.endpoint: has to be an https:// address of at most 4096 visible ASCII characters"
GONE = "subscription.endpoint: the browser has removed this subscription"
BAD_HOST = "subscription.endpoint: its host is not one of the push services in allowed_hosts"
NOT_PUBLIC = "subscription.endpoint: its host has to have a name in the public DNS"
BAD_PORT = "subscription.endpoint: has to be on port 443"
BAD_P256DH = "subscription.keys.p256dh: has to be an uncompressed point on P-256, 65 bytes in base64url"
BAD_AUTH = "subscription.keys.auth: has to be 16 bytes in base64url"


class Refused(Exception):
    """A subscription that cannot be used; the message says why, without the endpoint."""


def targets(recipients: Sequence[Recipient], settings: WebPushSettings) -> Targets:
    """Origins, and three columns: path with query, `p256dh` and `auth`, both in base64url without padding."""
    hosts = _Hosts(settings)
    origins: list[str] = []
    paths: list[bytes] = []
    refused: dict[int, str] = {}
    for position, recipient in enumerate(recipients):
        try:
            origin, path = _endpoint(recipient.subscription, hosts)
        except Refused as reason:
            refused[position] = str(reason)
            origin, path = "", b""
        origins.append(origin)
        paths.append(path)
    p256dh, secrets = _key_column(recipients, "p256dh", POINT), _key_column(recipients, "auth", SECRET)
    points = map(_is_point, decode([key or _NO_POINT for key in p256dh], POINT))
    for position, is_point in enumerate(points):
        if not is_point or not secrets[position]:
            refused.setdefault(position, BAD_AUTH if is_point else BAD_P256DH)
    for position in refused:
        origins[position], paths[position], p256dh[position], secrets[position] = "", b"", b"", b""
    return Targets(origins, (paths, p256dh, secrets), refused)


def _endpoint(subscription: Subscription | None, hosts: _Hosts) -> tuple[str, bytes]:
    """Origin, and path with query."""
    if subscription is None:
        raise Refused(NO_SUBSCRIPTION)
    match = _ENDPOINT.fullmatch(subscription.endpoint)
    if match is None or len(subscription.endpoint) > LONGEST_ENDPOINT:
        raise Refused(BAD_ENDPOINT)
    return hosts.origin(match[1].lower()), match[2].encode()


class _Hosts:
    """Which hosts are allowed; remembers its answers, as a million subscriptions have a few dozen hosts."""

    def __init__(self, settings: WebPushSettings) -> None:
        self._origins = {origin.lower() for origin in settings.origins}
        self._allowed = frozenset(settings.allowed_hosts)
        self._any_public = settings.allow_any_public
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
        if is_name(host) and self._is_listed(host):
            return f"https://{host}"
        if not self._any_public:
            return Refused(BAD_HOST)
        return f"https://{host}" if is_public_name(host) else Refused(NOT_PUBLIC)

    def _is_listed(self, host: str) -> bool:
        labels = host.split(".")
        return any(".".join(labels[start:]) in self._allowed for start in range(len(labels)))


def decode(column: Sequence[bytes], size: int) -> list[bytes]:
    """The values of a `p256dh` or `auth` column, of `POINT` or `SECRET` bytes each. In one go: 0.2 us each, not 0.8."""
    if not column:
        return []
    filler = b"A" * (-size % 3)
    values = a2b_base64((filler.join(column) + filler).translate(_TO_STANDARD))
    return [values[at : at + size] for at in range(0, len(values), size + len(filler))]


def _key_column(recipients: Sequence[Recipient], name: str, size: int) -> list[bytes]:
    """A key of each subscription, see `_canonical`; b"" where it is none. Looked at in one go: 0.3 us each, not 1.1."""
    texts = [
        (recipient.subscription.keys.get(name) or "") if recipient.subscription else "" for recipient in recipients
    ]
    length = _encoded_length(size)
    lines = "\n".join(texts).encode("ascii", "replace").translate(_TO_URL_SAFE)
    values = lines.split(b"\n")
    if len(values) == len(texts) and set(map(len, values)) == {length} and not lines.translate(None, _LINES):
        return values
    return [_canonical(text, length) for text in texts]


def _canonical(text: str, length: int) -> bytes:
    """Strict base64url; padding and the standard alphabet are tolerated, as some browsers' code sends these."""
    value = text.encode("ascii", "replace").rstrip(b"=").translate(_TO_URL_SAFE)
    return value if len(value) == length and not value.translate(None, _BASE64URL) else b""


def _encoded_length(size: int) -> int:
    """Of so many bytes in base64 without padding."""
    return (size * 8 + 5) // 6


def _is_point(p256dh: bytes) -> bool:
    """Uncompressed and on the curve. Integers do it in 1.2 us; `from_encoded_point` makes a key of it in 6."""
    x, y = int.from_bytes(p256dh[1:33], "big"), int.from_bytes(p256dh[33:], "big")
    return p256dh[0] == 0x04 and x < _P and y < _P and (y * y - (x * x - 3) * x - _B) % _P == 0
