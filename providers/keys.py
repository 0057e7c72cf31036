"""Key files: read, checked, and never quoted in an error."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from providers.base import Material, Secret

GIVEN = "what was given"
"""Stands for a file's path where material came without one."""


def check_parts(material: Material, known: frozenset[str], *needed: str) -> None:
    """Refuse material that lacks something, or has what nobody looks at.

    Raises:
        ValueError: naming the part.
    """
    for name in sorted(material.keys() - known):
        raise ValueError(f"{name}: is no part of such a credential; known here: {', '.join(sorted(known))}")
    for name in needed:
        if name not in material:
            raise ValueError(f"{name}: is missing and has to be given")


def text(material: Material, name: str) -> str:
    """A part that is a name.

    Raises:
        ValueError: it is none.
    """
    try:
        return material[name].reveal().decode("ascii").strip()
    except UnicodeDecodeError:
        raise ValueError(f"{name}: is not ASCII text") from None


def secret(path: str, field: str) -> Secret:
    """As `read`."""
    return Secret(read(path, field))


def read(path: str, field: str) -> bytes:
    """A file named by a setting.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(
            f"{field}: cannot read {path} ({error.strerror}); check the path and its permissions"
        ) from None


def p256(pem: bytes, field: str, path: str) -> ec.EllipticCurvePrivateKey:
    """A private key on the curve P-256, from PEM without a password.

    Raises:
        ValueError: it is something else.
    """
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        raise ValueError(f"{field}: {path} is not a PEM private key without a password") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError(f"{field}: {path} holds a key of another kind; it has to be on the curve P-256")
    return key


def point(key: ec.EllipticCurvePublicKey) -> bytes:
    """65 bytes: the uncompressed point (SEC 1, section 2.3.3)."""
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def fingerprint(*parts: bytes) -> str:
    """What to call a credential in logs, metrics and pool keys: 12 hex digits of SHA-256. Not for guessable secrets."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]
