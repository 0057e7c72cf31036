"""Workers that share a database follow the same rotation, and whoever sees a step first carries it out."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.audit.log import Actor
from gateway.credentials import records
from gateway.credentials.desk import Desk
from gateway.credentials.health import Health
from gateway.credentials.records import Refused
from gateway.credentials.rotation import Rotation
from gateway.credentials.store import CredentialStore, Line
from gateway.credentials.vault import Vault
from gateway.credentials.watch import Watch
from gateway.observe.health import Readiness
from gateway.queue.database import Database
from gateway.settings import Credentials, Settings
from providers.base import Secret
from tests.gateway.dispatch.scripted import Silent

ALICE = Actor("default", "alice")
SHOP = ("shop", "stub")
AT_ONCE = Credentials(canary_window=1e-6, overlap=3600.0)


class Worker:
    """One process's part, without its dispatcher."""

    def __init__(self, path: Path, settings: Settings, vault: Vault, name: str) -> None:
        self.database = Database(path)
        self.store = CredentialStore(settings.blocks())
        self.readiness = Readiness()
        self.followed = 0
        self.rotation = Rotation(
            self.database,
            self.store,
            settings.blocks(),
            vault,
            Health(Silent(), self.readiness),  # type: ignore[arg-type]
            AT_ONCE,
            name,
            self._follow,
        )
        given = dict(self.store.items())
        self.desk = Desk(
            self.database, settings.blocks(), lambda *key: given.get(key), vault, AT_ONCE, self.rotation.hasten
        )
        self.watch = Watch(settings.blocks(), self.desk, self.readiness)

    def _follow(self) -> None:
        self.followed += 1

    @property
    def line(self) -> Line:
        line = self.store.line(*SHOP)
        assert line is not None
        return line

    @property
    def signs(self) -> dict[str, float]:
        """Who signs what share, by what the keys begin with."""
        line = self.line
        second = {} if line.second is None else {_key(line.second.credential): line.second.share}
        return {_key(line.first.credential): 1.0} | second

    async def look(self) -> None:
        """What it does once a second."""
        await self.rotation._tell()
        await self.rotation._look()

    @property
    def trouble(self) -> dict[str, str]:
        return {part: words for part, (ok, words) in self.readiness._parts.items() if not ok}


def _key(credential: object) -> str:
    headers = credential.headers("", 0.0)  # type: ignore[attr-defined]
    return str(headers[0][1].decode().removeprefix("Bearer "))


class Pair:
    """Two workers of a gateway."""

    def __init__(self, path: Path, vault: Vault, folder: Path | None = None) -> None:
        block = {"key": "first"} | ({} if folder is None else {"credential_directory": str(folder)})
        settings = Settings(apps={"shop": {"stub": block}})  # type: ignore[arg-type]
        self.one, self.other = (Worker(path, settings, vault, f"worker-{number}") for number in range(2))

    async def start(self) -> None:
        for worker in (self.one, self.other):
            await worker.database.open()
            await worker.rotation.start()

    async def close(self) -> None:
        for worker in (self.one, self.other):
            await worker.database.close()

    async def look(self) -> list[dict[str, float]]:
        """Both look twice, so that each has seen what the other did."""
        for worker in (self.one, self.other, self.one, self.other):
            await worker.look()
        return [self.one.signs, self.other.signs]

    async def rotated_in(self, key: str) -> int:
        added = await self.one.desk.add(*SHOP, {"key": Secret(key.encode())}, ALICE)
        await self.one.desk.rotate(added.number, ALICE)
        return added.number

    def answer(self, accepted: int, of: int) -> None:
        """The canary had so many accepted, of so many of both, at each worker."""
        for worker in (self.one, self.other):
            assert worker.line.second is not None
            worker.line.second.tally.accepted += accepted
            worker.line.first.tally.accepted += of


@pytest.fixture
def vault() -> Vault:
    return Vault([Secret(os.urandom(32))])


@pytest.fixture
async def pair(tmp_path: Path, vault: Vault) -> AsyncIterator[Pair]:
    made = Pair(tmp_path / "carillon.db", vault)
    await made.start()
    yield made
    await made.close()


async def test_workers_start_with_the_settings_credential_and_agree(pair: Pair) -> None:
    assert await pair.look() == [{"first": 1.0}] * 2
    assert [(row.state, row.source) for row in await pair.one.desk.credentials()] == [("active", "settings")]


async def test_a_rotation_goes_by_all_workers_answers(pair: Pair) -> None:
    """A worker that has seen nothing of a canary yet follows like the one that has."""
    await pair.rotated_in("second")
    assert await pair.one.database.read(records.revision) > 0
    await pair.one.rotation._look()
    await pair.other.rotation._look()
    assert [pair.one.signs, pair.other.signs] == [{"first": 1.0, "second": 0.01}] * 2
    assert pair.one.line.second is not None
    pair.one.line.second.tally.accepted, pair.one.line.first.tally.accepted = 5, 500
    await pair.one.look()
    await pair.other.rotation._look()
    assert [pair.one.signs, pair.other.signs] == [{"first": 1.0, "second": 0.1}] * 2
    assert pair.one.line.second.tally.accepted == 0, "what counts is since the share"
    pair.answer(5, 50)
    assert await pair.look() == [{"second": 1.0, "first": 0.0}] * 2


