"""Tenants cannot see each other: every route is tried with everything that is another's.

What the intruder is told is compared with what they are told about ids that are nobody's, and searched for the others'
words. The routes are the router's own, so that a new one cannot be forgotten.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import apsw
import pytest
import typer
from aiohttp import ClientSession
from typer.testing import CliRunner

from gateway.access.principal import Scope
from gateway.cli import app
from gateway.model import State
from gateway.queue.base import DeadTarget, Room
from gateway.queue.sqlite import SqliteQueue
from tests.gateway.access.house import House, house, settings
from tests.gateway.queue.test_machine import die

ROOM = Room(100, 100_000, (), {})
TENANTS = ("default", "acme", "globex")
OTHERS = [(intruder, owner) for intruder in TENANTS for owner in TENANTS if intruder != owner]
KEY = {"Idempotency-Key": "the-same-for-all"}
NOBODYS = [f"job_{'0' * 32}", str(uuid4())[:-4] + "0000", "key_0123456789abcdef", "987654321", "shop.crm"]
"""Ids as all kinds have them, of nothing that there is."""

FOR_EVERYBODY = {("GET", "/livez"), ("GET", "/readyz"), ("GET", "/metrics"), ("GET", "/openapi.json")}
WATCHED = {"/metrics", "/readyz"}
"""Who operates the default tenant without a limit watches the machine, and sees the names of all tenants' apps."""
PASSING = {"Date", "Content-Length", "RateLimit"}


class Tenant(NamedTuple):
    """One, with all that it has."""

    name: str
    session: ClientSession
    ids: dict[str, list[str]]
    """By kind."""
    words: set[str]
    """That nobody else may read."""


class Told(NamedTuple):
    """An answer, without what differs by itself."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: str


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[House]:
    limits = {"jobs_per_second": 1000, "queued": 100_000}
    configured = settings({"acme": limits, "globex": limits}, tmp_path / "q.db", access={"probes": "credential"})
    async with house(configured) as found:
        yield found


@pytest.fixture
async def tenants(gateway: House) -> AsyncIterator[dict[str, Tenant]]:
    async with AsyncExitStack() as stack:
        found = {}
        for name in TENANTS:
            session = await stack.enter_async_context(gateway.caller(await gateway.key(name)))
            found[name] = Tenant(name, session, {}, set())
            await move_in(gateway, found[name])
        yield found


def job(tenant: str, number: int, **more: Any) -> dict[str, Any]:
    recipients = [
        {"id": f"{tenant}-user-{number}-{n}", "provider": "stub", "token": f"{tenant}-device-{number}-{n}"}
        for n in range(3)
    ]
    head = {"app": "shop", "class": "promotional", "campaign": f"{tenant}-campaign-{number}"}
    return {**head, "message": {"title": f"{tenant} says"}, "recipients": recipients, **more}


async def move_in(gateway: House, tenant: Tenant) -> None:
    """Something of every kind: finished, waiting and parked jobs, dead targets, keys, credentials."""
    session, queue = tenant.session, gateway.queue
    finished = await ask(session, "POST", "/v1/jobs", job(tenant.name, 0), headers=KEY)
    for lease in await queue.lease(ROOM, time.time()):
        lease.progress.states[:] = bytes([State.ACCEPTED]) * lease.count
        dead = DeadTarget(f"{tenant.name}-device-0-0".encode(), 5.0, "Unregistered")
        await queue.complete(lease, [dead], time.time())
    parked = await ask(session, "POST", "/v1/jobs", job(tenant.name, 1))
    for _ in range(3):
        holder = SqliteQueue(queue.database.path, owner="holder")
        await holder.open()
        await holder.lease(ROOM, time.time())
        await die(holder)
        await queue.recover(time.time())
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    waiting = await ask(session, "POST", "/v1/jobs", job(tenant.name, 2, deliver_at=later))
    made = await ask(session, "POST", "/v1/keys", {"name": f"{tenant.name}-system", "scopes": ["send"]}, status=201)
    material = {"key": f"{tenant.name}-bearer-key"}
    added = await ask(
        session, "POST", "/v1/credentials", {"app": "shop", "provider": "stub", "material": material}, status=201
    )
    receipts = [json.loads(line) for line in await text(session, f"/v1/jobs/{finished['job']}/receipts")]
    tenant.ids.update(
        jobs=[each["job"] for each in (finished, parked, waiting)],
        deliveries=[receipt["id"] for receipt in receipts],
        batches=[batch["id"] for batch in (await ask(session, "GET", "/v1/parked"))["parked"]],
        keys=[key["id"] for key in (await ask(session, "GET", "/v1/keys"))["keys"]],
        credentials=[added["id"]],
        webhooks=[webhook["id"] for webhook in (await ask(session, "GET", "/v1/webhooks"))["webhooks"]],
    )
    assert [len(ids) for ids in tenant.ids.values()] == [3, 3, 1, 2, 1, 1]
    tenant.words.update(id_ for kind, ids in tenant.ids.items() if kind != "credentials" for id_ in ids)
    tenant.words.update({f"{tenant.name}-", f"{tenant.name}/", f"{tenant.name} says", made["secret"]})
    tenant.words.add(added["fingerprint"])


async def ask(session: ClientSession, method: str, path: str, body: Any = None, *, status: int = 0, **more: Any) -> Any:
    async with session.request(method, path, json=body, **more) as response:
        assert response.status == (status or (202 if method == "POST" else 200)), await response.text()
        return await response.json(content_type=None)


async def text(session: ClientSession, path: str) -> list[str]:
    async with session.get(path) as response:
        return (await response.text()).splitlines()


async def tell(session: ClientSession, method: str, path: str, body: Any = None, hide: str = "") -> Told:
    async with session.request(method, path, json=body) as response:
        headers = tuple(sorted((name, value) for name, value in response.headers.items() if name not in PASSING))
        found = await response.text()
        assert response.status < 500
        return Told(response.status, headers, found.replace(hide, "") if hide else found)


def routes(gateway: House) -> list[tuple[str, str]]:
    """Everything that can be asked, by method and pattern."""
    return [(route.method, route.resource.canonical) for route in gateway.router.routes() if route.resource is not None]


BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/v1/jobs"): lambda owner: {**job("mine", 9), "app": f"{owner.name}/shop"},
    ("POST", "/v1/receipts"): lambda owner: {"deliveries": [*owner.ids["deliveries"], *owner.ids["batches"]]},
    ("POST", "/v1/keys"): lambda owner: {"name": "mine", "scopes": ["send"], "apps": [f"{owner.name}/shop"]},
    ("POST", "/v1/credentials"): lambda owner: {
        "app": f"{owner.name}/shop", "provider": "stub", "material": {"key": "mine"},
    },
}  # fmt: skip
"""What is sent where a route takes a body: with the owner's names and ids in it."""

