"""Signatures of Standard Webhooks: over the message's id, the second of the attempt, and the body.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SYMMETRIC, ASYMMETRIC = "whsec_", "whsk_"

Signer = Callable[[bytes], str]
"""From what is signed to one signature with its version."""


def signer(secret: str) -> Signer:
    """What a secret signs with.

    Raises:
        ValueError: it is none; the message does not show it.
    """
    for prefix, made in ((SYMMETRIC, _hmac), (ASYMMETRIC, _ed25519)):
        if secret.startswith(prefix):
            return made(_decoded(secret.removeprefix(prefix)))
    raise ValueError(f"a secret begins with {SYMMETRIC} or {ASYMMETRIC}, and goes on in Base64")


def headers(message_id: str, now: float, body: bytes, signers: Sequence[Signer]) -> dict[str, str]:
    """The fields that let a receiver verify a message."""
    timestamp = str(int(now))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(sign(signed) for sign in signers),
    }


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise ValueError("a secret has to be Base64 behind its prefix") from None


def _hmac(key: bytes) -> Signer:
    if not 24 <= len(key) <= 64:
        raise ValueError(f"a secret {SYMMETRIC}… has to be 24 to 64 random bytes in Base64")
    return lambda signed: "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def _ed25519(key: bytes) -> Signer:
    if len(key) not in (32, 64):  # libsodium's form has the public key behind the seed
        raise ValueError(f"a secret {ASYMMETRIC}… has to be an Ed25519 private key of 32 or 64 bytes in Base64")
    private = Ed25519PrivateKey.from_private_bytes(key[:32])
    return lambda signed: "v1a," + base64.b64encode(private.sign(signed)).decode()
