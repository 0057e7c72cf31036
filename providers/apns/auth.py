"""How APNs' requests are signed: a provider token (JWT) or a client certificate.

One provider token for all
    Apple counts provider tokens per team and answers 429 `TooManyProviderTokenUpdates` where workers or machines
    each mint their own. So `iat` is not the present but the last point of a 40-minute grid, and the signature is
    deterministic (RFC 6979): whoever has the key mints the very same bytes, and Apple sees one token per team and
    key without anybody having to hand it around. A new point is used only 60 s after it, so that machines whose
    clocks differ by less than that never present a token from the future. A token is between 1 and 41 minutes old
    by its `iat`; Apple refuses it at 60, and wants no new one within 20.
"""

from __future__ import annotations

import re
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from providers import keys
from providers.apns.settings import ApnsSettings
from providers.base import ClientCertificate, Credential, Exchange, Headers, Material, Outcome, Secret, Verdict
from providers.jws import es256

GRID: Final = 2400
"""Seconds between regular provider tokens."""
CLOCKS: Final = 60
"""Seconds by which clocks of machines may differ."""
FLOOR: Final = 1200
"""Seconds that have to lie between two provider tokens (Apple: no more often than every 20 minutes)."""

TEN = re.compile(r"[A-Z0-9]{10}")
"""A team's or key's name."""

TOPICS = x509.ObjectIdentifier("1.2.840.113635.100.6.3.6")
DEVELOPMENT = x509.ObjectIdentifier("1.2.840.113635.100.6.3.1")
PRODUCTION = x509.ObjectIdentifier("1.2.840.113635.100.6.3.2")
"""Extensions of Apple's push certificates; apns.md, section 7."""


PARTS: Final = frozenset({"key", "key_id", "team_id", "certificate", "certificate_key"})


def credential(settings: ApnsSettings, material: Material | None = None) -> Credential:
    """The way to authenticate that the material gives, or else the settings.

    A key's `key_id` and `team_id` are those of the settings unless the material has its own; another team's key is
    refused where the settings name a team.

    Raises:
        ValueError: a part or file is missing or wrong, or does not fit the settings.
    """
    if material is None:
        return _of_files(settings)
    keys.check_parts(material, PARTS)
    if "certificate" in material:
        keys.check_parts(material, PARTS - {"key", "key_id", "team_id"})
        return Certificate(settings, material["certificate"], material.get("certificate_key"))
    keys.check_parts(material, PARTS - {"certificate", "certificate_key"}, "key")
    key_id = keys.text(material, "key_id") if "key_id" in material else settings.key_id
    team_id = keys.text(material, "team_id") if "team_id" in material else settings.team_id
    for name, value in (("key_id", key_id), ("team_id", team_id)):
        if value is None or not TEN.fullmatch(value):
            raise ValueError(f"{name}: has to be given: 10 capitals and digits, as Apple's developer account shows it")
    assert key_id is not None
    assert team_id is not None
    if settings.team_id not in (None, team_id):
        raise ValueError(f"team_id: the key is of team {team_id}, and this app is of {settings.team_id}")
    return _token(material["key"].reveal(), "key", keys.GIVEN, team_id=team_id, key_id=key_id)


def _of_files(settings: ApnsSettings) -> Credential:
    if settings.certificate_file is not None:
        chain = keys.secret(settings.certificate_file, "certificate_file")
        path = settings.certificate_key_file
        key = None if path is None else keys.secret(path, "certificate_key_file")
        return Certificate(settings, chain, key, settings.certificate_file)
    assert settings.team_id is not None
    assert settings.key_id is not None
    assert settings.key_file is not None
    pem = keys.read(settings.key_file, "key_file")
    return _token(pem, "key_file", settings.key_file, team_id=settings.team_id, key_id=settings.key_id)


def _token(pem: bytes, field: str, path: str, *, team_id: str, key_id: str) -> ProviderToken:
    return ProviderToken(keys.p256(pem, field, path), team_id=team_id, key_id=key_id)