async def test_a_refusal_at_one_worker_takes_it_back_at_all(pair: Pair) -> None:
    number = await pair.rotated_in("second")
    await pair.look()
    assert pair.other.line.second is not None
    pair.other.line.second.refuse("unauthorized")
    assert await pair.look() == [{"first": 1.0}] * 2
    row = await pair.one.desk.get(number)
    assert (row.state, row.trouble) == ("broken", "unauthorized")


async def test_a_refusal_is_not_forgotten_over_a_step(pair: Pair) -> None:
    """It comes while another worker lets the canary go further, and what counts begins anew."""
    number = await pair.rotated_in("second")
    await pair.one.rotation._look()
    await pair.other.rotation._look()
    pair.answer(5, 500)
    await pair.other.look()
    assert (await pair.one.desk.get(number)).share == 0.1
    assert pair.one.line.second is not None
    pair.one.line.second.refuse("unauthorized")
    await pair.one.rotation._look()
    await pair.one.look()
    assert (await pair.one.desk.get(number)).state == "broken"


async def test_a_successor_that_is_refused_gives_way(pair: Pair) -> None:
    added = await pair.one.desk.add(*SHOP, {"key": Secret(b"second")}, ALICE)
    with pytest.raises(Refused, match="probe it first"):
        await pair.one.desk.promote(added.number, ALICE)
    await pair.one.desk.probe(added.number, ALICE)
    await pair.one.desk.promote(added.number, ALICE)
    assert await pair.look() == [{"second": 1.0, "first": 0.0}] * 2
    pair.one.line.first.refuse("unauthorized")
    assert await pair.look() == [{"first": 1.0}] * 2


async def test_a_broken_one_is_told_of_until_it_is_accepted_again(pair: Pair) -> None:
    pair.one.line.first.refuse("unauthorized")
    await pair.look()
    assert "unauthorized; jobs wait" in next(iter(pair.other.trouble.values()))
    pair.other.line.first.tally.accepted += 1
    await pair.look()
    assert pair.other.trouble == {}


async def test_a_broken_one_is_relieved_without_waiting_for_a_canary(pair: Pair) -> None:
    pair.one.line.first.refuse("unauthorized")
    await pair.look()
    await pair.rotated_in("second")
    assert await pair.look() == [{"second": 1.0}] * 2


async def test_a_restarted_worker_opens_what_is_stored(pair: Pair, tmp_path: Path, vault: Vault) -> None:
    number = await pair.rotated_in("second")
    await pair.one.desk.promote(number, ALICE)
    again = Pair(tmp_path / "carillon.db", vault)
    await again.start()
    assert again.one.signs == {"second": 1.0, "first": 0.0}
    await again.close()
    locked = Pair(tmp_path / "carillon.db", Vault([Secret(os.urandom(32))]))
    await locked.start()
    assert locked.one.signs == {"first": 1.0}, "it goes on with what it has, and says so"
    assert "opens with none of the keys" in next(iter(locked.one.trouble.values()))
    await locked.close()


async def test_the_database_holds_no_secret(pair: Pair, tmp_path: Path) -> None:
    await pair.rotated_in("canary-in-a-coal-mine")
    content = await asyncio.to_thread(lambda: b"".join(path.read_bytes() for path in tmp_path.glob("carillon.db*")))
    assert b"credential.canary" in content
    for form in (b"canary-in-a-coal-mine", base64.b64encode(b"canary-in-a-coal-mine")):
        assert form not in content


@pytest.mark.parametrize("keys", [0, 1])
async def test_what_appears_in_a_folder_is_rotated_in(tmp_path: Path, keys: int) -> None:
    """Also without a key to store it with; and what is no credential is told, and changes nothing."""
    folder = tmp_path / "secret"
    folder.mkdir()
    (folder / "key").write_text("mounted")
    pair = Pair(tmp_path / "carillon.db", Vault([Secret(os.urandom(32))] * keys), folder)
    await pair.start()
    look = [(worker.watch, (*SHOP, folder)) for worker in (pair.one, pair.other)]
    for watch, of in look:
        await watch._look(*of)
    assert await pair.look() == [{"mounted": 1.0}] * 2
    (folder / "key").write_text("not a key")
    for watch, of in look:
        await watch._look(*of)
    assert "was not rotated in: key: has to be visible ASCII" in next(iter(pair.one.trouble.values()))
    assert await pair.look() == [{"mounted": 1.0}] * 2
    (folder / "key").write_text("swapped")
    for watch, of in look:
        await watch._look(*of)
    assert pair.one.trouble == {}
    await pair.one.rotation._look()
    assert pair.one.signs == {"mounted": 1.0, "swapped": 0.01}
    for share in (5, 5):
        await pair.other.rotation._look()
        pair.answer(share, 100)
        await pair.look()
    assert await pair.look() == [{"swapped": 1.0, "mounted": 0.0}] * 2
    await pair.close()
