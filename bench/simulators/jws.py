"""JSON Web Signatures as the services read them (RFC 7515, compact serialization)."""

from __future__ import annotations

import base64
import re
from typing import Any, NamedTuple

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

_FOREIGN = re.compile(rb"[^A-Za-z0-9_-]")


class Jws(NamedTuple):
    """A token taken apart; nothing is verified yet."""

    header: dict[str, Any]
    claims: dict[str, Any]
    signed: bytes
    signature: bytes


def parse(token: bytes) -> Jws:
    """Raises ValueError where it is not a token of two JSON objects and a signature."""
    parts = token.split(b".")
    if len(parts) != 3:
        raise ValueError("not three parts")
    header, claims = (orjson.loads(unbase64(part)) for part in parts[:2])
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise ValueError("not objects")
    return Jws(header, claims, token.rpartition(b".")[0], unbase64(parts[2]))


def unbase64(part: bytes) -> bytes:
    """Base64url without padding; raises ValueError for anything foreign, which the standard library drops."""
    if _FOREIGN.search(part):
        raise ValueError("not base64url")
    return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))


def verify_es256(jws: Jws, key: ec.EllipticCurvePublicKey) -> bool:
    """Whether the signature is raw r and s of 32 bytes each (RFC 7518, section 3.4), by this key."""
    if jws.header.get("alg") != "ES256" or len(jws.signature) != 64:
        return False
    r, s = int.from_bytes(jws.signature[:32], "big"), int.from_bytes(jws.signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), jws.signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