QUERIES = {"/v1/tokens/invalid": "app={name}/shop"}


@pytest.mark.parametrize(("intruder", "owner"), OTHERS)
async def test_nothing_leaks_and_nothing_is_touched(
    gateway: House, tenants: dict[str, Tenant], intruder: str, owner: str
) -> None:
    """Whatever is asked for by an id of the owner's gets the answer that an id of nobody's gets."""
    mine, theirs = tenants[intruder], tenants[owner]
    before = await possessions(theirs)
    tried = 0
    for method, pattern in routes(gateway):
        if "{id}" in pattern:
            told = {await tell(mine.session, method, pattern.replace("{id}", id_), hide=id_) for id_ in NOBODYS}
            assert {answer.status for answer in told} == {404}, pattern
            for id_ in [id_ for ids in theirs.ids.values() for id_ in ids]:
                assert await tell(mine.session, method, pattern.replace("{id}", id_), hide=id_) in told, pattern
                tried += 1
        else:
            body = BODIES[method, pattern](theirs) if method == "POST" else None
            query = "?" + QUERIES.get(pattern, "after=0").format(name=owner)
            answer = await tell(mine.session, method, pattern + query, body)
            shown = " ".join([answer.body, *[f"{name}: {value}" for name, value in answer.headers]])
            if method == "POST":  # what was asked for comes back in words: that much the intruder knew
                for known in (json.dumps(body), f"{owner}/shop", *json.dumps(body).split('"')[1::2]):
                    shown = shown.replace(known, "")
            if intruder != "default" or pattern not in WATCHED:
                assert not [word for word in theirs.words if word in shown], (method, pattern)
            tried += 1
    assert tried > 100
    assert await possessions(theirs) == before


async def possessions(tenant: Tenant) -> list[Told]:
    """All that a tenant can see of its own; what it did is in its audit log."""
    session = tenant.session
    paths = [f"/v1/jobs/{id_}" for id_ in tenant.ids["jobs"]]
    paths += [f"/v1/deliveries/{id_}" for id_ in tenant.ids["deliveries"]]
    paths += [f"/v1/parked/{id_}" for id_ in tenant.ids["batches"]]
    paths += [
        "/v1/parked",
        "/v1/credentials",
        "/v1/credentials/history",
        "/v1/webhooks",
        "/v1/tokens/invalid?app=shop",
        "/v1/audit",
    ]
    told = [await tell(session, "GET", path) for path in paths]
    assert {answer.status for answer in told} == {200}
    keys = await tell(session, "GET", "/v1/keys")
    moving = re.compile(r'"(rate|eta|last_used_at)":[^,}]*')
    return [answer._replace(body=moving.sub("", answer.body)) for answer in [*told, keys]]


