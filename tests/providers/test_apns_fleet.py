"""All machines mint the same provider token, without a word between them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from providers.apns.auth import CLOCKS, GRID
from tests.providers.material import EC_KEY, pem, written

PROGRAM = """
import sys
from providers import keys
from providers.apns.auth import ProviderToken
path, *instants = sys.argv[1:]
key = keys.p256(keys.read(path, "key_file"), "key_file", path)
token = ProviderToken(key, team_id="TEAM123456", key_id="KEY1234567")
for now in map(float, instants):
    print(token.headers("https://api.push.apple.com", now)[0][1].decode())
"""


def minted(key_file: str, *instants: float) -> list[str]:
    """What a process of its own presents at these instants of its clock, one after the other."""
    command = [sys.executable, "-c", PROGRAM, key_file, *map(str, instants)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def test_processes_with_the_same_key_mint_the_same_bytes(tmp_path: Path) -> None:
    """Whenever they started, and whatever they presented before."""
    key_file = written(tmp_path / "AuthKey.p8", pem(EC_KEY))
    point = 750_000 * GRID
    first, second = point + CLOCKS + 1.0, point + GRID + CLOCKS + 1.0
    old = minted(key_file, first, first + 600.0, second)
    late = minted(key_file, second - 30.0, second)
    new = minted(key_file, second + 900.0)
    assert old[0] == old[1] == late[0]
    assert old[2] == late[1] == new[0] != old[0]


def test_clocks_that_differ_by_less_than_a_minute_share_a_token_but_around_the_change(tmp_path: Path) -> None:
    """Then there are two of them, for no longer than that, and neither is from the future."""
    key_file = written(tmp_path / "AuthKey.p8", pem(EC_KEY))
    change = 750_001 * GRID + CLOCKS
    slow, fast = minted(key_file, change - 30.0), minted(key_file, change + 29.0)
    assert slow != fast
    assert minted(key_file, change + 1.0) == fast
