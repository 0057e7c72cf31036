"""One worker: the place where its parts are built, started, drained and stopped, in the order of the flow."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import structlog
from aiohttp import web

from gateway.access.allowance import Allowance
from gateway.access.gate import CheckedGate
from gateway.access.keyring import Keyring
from gateway.access.keys import cursor_secret, declared
from gateway.access.keystore import KeyStore
from gateway.access.tokens import Tokens
from gateway.audit.log import AuditLog
from gateway.credentials.desk import Desk
from gateway.credentials.health import Health
from gateway.credentials.rotation import Rotation
from gateway.credentials.store import CredentialStore
from gateway.credentials.vault import find
from gateway.credentials.watch import Watch
from gateway.dispatch.dispatcher import Dispatcher
from gateway.ingest.cursors import Cursors
from gateway.ingest.door import Door
from gateway.ingest.limits import Limits
from gateway.ingest.server import Ingest, application, runner
from gateway.kafka.meter import GroupMeter
from gateway.kafka.queue import KafkaQueue
from gateway.listener import BACKLOG
from gateway.observe import health
from gateway.observe.cpu import CpuShare
from gateway.observe.logs import watch
from gateway.observe.metrics import Metrics
from gateway.observe.redaction import Mask
from gateway.queue.base import Queue, QueueError
from gateway.queue.database import Database
from gateway.queue.sqlite import SqliteQueue
from gateway.queue.unreadable import Unreadable
from gateway.receipts.store import ReceiptStore
from gateway.settings import Settings
from gateway.shared.base import SharedState
from gateway.shared.redis import RedisState
from gateway.webhooks.service import Webhooks
from providers import PROVIDERS
from providers.base import ProviderSettings

DRAIN_DEADLINE = 20.0
"""Seconds for requests on the wire to be answered after SIGTERM; the whole shutdown ends within 25."""

UPLOADS_DEADLINE = 10.0
"""Seconds for uploads to end; after that they are refused."""

HANDOVER = 2.0
"""Seconds for callers with an open connection to send one more request, and be told to open another."""

RECOVERY_INTERVAL = 5.0
"""Seconds between looks for workers that died holding work."""

RETENTION_INTERVAL = 600.0

MIRROR = "kafka.db"
"""What of Kafka's partitions is in hand, in the folder of the queue's file."""

SWITCH = 0.0005
"""Seconds after which the loop lets the queue's writer have the interpreter, which it gives up and wants back at each
statement. With Python's five milliseconds a one-time code takes 0.1 ms longer; at full speed there is no difference."""

log = structlog.get_logger()


