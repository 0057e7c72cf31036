"""A folder whose files are a credential's parts, as Kubernetes mounts a secret.

Kubernetes swaps the symlink `..data` when a secret changes, so that all files change at once; that swap is one change.
A folder of ordinary files has changed when any of them has. It is looked at every two seconds: that needs no library,
works on every file system, and a key is never in a greater hurry.
"""

from __future__ import annotations

import os
from pathlib import Path

from providers.base import Material, ProviderSettings, Secret

POLL = 2.0
"""Seconds between looks."""

LONGEST = 64 * 1024
"""Bytes of a file; keys and certificates with their chains are a tenth of it."""

SWAPPED = "..data"
ALIASES = {"tls.crt": "certificate", "tls.key": "certificate_key"}
"""Names in a Kubernetes secret of the type `kubernetes.io/tls`."""


def signature(folder: Path) -> tuple[object, ...]:
    """Something that is another as soon as the contents are; () while there is no such folder."""
    try:
        if (folder / SWAPPED).is_symlink():
            return (os.readlink(folder / SWAPPED),)
        return tuple(sorted((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in _files(folder)))
    except OSError:
        return ()


def material(folder: Path, parts: frozenset[str]) -> Material:
    """The parts in a folder: files by their names without endings, `AuthKey_ID.p8` as `key` and `key_id`.

    Raises:
        ValueError: a file is no part, too long, or cannot be read; naming it.
    """
    found: dict[str, Secret] = {}
    try:
        for path in _files(folder):
            if path.name.startswith("AuthKey_") and path.suffix == ".p8":
                found["key_id"] = Secret(path.stem.removeprefix("AuthKey_").encode())
                name = "key"
            else:
                name = ALIASES.get(path.name, path.stem)
            if name not in parts:
                raise ValueError(f"{path}: is no part of such a credential; known here: {', '.join(sorted(parts))}")
            if path.stat().st_size > LONGEST:
                raise ValueError(f"{path}: is longer than {LONGEST:,} bytes, and no key")
            found[name] = Secret(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read ({error.strerror}); check its permissions") from None
    if not found:
        raise ValueError(f"{folder}: holds no file that is a part of a credential")
    return found


def of(block: ProviderSettings, parts: frozenset[str]) -> Material | None:
    """What the folder of a block holds; None where it names none.

    Raises:
        ValueError: as `material`.
    """
    return None if block.credential_directory is None else material(Path(block.credential_directory), parts)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
