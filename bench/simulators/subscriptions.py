"""Web Push subscriptions whose keys follow from their endpoint, and the user agent that decrypts (RFC 8291).

So a million subscriptions need no state: the key pair is one of a pool, the secret a keyed hash of the name.
"""

from __future__ import annotations

import base64
import hmac
from functools import cached_property
from hashlib import blake2b, sha256
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

POOL = 1000
PATH = "/push/v1/"
_CURVE = ec.SECP256R1()
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_HEADER = 86  # salt, record size, length of the key id, key id (RFC 8188, section 2.1)
_TAG = 16


class Undecryptable(Exception):
    """Why a user agent would drop a message."""


class Secrets(NamedTuple):
    """A subscription's secrets, as only its user agent has them."""

    pair: int
    auth: bytes


class Plain(NamedTuple):
    """A decrypted message."""

    text: bytes
    padding: int
    sender_key: bytes
    salt: bytes


class Factory:
    """Makes subscriptions and decrypts what is sent to them. All factories are the same one."""

    def __init__(self) -> None:
        self._key = sha256(b"carillon subscriptions").digest()

    @cached_property
    def _private_keys(self) -> list[ec.EllipticCurvePrivateKey]:
        return [ec.derive_private_key(self._scalar(number), _CURVE) for number in range(POOL)]

    @cached_property
    def _public_keys(self) -> list[bytes]:
        return [point(key.public_key()) for key in self._private_keys]

    @cached_property
    def _encoded_keys(self) -> list[bytes]:
        return [_base64(key) for key in self._public_keys]

    def _scalar(self, number: int) -> int:
        digest = hmac.digest(self._key, b"pair %d" % number, "sha512")
        return int.from_bytes(digest, "big") % (_ORDER - 1) + 1

    def _digest(self, name: bytes) -> bytes:
        return blake2b(name, key=self._key, digest_size=24).digest()

    def document(self, origin: str, name: str) -> bytes:
        """A PushSubscription as JSON; `name` is URL-safe text and comes back in the endpoint's path."""
        named = name.encode()
        digest = self._digest(named)
        return b'{"endpoint":"%b%b%b.%b","keys":{"p256dh":"%b","auth":"%b"}}' % (
            origin.encode(),
            PATH.encode(),
            named,
            digest[20:].hex().encode(),
            self._encoded_keys[int.from_bytes(digest[16:20], "big") % POOL],
            _base64(digest[:16]),
        )

    def secrets(self, token: bytes) -> Secrets | None:
        """Of the last part of an endpoint's path; None for one that this factory never made."""
        name, _, check = token.rpartition(b".")
        digest = self._digest(name)
        if check != digest[20:].hex().encode():
            return None
        return Secrets(int.from_bytes(digest[16:20], "big") % POOL, digest[:16])

    def decrypt(self, secrets: Secrets, body: bytes) -> Plain:
        """A message's text, as strictly as the specifications allow.

        Raises:
            Undecryptable: a user agent would drop it; says why.
        """
        if len(body) < _HEADER + _TAG + 1:
            raise Undecryptable("shorter than a header and one record")
        salt, record_size, sender = body[:16], int.from_bytes(body[16:20], "big"), body[21:_HEADER]
        record = body[_HEADER:]
        if body[20] != 65 or sender[0] != 4:
            raise Undecryptable("the key id is not an uncompressed point of 65 bytes")
        if record_size < 18 or record_size < len(record):
            raise Undecryptable("the record size does not hold one record")
        try:
            sender_key = ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, sender)
        except ValueError:
            raise Undecryptable("the sender's key is not on the curve") from None
        shared = self._private_keys[secrets.pair].exchange(ec.ECDH(), sender_key)
        info = b"WebPush: info\0" + self._public_keys[secrets.pair] + sender
        key_material = _expand(hmac.digest(secrets.auth, shared, "sha256"), info, 32)
        pseudo_random = hmac.digest(salt, key_material, "sha256")
        key = _expand(pseudo_random, b"Content-Encoding: aes128gcm\0", 16)
        nonce = _expand(pseudo_random, b"Content-Encoding: nonce\0", 12)
        try:
            padded = AESGCM(key).decrypt(nonce, record, None)
        except InvalidTag:
            raise Undecryptable("the record does not authenticate") from None
        text = padded.rstrip(b"\0")
        if not text.endswith(b"\2"):
            raise Undecryptable("the last record's delimiter is not 0x02")
        return Plain(text[:-1], len(padded) - len(text), sender, salt)


def point(key: ec.EllipticCurvePublicKey) -> bytes:
    """65 bytes, uncompressed."""
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def _expand(key: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand for one block (RFC 5869, section 2.3)."""
    return hmac.digest(key, info + b"\1", "sha256")[:length]


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