async def run_worker(
    settings: Settings,
    worker: int,
    listeners: Sequence[socket.socket],
    on_ready: Callable[[], None],
    on_second: Callable[[], None],
) -> None:
    """Run worker number `worker` until it is told to leave, then drain.

    SIGTERM and SIGINT stop the gateway: jobs are refused from then on. SIGHUP means that a successor is ready: this
    worker accepts no connection any more, and serves those that it has until their callers know.

    Args:
        listeners: sockets bound by the parent; they are closed.
        on_ready: called once it serves.
        on_second: called each second that its loop goes round.

    Raises:
        SettingsError: credentials cannot be used.
        QueueError: the queue's file cannot be used.
    """
    sys.setswitchinterval(SWITCH)
    watch(asyncio.get_running_loop())
    leaving = _Leaving()
    async with AsyncExitStack() as stack:
        credentials = CredentialStore(settings.blocks())
        metrics = Metrics(settings.data / "metrics", f"worker-{worker}", settings.blocks())
        stack.callback(metrics.close)
        metrics.queue_limit(settings.queue.high_water)
        readiness = health.Readiness("gateway", "queue")
        shared = await _share(settings, metrics, readiness, stack)
        queue = await _open_queue(settings, worker, metrics, readiness, shared, stack)
        own = await _own_database(settings, queue, stack)
        receipts = ReceiptStore(queue.database)
        dispatcher = Dispatcher(settings, queue, credentials, metrics, readiness, budgets=shared, busy=CpuShare())
        vault = find(settings.credentials, os.environ)
        given = dict(credentials.items())
        rotation = Rotation(
            own,
            credentials,
            settings.blocks(),
            vault,
            Health(metrics, readiness),
            settings.credentials,
            f"worker-{worker}",
            dispatcher.follow_credentials,
        )
        desk = Desk(own, settings.blocks(), lambda *key: given.get(key), vault, settings.credentials, rotation.hasten)
        await rotation.start()
        keyring = await _keyring(settings, own, stack)
        gate = await _gate(settings, keyring, stack)
        webhooks = Webhooks(settings.webhooks(), own, receipts, metrics, readiness, settings.data / "webhooks-turn")
        await webhooks.start(stack)
        ingest = Ingest(
            apps=_apps(settings),
            providers=PROVIDERS,
            queue=queue,
            receipts=receipts,
            meter=metrics,
            audit=AuditLog(own),
            mask=Mask.of(settings.data / "mask.key"),
            credentials=desk,
            line=credentials.line,
            keys=KeyStore(own),
            webhooks=webhooks,
            allowance=Allowance(settings.data, settings.quotas(), queue.backlog),
            cursors=Cursors(await own.read(cursor_secret)),
            limits=Limits(body=int(settings.http.max_body), line=int(settings.http.max_line)),
        )
        if isinstance(queue, KafkaQueue):
            queue.take_jobs(ingest.records(queue.outgoing).take)
        server = application(
            [*ingest.routes(), *health.routes(readiness, metrics, queue.depth, queue.parked_count, gate)],
            gate,
            ingest.door,
            [health.count_requests(metrics)],
        )
        samplers = (dispatcher.sample, on_second, lambda: metrics.ready(readiness.ready))
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(dispatcher.run()),
                tasks.create_task(rotation.run()),
                tasks.create_task(Watch(settings.blocks(), desk, readiness).run()),
                tasks.create_task(health.watch_loop(metrics, samplers)),
                tasks.create_task(_maintain(queue, receipts, settings, readiness)),
                tasks.create_task(keyring.keep_up()),
                tasks.create_task(webhooks.run()),
            ]
            served = await _listen(server, listeners, settings.http.tls())
            _settle_memory()
            readiness.report("queue", True)
            readiness.report("gateway", True)
            log.info("worker.ready", worker=worker, credentials=credentials.fingerprints())
            on_ready()
            await leaving.told.wait()
            # Side by side: uploads have seconds to end, and what is on the wire has its time from now on.
            await asyncio.gather(_leave(leaving, readiness, ingest.door, served), dispatcher.drain(DRAIN_DEADLINE))
            await served.cleanup()
            for task in running:
                task.cancel()
    log.info("worker.stopped", worker=worker)


class _Leaving:
    """What signals tell a worker."""

    def __init__(self) -> None:
        self.told = asyncio.Event()
        """To leave."""
        self.stopped = asyncio.Event()
        """That the gateway stops; without it, a successor takes over."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._relieve)

    def _stop(self, number: signal.Signals) -> None:
        # It may come twice, from the parent and from who signals whole process groups: only the parent ends us at once.
        if not self.stopped.is_set():
            log.info("worker.draining", signal=number.name)
            self.stopped.set()
            self.told.set()

    def _relieve(self) -> None:
        if not self.told.is_set():
            log.info("worker.draining", signal=signal.SIGHUP.name)
            self.told.set()


async def _leave(leaving: _Leaving, readiness: health.Readiness, door: Door, served: web.AppRunner) -> None:
    """See callers off: in a handover by serving them once more, when the gateway stops by refusing their jobs."""
    door.last_call()
    if not leaving.stopped.is_set():
        for site in served.sites:
            await site.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(leaving.stopped.wait(), HANDOVER)
    if leaving.stopped.is_set():
        readiness.report("gateway", False, "draining: it finishes what is on the wire and takes nothing new")
        door.shut()
    await door.empty(UPLOADS_DEADLINE)


async def _open_queue(
    settings: Settings,
    worker: int,
    metrics: Metrics,
    readiness: health.Readiness,
    shared: SharedState | None,
    stack: AsyncExitStack,
) -> SqliteQueue | KafkaQueue:
    def crashed(batches: int) -> None:
        metrics.crashed(batches)
        log.warning("batch.crashed", batches=batches, reason="the process that held them died, or fell silent")

    def unreadable(found: Unreadable) -> None:
        routes = metrics.route(found.route.app, found.route.provider)
        routes.failed()
        if found.given_up:
            routes.dead_lettered()
        log.error(
            "batch.dead_lettered" if found.given_up else "batch.set_aside",
            job=found.job_id,
            batch=found.batch_id.hex(),
            failures=found.failures,
            error=f"{found.error}: it cannot be read from the queue",
        )

    settings.data.mkdir(parents=True, exist_ok=True)
    kafka = settings.kafka if settings.kafka.servers else None
    local = SqliteQueue(
        settings.data / MIRROR if kafka else settings.queue.path,
        owner=f"worker-{worker}",
        lease_seconds=settings.queue.lease_seconds,
        high_water=settings.queue.high_water,
        max_crashes=settings.queue.max_crashes,
        on_crash=crashed,
        on_unreadable=unreadable,
        durable=kafka is None,
    )
    queue: SqliteQueue | KafkaQueue = local
    if kafka is not None:
        if shared is None:
            raise QueueError("the queue on Kafka needs `redis.url`, for what machines share: see docs/shared-state.md")
        queue = KafkaQueue(
            kafka,
            local,
            shared=shared,
            meter=GroupMeter(metrics, readiness),
            high_water=settings.queue.high_water,
        )
    await queue.open()
    stack.push_async_callback(queue.close)
    return queue


async def _keyring(settings: Settings, database: Database, stack: AsyncExitStack) -> Keyring:
    keyring = Keyring(database, declared=map(declared, settings.access.keys))
    await keyring.look()
    stack.push_async_callback(keyring.close)
    return keyring


async def _gate(settings: Settings, keyring: Keyring, stack: AsyncExitStack) -> CheckedGate:
    if settings.access.open:
        log.warning("access.open", reason="access.open is true: whoever reaches this port may do everything")
    tokens = Tokens(settings.access.issuers, settings.tenant_names())
    await tokens.start(stack)
    return CheckedGate(settings.access, keyring, tokens)


async def _share(
    settings: Settings, metrics: Metrics, readiness: health.Readiness, stack: AsyncExitStack
) -> SharedState | None:
    """What machines share, if they do; and whoever asks after this one's health is told when it cannot be reached."""
    url = settings.redis.url.get_secret_value()
    if not url:
        return None
    alone = "rates go on with a fair share of what was known last"
    if settings.kafka.servers:
        alone += ", and requests with an Idempotency-Key are refused"

    def changed(cause: str) -> None:
        metrics.shared_state(up=not cause)
        readiness.report("shared state", not cause, f"{cause}; {alone}" if cause else "")
        if cause:
            log.warning("shared.lost", reason=cause)
        else:
            log.info("shared.reached")

    ca_file = settings.redis.ca_file
    shared = RedisState(
        url, prefix=settings.redis.prefix, ca_file=None if ca_file is None else str(ca_file), changed=changed
    )
    await shared.open()
    stack.push_async_callback(shared.close)
    return shared


