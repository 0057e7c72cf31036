"""A whole gateway's HTTP side for several tenants, over real HTTP and the embedded queue, with nobody who sends."""

from __future__ import annotations

import base64
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import ClientSession, web

from gateway.access import keys
from gateway.access.allowance import Allowance
from gateway.access.gate import CheckedGate
from gateway.access.guard import Guarded
from gateway.access.keyring import Keyring
from gateway.access.keys import Wish
from gateway.access.keystore import KeyStore
from gateway.access.principal import Scope
from gateway.access.tokens import Tokens
from gateway.audit.log import GATEWAY, AuditLog
from gateway.credentials.desk import Desk
from gateway.credentials.vault import find
from gateway.ingest.cursors import Cursors
from gateway.ingest.server import Ingest, application, runner
from gateway.observe import health
from gateway.observe.metrics import Metrics
from gateway.observe.redaction import Mask
from gateway.queue.sqlite import SqliteQueue
from gateway.receipts.store import ReceiptStore
from gateway.settings import Settings
from gateway.webhooks.service import Webhooks
from providers import PROVIDERS

SECRET = f"whsec_{base64.b64encode(bytes(32)).decode()}"


def shop(tenant: str) -> dict[str, Any]:
    """An app with somebody who is told of its receipts, and is not there."""
    webhook = {"url": "http://127.0.0.1:9/", "private": True, "secrets": [SECRET]}
    return {"stub": {"key": "k"}, "webhooks": {f"{tenant}-crm": webhook}}


def settings(tenants: Mapping[str, Mapping[str, Any]], path: Path, **more: Any) -> Settings:
    """An app `shop` of the default tenant, and one of each of the others."""
    return Settings(
        queue={"path": path},
        apps={"shop": shop("default")},
        tenants={name: {"apps": {"shop": shop(name)}, **each} for name, each in tenants.items()},
        credentials={"key": base64.b64encode(bytes(32)).decode()},
        **more,
    )


class House(NamedTuple):
    """It, with what is behind it."""

    settings: Settings
    url: str
    queue: SqliteQueue
    routes: list[Guarded]
    router: web.UrlDispatcher

    async def key(self, tenant: str, *scopes: Scope, name: str = "caller", apps: tuple[str, ...] | None = None) -> str:
        """The secret of a new key; with every scope unless some are named."""
        wish = Wish(tenant, name, scopes or tuple(Scope), apps)
        made = await self.queue.database.write(lambda db: keys.create(db, time.time(), GATEWAY, wish))
        return made.secret

    def caller(self, secret: str | None) -> ClientSession:
        return ClientSession(self.url, headers={} if secret is None else {"Authorization": f"Bearer {secret}"})


@asynccontextmanager
async def house(settings: Settings, tls: Any = None) -> AsyncIterator[House]:
    """Built as `gateway.app` does."""
    async with AsyncExitStack() as stack:
        folder = settings.data
        queue = SqliteQueue(settings.queue.path, owner="api", high_water=settings.queue.high_water)
        await queue.open()
        stack.push_async_callback(queue.close)
        metrics = Metrics(folder / "metrics", "worker-0", settings.blocks())
        stack.callback(metrics.close)
        keyring, tokens = Keyring(queue.database), Tokens(settings.access.issuers, settings.tenant_names())
        await tokens.start(stack)
        gate = CheckedGate(settings.access, keyring, tokens)
        vault = find(settings.credentials, {})
        blocks = settings.blocks()
        readiness = health.Readiness("queue")
        receipts = ReceiptStore(queue.database)
        webhooks = Webhooks(settings.webhooks(), queue.database, receipts, metrics, readiness, folder / "turn")
        await webhooks.start(stack)
        ingest = Ingest(
            apps={app: {"stub": blocks[app, "stub"]} for app in settings.all_apps()},
            providers=PROVIDERS,
            queue=queue,
            receipts=receipts,
            meter=metrics,
            audit=AuditLog(queue.database),
            mask=Mask(bytes(32)),
            credentials=Desk(queue.database, blocks, lambda *_: None, vault, settings.credentials, lambda: None),
            keys=KeyStore(queue.database),
            cursors=Cursors(bytes(32)),
            allowance=Allowance(folder, settings.quotas(), queue.backlog),
            webhooks=webhooks,
        )
        readiness.report("queue", True)
        readiness.report("route acme/shop/stub", False, "held")
        routes = [*ingest.routes(), *health.routes(readiness, metrics, queue.depth, queue.parked_count, gate)]
        app = application(routes, gate, ingest.door)
        server = runner(app)
        await server.setup()
        stack.push_async_callback(server.cleanup)
        listener = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(server, listener, ssl_context=tls).start()
        url = f"http{'s' if tls else ''}://localhost:{listener.getsockname()[1]}"
        yield House(settings, url, queue, routes, app.router)
