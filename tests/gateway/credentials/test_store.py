"""What signs the apps' requests: loaded once, told whole, never shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.credentials import CredentialsError, CredentialStore
from gateway.settings import SettingsError, load

NOW = 1_800_000_000.0


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A signing key as Apple gives it."""
    key = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "AuthKey.p8"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def environ(key_file: Path, app: str = "SHOP") -> dict[str, str]:
    return {
        f"CARILLON_APPS__{app}__APNS__TOPIC": "com.example.shop",
        f"CARILLON_APPS__{app}__APNS__TEAM_ID": "ABCDE12345",
        f"CARILLON_APPS__{app}__APNS__KEY_ID": "FGHIJ67890",
        f"CARILLON_APPS__{app}__APNS__KEY_FILE": str(key_file),
    }


def test_each_route_gets_its_apps_credential(key_file: Path) -> None:
    """By app and provider; each can sign at once."""
    settings = load(None, {**environ(key_file), "CARILLON_APPS__NEWS__STUB__KEY": "sekrit-1"})
    store = CredentialStore(settings.blocks())
    assert {key for key, _ in store.items()} == {("shop", "apns"), ("news", "stub")}
    apns, stub = store.get("shop", "apns"), store.get("news", "stub")
    assert apns is not None
    assert stub is not None
    assert stub.headers("https://push.stub.example", NOW) == ((b"authorization", b"Bearer sekrit-1"),)
    headers = apns.headers("https://api.push.apple.com", NOW)
    assert headers is not None
    assert headers[0][1].startswith(b"bearer ")


def test_what_is_not_configured_has_none(key_file: Path) -> None:
    """Such as the app of a job that was stored before its block was removed."""
    store = CredentialStore(load(None, environ(key_file)).blocks())
    assert store.get("shop", "fcm") is None
    assert store.get("gone", "apns") is None


def test_all_errors_are_told_at_once(tmp_path: Path, key_file: Path) -> None:
    """Each names its block and its file; what is right beside it does not hide it."""
    (tmp_path / "empty.p8").write_text("not a key")
    settings = load(
        None,
        {
            **environ(key_file),
            **environ(tmp_path / "missing.p8", "ONE"),
            **environ(tmp_path / "empty.p8", "TWO"),
            "CARILLON_APPS__NEWS__STUB__KEY": "sekrit with spaces",
        },
    )
    with pytest.raises(CredentialsError) as caught:
        CredentialStore(settings.blocks())
    assert isinstance(caught.value, SettingsError)
    assert {problem.key for problem in caught.value.problems} == {"apps.one.apns", "apps.two.apns", "apps.news.stub"}
    text = str(caught.value)
    assert "missing.p8" in text
    assert "empty.p8" in text
    assert "sekrit" not in text


def test_logs_get_fingerprints_and_no_secrets(key_file: Path) -> None:
    """A fingerprint names a credential for people; neither it nor a repr gives it away."""
    settings = load(None, {**environ(key_file), "CARILLON_APPS__NEWS__STUB__KEY": "sekrit-1"})
    store = CredentialStore(settings.blocks())
    fingerprints = store.fingerprints()
    assert fingerprints.keys() == {"shop/apns", "news/stub"}
    assert all(fingerprints.values())
    shown = repr(store) + repr(dict(store.items())) + repr(settings) + str(fingerprints)
    secret = key_file.read_text().splitlines()[1]
    assert secret not in shown
    assert "sekrit" not in shown
