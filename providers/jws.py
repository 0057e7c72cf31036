"""JSON Web Signatures with ES256 (RFC 7515; RFC 7518, section 3.4), signed deterministically (RFC 6979).

PyJWT signs with fresh randomness. With RFC 6979 the same key and claims give the same bytes everywhere, which is what
lets all workers and machines present one and the same provider token to APNs.
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature


def base64url(data: bytes) -> bytes:
    """Without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def es256(key: ec.EllipticCurvePrivateKey, header: dict[str, Any], claims: dict[str, Any]) -> bytes:
    """A compact JWS: header and claims in the order given, then the raw signature R‖S of 64 bytes."""
    signed = base64url(msgspec.json.encode(header)) + b"." + base64url(msgspec.json.encode(claims))
    signature = key.sign(signed, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    r, s = decode_dss_signature(signature)
    return signed + b"." + base64url(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
