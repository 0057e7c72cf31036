"""Material at rest."""

from __future__ import annotations

import base64
import os
import pickle
from pathlib import Path

import pytest

from gateway.credentials.vault import SYSTEMD_CREDENTIAL, Vault, VaultError, find
from gateway.settings import Credentials
from providers.base import Secret

MATERIAL = {"key": Secret(b"-----BEGIN PRIVATE KEY-----\xff"), "key_id": Secret(b"ABCDE12345")}


def key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


def test_what_is_sealed_opens_for_its_owner_alone() -> None:
    vault = find(Credentials(key=key()), {})
    sealed = vault.seal(MATERIAL, "shop/apns")
    assert vault.open(sealed, "shop/apns") == MATERIAL
    assert vault.seal(MATERIAL, "shop/apns") != sealed
    for wrong in (sealed[:-1] + bytes([sealed[-1] ^ 1]), bytes([sealed[0] ^ 1]) + sealed[1:]):
        with pytest.raises(VaultError, match="opens with none of the keys"):
            vault.open(wrong, "shop/apns")
    with pytest.raises(VaultError, match="of bank/apns opens with none"):
        vault.open(sealed, "bank/apns")
    assert b"PRIVATE" not in sealed
    assert b"ABCDE12345" not in sealed


def test_a_key_is_changed_by_putting_another_before_it() -> None:
    old, new = key(), key()
    sealed = find(Credentials(key=old), {}).seal(MATERIAL, "shop/apns")
    both = find(Credentials(key=f"{new}\n{old}\n"), {})
    assert both.open(sealed, "shop/apns") == MATERIAL
    again = both.seal(MATERIAL, "shop/apns")
    assert find(Credentials(key=new), {}).open(again, "shop/apns") == MATERIAL
    with pytest.raises(VaultError):
        find(Credentials(key=new), {}).open(sealed, "shop/apns")


def test_without_a_key_nothing_is_stored() -> None:
    with pytest.raises(VaultError, match="openssl rand -base64 32"):
        find(Credentials(), {}).seal(MATERIAL, "shop/apns")


def test_the_key_may_be_in_a_file_or_systemds_credential(tmp_path: Path) -> None:
    path = tmp_path / SYSTEMD_CREDENTIAL
    path.write_text(key() + "\n")
    path.chmod(0o600)
    sealed = find(Credentials(key_file=path), {}).seal(MATERIAL, "shop/apns")
    assert find(Credentials(), {"CREDENTIALS_DIRECTORY": str(tmp_path)}).open(sealed, "shop/apns") == MATERIAL
    assert isinstance(find(Credentials(), {"CREDENTIALS_DIRECTORY": str(tmp_path / "none")}), Vault)


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (key(), 0o644, "chmod 600"),
        ("SECRET", 0o600, "has to hold 32 bytes in base64"),
        (base64.b64encode(b"SECRET").decode(), 0o600, "has to hold 32 bytes"),
        ("", 0o600, "has to hold 32 bytes"),
        ("sécret", 0o600, "holds no key"),
    ],
    ids=["open to all", "text", "short", "empty", "not ASCII"],
)
def test_a_wrong_key_file_is_named_and_not_quoted(tmp_path: Path, content: str, mode: int, why: str) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(VaultError, match=why) as raised:
        find(Credentials(key_file=path), {})
    assert "SECRET" not in str(raised.value)
    with pytest.raises(VaultError, match="cannot be read"):
        find(Credentials(key_file=tmp_path / "gone"), {})


def test_a_secret_shows_itself_to_nobody() -> None:
    secret = Secret(b"hush")
    assert "hush" not in f"{secret} {secret!r} {[secret]} {MATERIAL}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
