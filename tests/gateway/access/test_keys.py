"""API keys: what is kept of them, how long they are good, and how soon everybody knows."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.access import first, keys
from gateway.access.keyring import Keyring
from gateway.access.keys import KeyRefused, NewKey, Wish
from gateway.access.keystore import KeyStore
from gateway.access.principal import Principal, Scope
from gateway.audit.log import Actor
from gateway.queue.database import Database

OPERATOR = Actor("", "root at the command line")
SEND = Wish("acme", "campaigns", (Scope.SEND,))


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(tmp_path / "carillon.db")
    await database.open()
    yield database
    await database.close()


async def make(database: Database, wish: Wish = SEND, now: float | None = None) -> NewKey:
    return await database.write(lambda db: keys.create(db, time.time() if now is None else now, OPERATOR, wish))


def contents(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


async def test_a_key_is_shown_once_and_its_hash_is_kept(database: Database, tmp_path: Path) -> None:
    """Neither the file nor a repr holds it; its prefix names the tenant, for whoever finds it lying about."""
    made = await make(database)
    assert re.fullmatch(r"carillon_acme_[\w-]{43}", made.secret)
    assert made.key.hash == hashlib.sha256(made.secret.encode()).digest()
    assert made.secret not in repr(made)
    await database.close()
    assert made.secret.encode() not in contents(tmp_path)


async def test_it_is_good_for_what_was_wished(database: Database) -> None:
    """Its tenant, its scopes, its apps, until it ends."""
    now = time.time()
    wish = Wish("acme", "codes", (Scope.READ, Scope.SEND), ("shop",), now + 100)
    made = await make(database, wish)
    clock = [now]
    ring = Keyring(database, lambda: clock[0])
    held = await ring.holder(made.secret)
    assert held == Principal("acme", f"codes ({made.key.id})", frozenset({Scope.READ, Scope.SEND}), frozenset({"shop"}))
    assert (held.full("shop"), held.full("bank"), held.sees("acme/shop"), held.sees("shop")) == (
        "acme/shop",
        "",
        True,
        False,
    )
    clock[0] = now + 100
    assert await ring.holder(made.secret) is None


@pytest.mark.parametrize("change", ["", "x", "tenant", "case", "none", "bytes"])
async def test_what_only_looks_like_a_key_is_none(database: Database, change: str) -> None:
    """Each character counts, the tenant in it as well."""
    made = await make(database)
    ring = Keyring(database)
    await ring.look()
    wrong = {
        "": made.secret[:-1],
        "x": made.secret + "x",
        "tenant": made.secret.replace("acme", "default"),
        "case": made.secret.swapcase(),
        "none": "carillon_",
        "bytes": made.secret[:-1] + "\udcff",  # as a header field that is not UTF-8 is read
    }[change]
    assert await ring.holder(wrong) is None
    assert await ring.holder(made.secret) is not None


async def test_two_keys_of_a_name_are_good_at_a_time(database: Database) -> None:
    """The second to change over to; a third when the first is revoked. Another tenant's names are its own."""
    made = [await make(database) for _ in range(2)]
    with pytest.raises(KeyRefused, match="revoke"):
        await make(database)
    await make(database, SEND._replace(tenant="globex"))
    await database.write(lambda db: keys.revoke(db, time.time(), OPERATOR, made[0].key.id))
    third = await make(database)
    ring = Keyring(database)
    assert [await ring.holder(each.secret) is not None for each in (*made, third)] == [False, True, True]


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        (SEND._replace(name="two words"), "letters"),
        (SEND._replace(name=""), "letters"),
        (SEND._replace(scopes=()), "send, read, operate"),
        (SEND._replace(apps=()), "no app"),
        (SEND._replace(expires=1.0), "expired"),
    ],
)
async def test_a_key_of_no_use_is_not_made(database: Database, wish: Wish, why: str) -> None:
    """Told why; nothing is kept."""
    with pytest.raises(KeyRefused, match=why):
        await make(database, wish)
    assert await database.read(keys.all_keys) == []


async def test_another_workers_keys_are_followed(database: Database) -> None:
    """A new one is good at once, a revoked one is not within a second. Nothing is read while nothing changes."""
    ring = Keyring(database)
    await ring.look()
    following = asyncio.ensure_future(ring.keep_up())
    made = await make(database)
    assert await ring.holder(made.secret) is not None
    await KeyStore(database).revoke(OPERATOR, made.key.id, "acme")
    async with asyncio.timeout(1.0):
        while await ring.holder(made.secret) is not None:
            await asyncio.sleep(0.01)
    following.cancel()


