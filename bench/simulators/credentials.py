"""Credentials that the simulators accept, as the files that a gateway is configured with."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

TEAM_ID = "SIMTEAM001"
KEY_ID = "SIMKEY0001"
TOPIC = "com.example.shop"
PROJECT_ID = "carillon-simulator"
CLIENT_EMAIL = f"sender@{PROJECT_ID}.iam.gserviceaccount.com"
SUBJECT = "mailto:push@example.com"


class Credentials(NamedTuple):
    """A folder's credentials; made when they are not there yet, so that processes can share them."""

    folder: Path
    apns_key_file: Path
    service_account_file: Path
    """Written by `write_service_account`, as it names the token endpoint."""
    google_key_file: Path
    vapid_key_file: Path
    stub_key_file: Path

    @classmethod
    def make(cls, folder: Path) -> Credentials:
        folder.mkdir(parents=True, exist_ok=True)
        paths = cls(
            folder,
            folder / f"AuthKey_{KEY_ID}.p8",
            folder / "service-account.json",
            folder / "service-account-key.pem",
            folder / "vapid.pem",
            folder / "stub.key",
        )
        for path in (paths.apns_key_file, paths.vapid_key_file):
            if not path.exists():
                write_secret(path, private_pem(ec.generate_private_key(ec.SECP256R1())))
        if not paths.google_key_file.exists():
            write_secret(paths.google_key_file, private_pem(rsa.generate_private_key(65537, 2048)))
        if not paths.stub_key_file.exists():
            write_secret(paths.stub_key_file, secrets.token_urlsafe(24).encode())
        return paths

    @property
    def apns_key(self) -> ec.EllipticCurvePublicKey:
        return _elliptic(self.apns_key_file)

    @property
    def vapid_key(self) -> ec.EllipticCurvePublicKey:
        return _elliptic(self.vapid_key_file)

    @property
    def google_key(self) -> rsa.RSAPublicKey:
        key = serialization.load_pem_private_key(self.google_key_file.read_bytes(), None)
        assert isinstance(key, rsa.RSAPrivateKey)  # `make` wrote it
        return key.public_key()

    @property
    def google_key_id(self) -> str:
        """Stable for the key, as Google's are."""
        numbers = self.google_key.public_numbers()
        return f"{numbers.n % (1 << 160):040x}"

    @property
    def stub_key(self) -> str:
        return self.stub_key_file.read_text()

    def write_service_account(self, token_uri: str) -> None:
        """The key file as Google's console gives it."""
        account = {
            "type": "service_account",
            "project_id": PROJECT_ID,
            "private_key_id": self.google_key_id,
            "private_key": self.google_key_file.read_text(),
            "client_email": CLIENT_EMAIL,
            "client_id": "100000000000000000001",
            "token_uri": token_uri,
        }
        write_secret(self.service_account_file, json.dumps(account, indent=2).encode())


def write_secret(path: Path, content: bytes) -> None:
    """A file that only its owner may read, from its first byte on."""
    path.touch(mode=0o600)
    path.write_bytes(content)


def private_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _elliptic(path: Path) -> ec.EllipticCurvePublicKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)  # `make` wrote it
    return key.public_key()
