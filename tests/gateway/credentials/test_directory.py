"""Folders of credentials."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.credentials import directory
from providers import PROVIDERS
from providers.base import Secret

APNS = PROVIDERS["apns"].parts


def mount(folder: Path, number: int, **files: str) -> None:
    """As Kubernetes does it: files in a folder of a date, `..data` to it, and symlinks through that."""
    dated = folder / f"..2026_{number}"
    dated.mkdir(parents=True)
    for name, content in files.items():
        (dated / name.replace("_p8", ".p8")).write_text(content)
    new = folder / "..data_tmp"
    new.symlink_to(dated.name)
    os.replace(new, folder / "..data")
    for path in dated.iterdir():
        if not (folder / path.name).is_symlink():
            (folder / path.name).symlink_to(f"..data/{path.name}")


def test_a_swap_of_kubernetes_symlink_is_one_change(tmp_path: Path) -> None:
    folder = tmp_path / "secret"
    assert directory.signature(folder) == ()
    mount(folder, 1, key="old", key_id="OLDKEY0001\n")
    first = directory.signature(folder)
    assert directory.material(folder, APNS) == {"key": Secret(b"old"), "key_id": Secret(b"OLDKEY0001\n")}
    assert directory.signature(folder) == first
    mount(folder, 2, key="new", key_id="NEWKEY0001")
    assert directory.signature(folder) != first
    assert directory.material(folder, APNS) == {"key": Secret(b"new"), "key_id": Secret(b"NEWKEY0001")}


def test_a_folder_of_files_changes_with_any_of_them(tmp_path: Path) -> None:
    (tmp_path / "AuthKey_ABCDE12345.p8").write_text("key")
    first = directory.signature(tmp_path)
    assert directory.material(tmp_path, APNS) == {"key": Secret(b"key"), "key_id": Secret(b"ABCDE12345")}
    (tmp_path / "team_id").write_text("TEAM123456")
    assert directory.signature(tmp_path) != first


def test_names_of_kubernetes_own_secrets(tmp_path: Path) -> None:
    (tmp_path / "tls.crt").write_text("chain")
    (tmp_path / "tls.key").write_text("key")
    assert directory.material(tmp_path, APNS).keys() == {"certificate", "certificate_key"}


def test_what_is_no_part_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no file"):
        directory.material(tmp_path, APNS)
    with pytest.raises(ValueError, match="gone cannot be read"):
        directory.material(tmp_path / "gone", APNS)
    (tmp_path / "notes.txt").write_text("SECRET")
    with pytest.raises(
        ValueError, match=r"notes\.txt: is no part of such a credential; known here: certificate"
    ) as raised:
        directory.material(tmp_path, APNS)
    assert "SECRET" not in str(raised.value)
    (tmp_path / "notes.txt").unlink()
    (tmp_path / "key").write_bytes(b"x" * (directory.LONGEST + 1))
    with pytest.raises(ValueError, match="is longer than 65,536 bytes"):
        directory.material(tmp_path, APNS)