async def test_what_was_good_is_remembered_until_any_key_changes(database: Database) -> None:
    """As it was sent, and no longer than the key is good; nothing else is known by it."""
    now = time.time()
    clock = [now]
    made = await make(database, SEND._replace(expires=now + 100))
    ring = Keyring(database, lambda: clock[0])
    field = f"Bearer {made.secret}"
    assert ring.remembered(field) is None
    held = await ring.holder(made.secret, field)
    assert held is not None
    assert ring.remembered(field) is held
    assert [ring.remembered(other) for other in ("", field.lower(), field + " ", made.secret)] == [None] * 4
    clock[0] = now + 100
    assert ring.remembered(field) is None
    clock[0] = now
    await database.write(lambda db: keys.revoke(db, now, OPERATOR, made.key.id))
    await ring.look()
    assert ring.remembered(field) is None
    assert await ring.holder(made.secret, field) is None
    assert ring.remembered(field) is None


async def test_a_flood_of_wrong_keys_looks_into_the_file_ten_times_a_second(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait for one look together, and a key that was made meanwhile is found by it."""
    ring = Keyring(database)
    looks = 0
    look = ring.look

    async def counted() -> None:
        nonlocal looks
        looks += 1
        await look()

    monkeypatch.setattr(ring, "look", counted)
    began = asyncio.get_running_loop().time()
    made = await make(database)
    wrong = [ring.holder(f"carillon_acme_{number}") for number in range(2000)]
    answers = await asyncio.gather(*wrong, ring.holder(made.secret))
    assert answers[:-1] == [None] * 2000
    assert answers[-1] is not None
    elapsed = asyncio.get_running_loop().time() - began
    assert looks <= 2 + elapsed / 0.1


async def test_last_uses_are_stored_together(database: Database) -> None:
    """The latest of all workers' counts; a key that nobody used says so."""
    used, unused = await make(database), await make(database)
    rings = [Keyring(database, lambda at=at: at) for at in (1000.0, 2000.0, 1500.0)]
    for ring in rings:
        await ring.holder(used.secret)
        await ring.close()
    last = {key.id: key.last_used for key in await database.read(keys.all_keys)}
    assert last == {used.key.id: 2000.0, unused.key.id: None}


async def test_what_is_done_to_keys_is_in_the_audit_log(database: Database) -> None:
    """In the same transaction; never the secret. Revoking twice is told once."""
    made = await make(database)
    for _ in range(2):
        await database.write(lambda db: keys.revoke(db, time.time(), OPERATOR, made.key.id))
    rows = await database.read(lambda db: db.execute("SELECT actor, action, subject, detail FROM audit").fetchall())
    assert [row[:3] for row in rows] == [
        (OPERATOR.name, action, made.key.id) for action in ("key.create", "key.revoke")
    ]
    assert made.secret not in str(rows)


async def test_a_tenants_operator_ends_its_own_keys_only(database: Database) -> None:
    """Another tenant's key is no key."""
    made = await make(database)
    for key_id in (made.key.id, "key_0"):
        with pytest.raises(KeyRefused, match="no such key"):
            await KeyStore(database).revoke(OPERATOR, key_id, "globex")
    assert await KeyStore(database).of_tenant("globex") == []
    assert [key.revoked for key in await KeyStore(database).of_tenant("acme")] == [None]


async def test_the_first_key_is_made_once(database: Database, tmp_path: Path) -> None:
    """Its owner alone reads it; once there has been a key, revoked or not, none is made by itself."""
    made = await database.write(lambda db: first.make(db, tmp_path, 1000.0))
    assert made is not None
    assert first.read(tmp_path) == made
    assert first.path(tmp_path).stat().st_mode & 0o777 == 0o600
    assert await database.write(lambda db: first.make(db, tmp_path, 1000.0)) is None
    held = await Keyring(database).holder(made)
    assert held is not None
    assert (held.tenant, held.scopes, held.apps) == ("default", frozenset(Scope), None)
    (key,) = await database.read(keys.all_keys)
    await database.write(lambda db: keys.revoke(db, 2000.0, OPERATOR, key.id))
    assert await database.write(lambda db: first.make(db, tmp_path, 3000.0)) is None