async def test_every_post_has_a_body_here(gateway: House) -> None:
    """A new route that takes one is added above, with the owner's names and ids in it."""
    posts = {(method, pattern) for method, pattern in routes(gateway) if method == "POST" and "{id}" not in pattern}
    assert posts == BODIES.keys()


async def test_every_route_asks_who_it_is(gateway: House) -> None:
    """401 without a credential, 403 with a key that has the other scopes; four routes are for anybody."""
    assert {(each.route.method, each.route.path) for each in gateway.routes if each.scope is None} == FOR_EVERYBODY
    sessions = {
        scope: gateway.caller(await gateway.key("acme", *(set(Scope) - {scope}), name=scope.value)) for scope in Scope
    }
    stranger = gateway.caller(None)
    for route, scope in gateway.routes:
        if scope is None:
            continue
        path = route.path.replace("{id}", "1")
        async with stranger.request(route.method, path) as response:
            assert response.status == 401, path
            assert response.headers["WWW-Authenticate"] == 'Bearer realm="carillon"'
            assert response.content_type == "application/problem+json"
        async with sessions[scope].request(route.method, path) as response:
            assert response.status == 403, path
            assert f'scope="{scope}"' in response.headers["WWW-Authenticate"]
    for session in (stranger, *sessions.values()):
        await session.close()


async def test_one_idempotency_key_is_each_tenants_own(gateway: House, tenants: dict[str, Tenant]) -> None:
    """Another's key is free, whatever was sent with it; also for names that read alike when put together."""
    answers = [
        await ask(tenant.session, "POST", "/v1/jobs", job(tenant.name, 0), headers=KEY) for tenant in tenants.values()
    ]
    assert [answer["job"] for answer in answers] == [tenant.ids["jobs"][0] for tenant in tenants.values()]
    acme, default = tenants["acme"].session, tenants["default"].session
    first = await ask(acme, "POST", "/v1/jobs", job("acme", 3), headers={"Idempotency-Key": "k"})
    for key in ("acme/k", "shop/k", "acme/shop/k"):
        other = await ask(default, "POST", "/v1/jobs", job("default", 4), headers={"Idempotency-Key": key})
        assert other["job"] != first["job"]


async def test_anothers_id_costs_what_nobodys_costs(gateway: House, tenants: dict[str, Tenant]) -> None:
    """The same statements run in the database, so that there is nothing to time."""
    ran: list[str] = []
    reader = gateway.queue.database._reader
    assert reader is not None
    intruder, owner = tenants["acme"].session, tenants["globex"].ids

    def trace(_cursor: apsw.Cursor, sql: str, _bindings: Any) -> bool:
        ran.append(sql)
        return True

    reader.exec_trace = trace
    for path, nobodys, theirs in (
        ("/v1/jobs/{}", NOBODYS[0], owner["jobs"][0]),
        ("/v1/jobs/{}/receipts", NOBODYS[0], owner["jobs"][0]),
        ("/v1/deliveries/{}", NOBODYS[1], owner["deliveries"][0]),
        ("/v1/parked/{}", NOBODYS[1], owner["batches"][0]),
    ):
        seen = []
        for id_ in (nobodys, theirs):
            ran.clear()
            await tell(intruder, "GET", path.format(id_))
            seen.append([sql for sql in ran if "api_keys" not in sql])
        assert seen[0] == seen[1] != [], path


async def test_metrics_and_readiness_are_told_by_tenant(gateway: House, tenants: dict[str, Tenant]) -> None:
    """A tenant reads its own apps' series; what all share, and others', only who operates the default tenant."""
    acme, default = tenants["acme"].session, tenants["default"].session
    of_acme = await text(acme, "/metrics")
    apps = {found[1] for line in of_acme if (found := re.search(r'app="([^"]*)"', line))}
    assert apps == {"acme/shop"}
    assert not [line for line in of_acme if not line.startswith("#") and "app=" not in line]
    whole = "\n".join(await text(default, "/metrics"))
    assert 'app="globex/shop"' in whole
    assert "carillon_loop_lag_seconds" in whole
    assert await ask(acme, "GET", "/readyz") == {"ready": True}
    assert "route acme/shop/stub" in (await ask(default, "GET", "/readyz"))["parts"]
    async with gateway.caller(None) as stranger:
        assert await ask(stranger, "GET", "/readyz") == {"ready": True}
        await ask(stranger, "GET", "/metrics", status=401)
    async with gateway.caller(await gateway.key("acme", Scope.SEND, name="sender")) as sender:
        await ask(sender, "GET", "/metrics", status=403)


