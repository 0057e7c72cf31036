"""What operators ask about credentials, over HTTP and by the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner, Result

from gateway.access.principal import Principal, Scope
from gateway.cli import app
from gateway.credentials.vault import Vault
from gateway.settings import Settings
from providers.base import Secret
from tests.gateway.credentials.test_following import Worker
from tests.gateway.ingest.conftest import Gateway, Serve

SECRET = "sekrit-2"


class GateOf:
    """Lets in one tenant's operator."""

    def __init__(self, tenant: str) -> None:
        self._who = Principal(tenant, "alice", frozenset(Scope))

    async def admit(self, request: web.BaseRequest) -> Principal:
        return self._who


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    stub = {"stub": {"key": "sekrit-1"}}
    settings = Settings(apps={"shop": stub}, tenants={"acme": {"apps": {"shop": stub}}})  # type: ignore[arg-type]
    made = Worker(tmp_path / "carillon.db", settings, Vault([Secret(bytes(32))]), "worker-0")
    await made.database.open()
    await made.rotation.start()
    yield made
    await made.database.close()


@pytest.fixture
async def gateway(serve: Serve, worker: Worker) -> Gateway:
    return await serve(credentials=worker.desk)


async def asked(gateway: Gateway, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and document; no answer has a secret in it."""
    async with gateway.session.request(method, f"/v1/credentials{path}", json=body) as response:
        text = await response.text()
        assert "sekrit" not in text
        return response.status, json.loads(text)


async def added(gateway: Gateway, key: str = SECRET) -> str:
    body = {"app": "shop", "provider": "stub", "material": {"key": key}}
    status, answer = await asked(gateway, "POST", "", body)
    assert (status, answer["state"], answer["added_by"]) == (201, "staged", "anyone")
    return str(answer["id"])


async def test_a_credential_from_its_addition_to_its_end(gateway: Gateway) -> None:
    """Each step is possible from where it is, and the others say what is."""
    number = await added(gateway)
    status, answer = await asked(gateway, "POST", f"/{number}/promote")
    assert status == 409
    assert "is not proven: probe it first" in answer["detail"]
    for step, state in (("probe", "staged"), ("rotate", "canary"), ("promote", "active"), ("rollback", "staged")):
        status, answer = await asked(gateway, "POST", f"/{number}/{step}")
        assert (status, answer["state"]) == (200, state)
    status, answer = await asked(gateway, "POST", f"/{number}/retire")
    assert (status, answer["state"]) == (200, "retired")
    _, page = await asked(gateway, "GET", "/history")
    assert [step["step"] for step in page["steps"]] == [
        "added", "added", "proven", "canary", "replaced", "promoted", "rolled_back", "active_again", "retired",
    ]  # fmt: skip
    _, rest = await asked(gateway, "GET", f"/history?after={page['cursor']}")
    assert rest["steps"] == []


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        ({"app": "shop", "provider": "stub", "material": {"key": "sekrit 2"}}, 422, "key: has to be visible ASCII"),
        ({"app": "shop", "provider": "stub", "material": {"kee": "x"}}, 422, "kee: is no part of such a credential"),
        ({"app": "shop", "provider": "stub", "material": {}}, 422, "key: is missing and has to be given"),
        ({"app": "shop", "provider": "apns", "material": {"key": "sekrit"}}, 422, "is configured"),
        ({"app": "acme/shop", "provider": "stub", "material": {"key": "x"}}, 422, "there is no such app"),
        ({"app": "shop", "provider": "stub", "material": {"key": "sekrit-1"}}, 422, "already, which is active"),
        ({"app": "shop", "provider": "stub", "material": {"key": 1}}, 422, ""),
    ],
)
async def test_what_cannot_be_added_is_said_without_it(gateway: Gateway, body: Any, status: int, why: str) -> None:
    found, answer = await asked(gateway, "POST", "", body)
    assert found == status
    assert why in answer["detail"]


async def test_what_is_not_there(gateway: Gateway) -> None:
    for number in ("123456", "0", "x", "9" * 30):
        assert (await asked(gateway, "POST", f"/{number}/probe"))[0] == 404


async def test_tenants_do_not_see_each_others(serve: Serve, worker: Worker) -> None:
    """Neither rows nor history, and a step on another's credential finds none."""
    ours = await serve(credentials=worker.desk)
    theirs = await serve(credentials=worker.desk, gate=GateOf("acme"))
    number = await added(ours)
    _, page = await asked(theirs, "GET", "")
    assert [(row["app"], row["id"] != number) for row in page["credentials"]] == [("shop", True)]
    for step in ("probe", "rotate", "promote", "rollback", "retire"):
        status, answer = await asked(theirs, "POST", f"/{number}/{step}")
        assert (status, answer["detail"]) == (404, "There is no such credential.")
    _, history = await asked(theirs, "GET", "/history")
    assert len(history["steps"]) == 1


class TestCommands:
    """`carillon credentials`."""

    async def run(self, gateway: Gateway, *arguments: str) -> Result:
        url = f"http://127.0.0.1:{gateway.address[1]}"
        command = ["credentials", *arguments, "--url", url]
        result = await asyncio.to_thread(CliRunner().invoke, app, command, env={"COLUMNS": "200"})
        assert "sekrit" not in result.output
        return result

    async def test_one_is_added_and_rotated_in(self, gateway: Gateway, worker: Worker, tmp_path: Path) -> None:
        key = tmp_path / "key"
        key.write_text(SECRET)
        made = await self.run(gateway, "add", "shop", "stub", "--key", str(key), "--json")
        number = json.loads(made.output)["id"]
        told = await self.run(gateway, "rotate", number)
        assert "is canary" in told.output
        listed = await self.run(gateway, "list")
        assert "shop/stub" in listed.output
        assert "canary 1%" in listed.output
        assert (await self.run(gateway, "promote", number)).exit_code == 0
        history = await self.run(gateway, "history", "--json")
        assert [json.loads(line)["step"] for line in history.output.splitlines()][-1] == "promoted"
        assert "promoted" in (await self.run(gateway, "history")).output
        rows = json.loads((await self.run(gateway, "list", "--json")).output)
        assert {row["id"]: row["state"] for row in rows}[number] == "active"

    async def test_a_refusal_is_told(self, gateway: Gateway, tmp_path: Path) -> None:
        refused = await self.run(gateway, "retire", "123456")
        assert refused.exit_code == 1
        assert "There is no such credential" in refused.output
        nothing = await self.run(gateway, "add", "shop", "stub")
        assert nothing.exit_code == 2

    async def test_a_broken_one_is_a_bad_answer(self, gateway: Gateway, worker: Worker) -> None:
        number = await added(gateway)
        await asked(gateway, "POST", f"/{number}/rotate")
        await worker.look()
        assert worker.line.second is not None
        worker.line.second.refuse("unauthorized")
        await worker.look()
        assert (await self.run(gateway, "rotate", number)).exit_code == 0, "it is probed anew, and taken"
        await worker.look()
        assert worker.line.second is not None
        worker.line.second.refuse("unauthorized")
        await worker.look()
        assert "broken" in (await self.run(gateway, "list")).output