class ProviderToken:
    """A `Credential`: one JWT for a team and key, the same on all machines."""

    client_certificate: ClientCertificate | None = None
    expires_at: float | None = None

    def __init__(self, key: ec.EllipticCurvePrivateKey, *, team_id: str, key_id: str) -> None:
        self._key = key
        self._team_id = team_id
        self.key_id = key_id
        self._iat: int | None = None
        self._minted_at = 0.0
        self._headers: Headers = ()
        self.fingerprint = keys.fingerprint(team_id.encode(), key_id.encode(), keys.point(key.public_key()))

    def __repr__(self) -> str:
        return f"<ProviderToken {self.fingerprint}>"

    def headers(self, origin: str, now: float) -> Headers | None:
        iat = int(now - CLOCKS) // GRID * GRID
        # The point of the grid stands for the time of minting, because others may have minted this token back then.
        if self._iat is None or now < self._iat:  # the first, or the clock was set back
            self._mint(iat, minted_at=iat + CLOCKS)
        elif iat > self._iat and now - self._minted_at >= FLOOR:  # `renew` may have minted a moment ago
            self._mint(iat, minted_at=max(iat + CLOCKS, self._minted_at + FLOOR))
        return self._headers

    def exchange(self, now: float) -> Exchange | None:
        return None

    def exchanged(self, status: int, headers: Headers, body: bytes, now: float) -> Outcome:
        return Outcome(verdict=Verdict.ACCEPTED)

    def renew(self, now: float) -> None:
        """Mint at the middle of the grid, which all machines find alike.

        Nothing happens within 20 minutes of the last one: Apple calling so young a token expired means that a clock
        is wrong, and minting on would end in `TooManyProviderTokenUpdates`.
        """
        iat = int(now) // FLOOR * FLOOR
        if self._iat is not None and iat > self._iat and now - self._minted_at >= FLOOR:
            self._mint(iat, minted_at=now)

    def _mint(self, iat: int, minted_at: float) -> None:
        token = es256(self._key, {"alg": "ES256", "kid": self.key_id}, {"iss": self._team_id, "iat": iat})
        self._iat = iat
        self._minted_at = minted_at
        self._headers = ((b"authorization", b"bearer " + token),)


class Certificate:
    """A `Credential`: mutual TLS signs the connection, and no header the requests."""

    def __init__(self, settings: ApnsSettings, chain: Secret, key: Secret | None, path: str = keys.GIVEN) -> None:
        """`key` is None where it is in the chain's file; `path` is for errors."""
        try:
            certificate = x509.load_pem_x509_certificates(chain.reveal())[0]  # with its chain, which is sent as it is
        except ValueError:
            raise ValueError(f"certificate_file: {path} is not a PEM certificate") from None
        self.client_certificate: ClientCertificate | None = ClientCertificate(chain, key or chain)
        self._check_key(certificate, (key or chain).reveal())
        self.topics = topics(certificate)
        """What the certificate may send to; empty where it does not say."""
        self.expires_at: float | None = certificate.not_valid_after_utc.timestamp()
        """Apple closes its connections then."""
        self._check_topic(settings)
        self._check_environment(certificate, settings)
        self.fingerprint = keys.fingerprint(certificate.public_bytes(Encoding.DER))
        self.key_id = f"{certificate.serial_number:x}"
        """Its serial number."""

    def __repr__(self) -> str:
        return f"<Certificate {self.fingerprint}>"

    def headers(self, origin: str, now: float) -> Headers | None:
        return ()

    def exchange(self, now: float) -> Exchange | None:
        return None

    def exchanged(self, status: int, headers: Headers, body: bytes, now: float) -> Outcome:
        return Outcome(verdict=Verdict.ACCEPTED)

    def renew(self, now: float) -> None:
        """Nothing was minted; only an operator can renew a certificate."""

    def _check_key(self, certificate: x509.Certificate, pem: bytes) -> None:
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError):
            raise ValueError("certificate_key_file: holds no PEM private key without a password") from None
        form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
            raise ValueError("certificate_key_file: the private key does not belong to the certificate")

    def _check_topic(self, settings: ApnsSettings) -> None:
        if self.topics and settings.topic not in self.topics:
            raise ValueError(f"topic: the certificate is for {', '.join(self.topics)}, not {settings.topic}")

    def _check_environment(self, certificate: x509.Certificate, settings: ApnsSettings) -> None:
        kinds = {extension.oid for extension in certificate.extensions} & {DEVELOPMENT, PRODUCTION}
        wanted = PRODUCTION if settings.environment == "production" else DEVELOPMENT
        if kinds and wanted not in kinds:
            raise ValueError(f"environment: the certificate is not for {settings.environment}")


def topics(certificate: x509.Certificate) -> tuple[str, ...]:
    """The topics in Apple's extension; for older certificates, which have none, the bundle id in the subject's UID."""
    for extension in certificate.extensions:
        if extension.oid == TOPICS and isinstance(extension.value, x509.UnrecognizedExtension):
            return tuple(_strings(extension.value.value))
    uid = certificate.subject.get_attributes_for_oid(x509.NameOID.USER_ID)
    return tuple(str(attribute.value) for attribute in uid)


def _strings(der: bytes) -> list[str]:
    """The UTF8Strings right inside a DER sequence; each is followed by a sequence of what it is for (X.690)."""
    found = []
    start, end = _contents(der, 0)
    while start < end:
        inner, after = _contents(der, start)
        if der[start] == 0x0C:
            found.append(der[inner:after].decode())
        start = after
    return found


def _contents(der: bytes, at: int) -> tuple[int, int]:
    """Where the contents of the element at an offset start and end."""
    try:
        length, start = der[at + 1], at + 2
        if length & 0x80:
            start += length & 0x7F
            length = int.from_bytes(der[at + 2 : start], "big")
    except IndexError:
        raise ValueError("certificate_file: the certificate's list of topics is malformed") from None
    if start + length > len(der):
        raise ValueError("certificate_file: the certificate's list of topics is malformed")
    return start, start + length
