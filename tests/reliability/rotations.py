"""New credentials for the simulators, and a gateway that is asked to rotate to them under load."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from bench.api import DEADLINES
from bench.campaign import Recipients, chunks, job, recipients
from bench.ledger import Ledger
from bench.simulators import credentials as names
from bench.simulators.certificates import Certificates
from bench.simulators.configuration import toml
from bench.simulators.credentials import private_pem
from bench.world import World
from gateway.client import Client

BANK = "bank"
"""Another app, which is never rotated; its APNs key is the one that the simulators began with."""

WINDOW = 0.3
"""Seconds of a canary at each share: a look a second makes them one."""


STOCK = 2000
"""Recipients that are made at a time."""


UPLOADS = 6
"""At a time; an app may have eight."""


class New(NamedTuple):
    """A credential, and how the simulator is told of it."""

    provider: str
    material: dict[str, str]
    key_id: str
    public_key: str = ""
    """PEM; "" where the simulator knows by itself."""


def p8(key_id: str = "") -> New:
    """A signing key as Apple gives it."""
    key, key_id = ec.generate_private_key(ec.SECP256R1()), key_id or "K" + secrets.token_hex(5).upper()[:9]
    return New("apns", {"key": private_pem(key).decode(), "key_id": key_id}, key_id, public_pem(key))


def certificate(folder: Path, days: float = 365) -> New:
    """A push certificate of the simulators' authority."""
    chain, key = Certificates.make(folder).client(names.TOPIC, folder, days=days)
    serial = x509.load_pem_x509_certificate(chain.read_bytes()).serial_number
    return New("apns", {"certificate": chain.read_text(), "certificate_key": key.read_text()}, f"{serial:x}")


def account(folder: Path) -> New:
    """Another key of the service account."""
    found = json.loads((folder / "service-account.json").read_text())
    key, key_id = rsa.generate_private_key(65537, 2048), secrets.token_hex(20)
    found |= {"private_key": private_pem(key).decode(), "private_key_id": key_id}
    return New("fcm", {"service_account": json.dumps(found)}, key_id, public_pem(key))


def vapid(name: str) -> New:
    """A key for the subscriptions whose names begin so."""
    key = ec.generate_private_key(ec.SECP256R1())
    return New("webpush", {"vapid_key": private_pem(key).decode()}, name, public_pem(key))


def public_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return key.public_key().public_bytes(*form).decode()


class RotatingWorld(World):
    """Two apps, canaries that take moments, and a key to store credentials with."""

    def __init__(self, services: list[str], *, workers: int) -> None:
        environment = {
            "CARILLON_CREDENTIALS__KEY": base64.b64encode(os.urandom(32)).decode(),
            "CARILLON_CREDENTIALS__CANARY_WINDOW": str(WINDOW),
        }
        options = ["--decrypt-every", "50"]
        super().__init__(services, mode="quick", workers=workers, environment=environment, simulator_options=options)

    def _start_gateway(self) -> Any:
        fragment = self.folder / "simulators.toml"
        apns = {"services": {"apns": json.loads((self.folder / "simulators.json").read_text())["services"]["apns"]}}
        fragment.write_text(fragment.read_text() + toml(BANK, apns))
        return super()._start_gateway()

    async def tell(self, what: str, new: New) -> None:
        """`register` or `revoke` a credential at its simulator."""
        body = {"id": new.key_id} | ({"public_key": new.public_key} if what == "register" else {})
        if what == "revoke" or new.public_key:
            document = json.dumps(body).encode()
            await asyncio.to_thread(self.control, "POST", f"{what}?service={new.provider}", document)

    async def ask(self, step: str, *arguments: Any) -> Any:
        """A method of the gateway's client, which blocks."""
        return await asyncio.to_thread(getattr(Client(self.url, self.key), step), *arguments)

    async def add(self, new: New, app: str = "shop") -> str:
        return str((await self.ask("add_credential", app, new.provider, new.material))["id"])

    async def state(self, number: str) -> Mapping[str, Any]:
        found = await self.ask("credentials")
        return next(row for row in found if row["id"] == number)

    async def until(self, number: str, *states: str, seconds: float = 60.0) -> float:
        """Wait until a credential is in one of the states; the seconds that it took."""
        began = time.monotonic()
        while (row := await self.state(number))["state"] not in states:
            assert time.monotonic() - began < seconds, row
            await asyncio.sleep(0.1)
        return time.monotonic() - began