async def _own_database(settings: Settings, queue: SqliteQueue | KafkaQueue, stack: AsyncExitStack) -> Database:
    """The file of what is this machine's own and is kept: with Kafka, that of the queue is neither."""
    if isinstance(queue, SqliteQueue):
        return queue.database
    database = Database(settings.queue.path)
    await database.open()
    stack.push_async_callback(database.close)
    return database


def _apps(settings: Settings) -> dict[str, dict[str, ProviderSettings]]:
    apps: dict[str, dict[str, ProviderSettings]] = {app: {} for app in settings.all_apps()}
    for (app, provider), block in settings.blocks().items():
        apps[app][provider] = block
    return apps


async def _listen(
    server: web.Application, listeners: Sequence[socket.socket], tls: ssl.SSLContext | None
) -> web.AppRunner:
    served = runner(server)
    await served.setup()
    for listener in listeners:
        await web.SockSite(served, listener, backlog=BACKLOG, ssl_context=tls).start()
    log.info("http.listening", addresses=[f"{host}:{port}" for host, port, *_ in served.addresses])
    return served


async def _maintain(queue: Queue, receipts: ReceiptStore, settings: Settings, readiness: health.Readiness) -> None:
    """Take over from the dead, and forget what is older than it is kept. Any number of workers may do it."""
    next_retention = time.monotonic()
    while True:
        await asyncio.sleep(RECOVERY_INTERVAL * random.uniform(0.8, 1.2))
        now = time.time()
        try:
            await queue.maintain(now)
            _report_parked(readiness, await queue.parked_count())
            if time.monotonic() >= next_retention:
                await receipts.vacuum(now, settings.queue.retention)
                next_retention = time.monotonic() + RETENTION_INTERVAL
        except (QueueError, OSError) as error:
            # A full disk or a sibling that stands still: what is on its way goes on, and this comes round again.
            log.warning("queue.maintenance_failed", reason=str(error))


def _report_parked(readiness: health.Readiness, batches: int) -> None:
    if not batches:
        readiness.forget("parked")
        return
    advice = "look with `carillon parked list`, then replay or purge"
    number = f"{batches} batch" if batches == 1 else f"{batches} batches"
    readiness.report("parked", False, f"{number}, for process after process died with it: {advice}")


def _settle_memory() -> None:
    """What start-up made lives as long as the process: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
