"""Keys, certificates and messages for the tests of providers."""

from __future__ import annotations

import base64
import datetime
import json
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from providers import template
from providers.base import Message, Plan, Recipient, Rendered, Rows

NOW = 1_800_000_000.0
EC_KEY = ec.derive_private_key(0x1234567890ABCDEF, ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def written(path: Path, contents: bytes) -> str:
    path.write_bytes(contents)
    return str(path)


def service_account(path: Path, **changes: Any) -> str:
    account = {
        "type": "service_account",
        "project_id": "shop-1",
        "private_key_id": "key-id-1",
        "private_key": pem(RSA_KEY).decode(),
        "client_email": "push@shop-1.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    merged = {name: value for name, value in (account | changes).items() if value is not None}
    return written(path, json.dumps(merged).encode())


def certificate(extensions: list[tuple[str, bytes]], uid: str | None = None) -> bytes:
    """A self-signed certificate with Apple's extensions and its key, PEM."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.USER_ID, uid)] if uid else [])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(EC_KEY.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC))
    )
    for oid, value in extensions:
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False)
    return builder.sign(EC_KEY, hashes.SHA256()).public_bytes(Encoding.PEM) + pem(EC_KEY)


def point(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def unb64(text: str | bytes) -> bytes:
    text = text.decode() if isinstance(text, bytes) else text
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def with_vars(provider: str, *variables: dict[str, Any]) -> list[Recipient]:
    return [
        Recipient(
            id="r",
            provider=provider,
            vars={key: msgspec.Raw(json.dumps(value, ensure_ascii=False).encode()) for key, value in each.items()},
        )
        for each in variables
    ]


def delivery_id(index: int) -> bytes:
    return b"01890a5d-ac96-774b-bcce-b302099a%04x" % index


def rows(message: Message, targets: tuple[list[bytes], ...], *variables: dict[str, Any]) -> Rows:
    """Rows for as many recipients as there are variables, or targets where the message asks for none."""
    names = template.variables(message)
    columns, refused = template.variable_columns(with_vars("stub", *variables), names)
    assert not refused
    return Rows([delivery_id(index) for index in range(len(targets[0]))], targets, tuple(columns) if names else ())


def bodies(
    plan: Plan, message: Message, targets: tuple[list[bytes], ...], *variables: dict[str, Any], now: float = NOW
) -> Rendered:
    return plan.render(rows(message, targets, *variables), now)