class Load:
    """An app's notifications, so many a second, in jobs of a few."""

    EVERY = 0.05

    def __init__(self, world: World, session: aiohttp.ClientSession, app: str, rates: Mapping[str, int]) -> None:
        """`rates` are notifications a second by provider."""
        self.ledger = Ledger()
        self.jobs: list[str] = []
        self.pairs: dict[str, str] = {"": ""}
        """Beginning of Web Push subscriptions' names -> their `applicationServerKey`."""
        self._world = world
        self._api = world.api(session)
        self._app = app
        self._rates = rates
        self._seed = 0
        self._uploads = asyncio.Semaphore(UPLOADS)
        self._stock: dict[tuple[str, str], list[tuple[bytes, str, str | None]]] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Submit until told to stop."""
        began, number = time.monotonic(), 0
        async with asyncio.TaskGroup() as submits:
            while not stop.is_set():
                number += 1
                submits.create_task(self.submit())
                await asyncio.sleep(max(0.0, began + number * self.EVERY - time.monotonic()))

    async def submit(self) -> None:
        self._seed += 1
        lines: list[bytes] = []
        keys: dict[str, str | None] = {}
        for provider, rate in self._rates.items():
            prepared = self._prepared(provider, max(1, round(rate * self.EVERY)))
            lines += prepared.lines
            keys |= prepared.keys
        head = job(app=self._app, class_="transactional" if self._app == BANK else "promotional")
        async with self._uploads:
            answer = await self._api.submit(chunks(head, lines))
        assert answer["accepted"] == len(lines), answer
        self.ledger.accepted(keys)
        self.jobs.append(answer["job"])

    def _prepared(self, provider: str, count: int) -> Recipients:
        name, key = "", ""
        if provider == "webpush":
            name, key = list(self.pairs.items())[self._seed % len(self.pairs)]
        stock = self._stock.setdefault((provider, name), [])
        if len(stock) < count:
            stock += self._made(provider, name, key)
        taken = [stock.pop() for _ in range(count)]
        return Recipients([line for line, _, _ in taken], {recipient: at for _, recipient, at in taken})

    def _made(self, provider: str, name: str, key: str) -> list[tuple[bytes, str, str | None]]:
        """Many at once: to begin with subscriptions costs a thousand keys."""
        endpoints = self._world.ready["services"][provider]["endpoints"]
        made = recipients(provider, STOCK, seed=self._seed, name=name, endpoints=endpoints)
        bound = b'"applicationServerKey":"%b","keys"' % key.encode() if key else b'"keys"'
        lines = [b'{"id":"%b-' % self._app.encode() + line[7:].replace(b'"keys"', bound) for line in made.lines]
        keys = [(f"{self._app}-{recipient}", at) for recipient, at in made.keys.items()]
        return [(line, recipient, at) for line, (recipient, at) in zip(lines, keys, strict=True)]

    async def finish(self) -> list[float]:
        """Wait for all receipts and enter them; milliseconds from acceptance to each."""
        waits = []
        for job_id in self.jobs:
            while not (status := await self._api.job(job_id))["finished"]:
                await asyncio.sleep(0.1)
            async for receipt in self._api.receipts(job_id):
                self.ledger.receipt(receipt)
                assert receipt["state"] == "accepted", receipt
                waits.append((receipt["at"] - status["created_at"]) * 1000)
        return waits


def session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=DEADLINES)
