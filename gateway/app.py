"""One worker: the place where its parts are built, started, drained and stopped, in the order of the flow."""

from __future__ import annotations

import asyncio
import gc
import random
import signal
import time
from contextlib import AsyncExitStack

import structlog
from aiohttp import web

from gateway.credentials.store import CredentialStore
from gateway.dispatch.dispatcher import Dispatcher
from gateway.ingest.limits import Limits
from gateway.ingest.server import Ingest, application, runner
from gateway.observe import health
from gateway.observe.cpu import CpuShare
from gateway.observe.metrics import Metrics
from gateway.queue.base import QueueError
from gateway.queue.sqlite import SqliteQueue
from gateway.receipts.store import ReceiptStore
from gateway.settings import Settings
from providers import PROVIDERS
from providers.base import ProviderSettings

DRAIN_DEADLINE = 20.0
"""Seconds for requests on the wire to be answered after SIGTERM; the whole shutdown ends within 25."""

RECOVERY_INTERVAL = 5.0
"""Seconds between looks for workers that died holding work."""

RETENTION_INTERVAL = 600.0

log = structlog.get_logger()


async def run_worker(settings: Settings, worker: int) -> None:
    """Run worker number `worker` until SIGTERM or SIGINT, then drain. A second signal ends the process at once.

    Raises:
        SettingsError: credentials cannot be used.
        QueueError: the queue's file cannot be used.
        OSError: the address is taken.
    """
    stop = _stop_on_signals()
    async with AsyncExitStack() as stack:
        credentials = CredentialStore(settings.blocks())
        metrics = Metrics(settings.data / "metrics", f"worker-{worker}", settings.blocks())
        stack.callback(metrics.close)
        queue = await _open_queue(settings, worker, stack)
        receipts = ReceiptStore(queue.database)
        readiness = health.Readiness("gateway", "queue")
        dispatcher = Dispatcher(settings, queue, credentials, metrics, readiness, busy=CpuShare())
        ingest = Ingest(
            apps=_apps(settings),
            providers=PROVIDERS,
            queue=queue,
            receipts=receipts,
            on_work=dispatcher.wake,
            meter=metrics,
            limits=Limits(body=int(settings.http.max_body), line=int(settings.http.max_line)),
        )
        server = application(
            [*ingest.routes(), *health.routes(readiness, metrics, queue.depth)], [health.count_requests(metrics)]
        )
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(dispatcher.run()),
                tasks.create_task(health.watch_loop(metrics, [dispatcher.sample])),
                tasks.create_task(_maintain(queue, receipts, settings)),
            ]
            site = await _listen(server, settings)
            _settle_memory()
            readiness.report("queue", True)
            readiness.report("gateway", True)
            log.info("worker.ready", worker=worker, credentials=credentials.fingerprints())
            await stop.wait()
            readiness.report("gateway", False, "draining: it finishes what is on the wire and takes nothing new")
            # Side by side: uploads have seconds to end, and what is on the wire has its time from now on.
            await asyncio.gather(site.cleanup(), dispatcher.drain(DRAIN_DEADLINE))
            for task in running:
                task.cancel()
    log.info("worker.stopped", worker=worker)


def _stop_on_signals() -> asyncio.Event:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        log.info("worker.draining", signal=number.name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop


async def _open_queue(settings: Settings, worker: int, stack: AsyncExitStack) -> SqliteQueue:
    queue = SqliteQueue(
        settings.queue.path,
        owner=f"worker-{worker}",
        lease_seconds=settings.queue.lease_seconds,
        high_water=settings.queue.high_water,
    )
    settings.data.mkdir(parents=True, exist_ok=True)
    await queue.open()
    stack.push_async_callback(queue.close)
    return queue


def _apps(settings: Settings) -> dict[str, dict[str, ProviderSettings]]:
    apps: dict[str, dict[str, ProviderSettings]] = {app: {} for app in settings.apps}
    for (app, provider), block in settings.blocks().items():
        apps[app][provider] = block
    return apps


async def _listen(server: web.Application, settings: Settings) -> web.AppRunner:
    """Every worker listens on the same port (SO_REUSEPORT): the kernel spreads the connections."""
    served = runner(server)
    await served.setup()
    await web.TCPSite(served, settings.http.host, settings.http.port, reuse_port=True).start()
    log.info("http.listening", addresses=[f"{host}:{port}" for host, port, *_ in served.addresses])
    return served


async def _maintain(queue: SqliteQueue, receipts: ReceiptStore, settings: Settings) -> None:
    """Take over from the dead, and forget what is older than it is kept. Any number of workers may do it."""
    next_retention = time.monotonic()
    while True:
        await asyncio.sleep(RECOVERY_INTERVAL * random.uniform(0.8, 1.2))
        now = time.time()
        try:
            await queue.maintain(now)
            if time.monotonic() >= next_retention:
                await receipts.vacuum(now, settings.queue.retention)
                next_retention = time.monotonic() + RETENTION_INTERVAL
        except (QueueError, OSError) as error:
            # A full disk or a sibling that stands still: what is on its way goes on, and this comes round again.
            log.warning("queue.maintenance_failed", reason=str(error))


def _settle_memory() -> None:
    """What start-up made lives as long as the process: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