async def test_a_key_for_some_apps_is_no_key_for_the_others(gateway: House) -> None:
    """Within a tenant, too: jobs, receipts and whatever the key makes in turn."""
    configured = gateway.settings.all_apps()
    assert "acme/shop" in configured
    async with gateway.caller(await gateway.key("acme", name="narrow", apps=("codes",))) as narrow:
        refused = await ask(narrow, "POST", "/v1/jobs", job("acme", 0), status=422)
        assert refused["errors"][0]["detail"] == "is not configured; none is known here"
        async with gateway.caller(await gateway.key("acme", name="wide")) as wide:
            taken = await ask(wide, "POST", "/v1/jobs", job("acme", 0))
            await ask(narrow, "GET", f"/v1/jobs/{taken['job']}", status=404)
            await ask(wide, "GET", f"/v1/jobs/{taken['job']}")
        made = await ask(narrow, "POST", "/v1/keys", {"name": "next", "scopes": ["read"]}, status=201)
        assert made["key"]["apps"] == ["codes"]
        await ask(narrow, "POST", "/v1/keys", {"name": "wider", "scopes": ["read"], "apps": ["shop"]}, status=422)
    async with gateway.caller(await gateway.key("acme", Scope.OPERATE, name="operator")) as operator:
        await ask(operator, "POST", "/v1/keys", {"name": "sender", "scopes": ["send"]}, status=422)


def verbs(command: Any = None, path: tuple[str, ...] = ()) -> set[str]:
    """Every command that speaks to a gateway."""
    command = command or typer.main.get_command(app)
    below = getattr(command, "commands", None)
    if below is None:
        return {" ".join(path)} if "url" in {parameter.name for parameter in command.params} else set()
    return {verb for name, each in below.items() for verb in verbs(each, (*path, name))}


ARGUMENTS = {
    "send": ("--app", "{name}/shop", "--provider", "stub", "--token", "mine", "--title", "mine"),
    "receipts": ("{job}",),
    "parked list": (),
    "parked show": ("{batch}",),
    "parked replay": ("{batch}",),
    "parked purge": ("{batch}",),
    "credentials list": (),
    "credentials history": (),
    "credentials add": ("{name}/shop", "stub", "--key", "{file}"),
    "credentials probe": ("{credential}",),
    "credentials rotate": ("{credential}",),
    "credentials promote": ("{credential}",),
    "credentials rollback": ("{credential}",),
    "credentials retire": ("{credential}",),
    "webhooks list": (),
    "webhooks enable": ("shop", "{name}-crm"),
    "webhooks replay": ("shop", "{name}-crm"),
    "webhooks test": ("shop", "{name}-crm"),
}
"""What each is given: the owner's names and ids."""


def test_every_verb_is_tried() -> None:
    """A new one that speaks to a gateway is added above."""
    assert verbs() == ARGUMENTS.keys()


async def test_no_verb_crosses_the_border(gateway: House, tenants: dict[str, Tenant], tmp_path: Path) -> None:
    """What is typed with one tenant's key about another's things ends as it does about nothing, and shows nothing."""
    file = tmp_path / "key"
    file.write_text("mine")
    owner, secret = tenants["globex"], await gateway.key("acme", name="intruder")
    before = await possessions(owner)
    names = {
        "name": owner.name, "file": str(file), "job": owner.ids["jobs"][0], "batch": owner.ids["batches"][0],
        "credential": owner.ids["credentials"][0],
    }  # fmt: skip
    nobodys = {**names, "name": "nobody", "job": NOBODYS[0], "batch": NOBODYS[1], "credential": NOBODYS[3]}
    environ = {"CARILLON_KEY": secret, "CARILLON_URL": gateway.url, "TERM": "dumb", "COLUMNS": "200"}
    for verb, arguments in ARGUMENTS.items():
        told = []
        for known in (names, nobodys):
            line = [*verb.split(), *(argument.format(**known) for argument in arguments), "--json"]
            done = await asyncio.to_thread(CliRunner().invoke, app, line, env=environ)
            shown = done.output
            for value in (known["job"], known["batch"], known["credential"], known["name"]):
                shown = shown.replace(value, "")
            told.append((done.exit_code, shown))
        assert told[0] == told[1], verb
        assert told[0][0] == (0 if not arguments else 1), (verb, told)
        assert not [word for word in owner.words if word in told[0][1]], verb
    assert await possessions(owner) == before
