"""Credentials at rest: AES-256-GCM envelopes in the database, whose key lies elsewhere.

Each credential is encrypted with a key of its own, and that one with the machine's key. The machine's key comes from
the environment, a file, or a systemd credential; a file may hold several, one a line: the first one seals, all open,
so that it can be changed. What is sealed for one app opens for no other.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.settings import Credentials
from providers.base import Material, Secret

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
WRAPPED_BYTES: Final = NONCE_BYTES + KEY_BYTES + 16
"""A key of its own, encrypted: nonce, key, tag."""

SYSTEMD_CREDENTIAL: Final = "carillon-credentials-key"
ADVICE: Final = (
    "make a key with `openssl rand -base64 32`, and give it by credentials.key_file, CARILLON_CREDENTIALS__KEY, or the "
    f"systemd credential {SYSTEMD_CREDENTIAL}"
)


class VaultError(Exception):
    """Something cannot be sealed or opened; says what to do, and nothing of what is inside."""


class Vault:
    """Seals and opens material."""

    def __init__(self, keys: Sequence[Secret]) -> None:
        """`keys` are 32 bytes each; without any, nothing can be sealed."""
        self._keys = [AESGCM(key.reveal()) for key in keys]

    @property
    def usable(self) -> bool:
        """Whether anything can be sealed."""
        return bool(self._keys)

    def seal(self, material: Material, owner: str) -> bytes:
        """Encrypt material for an owner (`app/provider`).

        Raises:
            VaultError: there is no key.
        """
        if not self._keys:
            raise VaultError(f"credentials cannot be stored without a key to encrypt them with: {ADVICE}")
        own = os.urandom(KEY_BYTES)
        plain = msgspec.json.encode({name: base64.b64encode(part.reveal()).decode() for name, part in material.items()})
        return _encrypt(self._keys[0], own, owner) + _encrypt(AESGCM(own), plain, owner)

    def open(self, sealed: bytes, owner: str) -> Material:
        """Decrypt what was sealed for the owner.

        Raises:
            VaultError: the key is another, or the bytes were changed.
        """
        for key in self._keys:
            try:
                own = _decrypt(key, sealed[:WRAPPED_BYTES], owner)
                plain = _decrypt(AESGCM(own), sealed[WRAPPED_BYTES:], owner)
            except InvalidTag:
                continue
            parts = msgspec.json.decode(plain, type=dict[str, str])
            return {name: Secret(base64.b64decode(part)) for name, part in parts.items()}
        raise VaultError(f"a stored credential of {owner} opens with none of the keys: give the one it was sealed with")


def find(settings: Credentials, environ: Mapping[str, str]) -> Vault:
    """The vault with the keys that the settings and the environment name.

    Raises:
        VaultError: a key is none, or its file cannot be read or is everybody's.
    """
    if settings.key is not None:
        return Vault(_keys(settings.key.get_secret_value(), "credentials.key"))
    if settings.key_file is not None:
        return Vault(_keys(read_private(settings.key_file), str(settings.key_file)))
    given = Path(environ.get("CREDENTIALS_DIRECTORY", "")) / SYSTEMD_CREDENTIAL
    if "CREDENTIALS_DIRECTORY" in environ and given.exists():
        return Vault(_keys(read_private(given), str(given)))
    return Vault([])


def read_private(path: Path) -> str:
    """The text of a file that is its owner's alone.

    Raises:
        VaultError: it is not, or cannot be read.
    """
    try:
        if path.stat().st_mode & 0o037:
            raise VaultError(f"{path} can be read by others: chmod 600 {path}")
        return path.read_text("ascii")
    except OSError as error:
        raise VaultError(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from None
    except UnicodeDecodeError:
        raise VaultError(f"{path} holds no key: {ADVICE}") from None


def _keys(text: str, where: str) -> list[Secret]:
    try:
        keys = [base64.b64decode(line, validate=True) for line in text.split()]
    except binascii.Error:
        keys = []
    if not keys or any(len(key) != KEY_BYTES for key in keys):
        raise VaultError(f"{where} has to hold 32 bytes in base64: {ADVICE}")
    return [Secret(key) for key in keys]


def _encrypt(key: AESGCM, plain: bytes, owner: str) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return nonce + key.encrypt(nonce, plain, owner.encode())


def _decrypt(key: AESGCM, sealed: bytes, owner: str) -> bytes:
    return key.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], owner.encode())
