"""`carillon doctor`: looks at everything that has to be right before a notification can leave, and says what to do.

Each check yields findings and raises nothing. Endpoints are only connected to (TCP, verified TLS, ALPN `h2`) and asked
for `/`, for the sake of the `Date` in the answer; nothing is sent in an app's name.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import apsw
from cryptography import x509
from redis.exceptions import ResponseError

from gateway.credentials import CredentialsError, CredentialStore, records
from gateway.credentials.records import Record
from gateway.credentials.vault import VaultError, find
from gateway.kafka.cluster import Cluster
from gateway.kafka.topics import check
from gateway.probe import ProbeFailed, Target, probe
from gateway.queue.base import QueueError
from gateway.settings import Kafka, Redis, Settings, SettingsError, load
from gateway.shared.base import SharedUnavailable
from gateway.shared.link import Link
from providers import PROVIDERS
from providers.base import ClientCertificate, Secret

MIB = 2**20
LITTLE_SPACE = 1024 * MIB
"""About two million queued deliveries with their receipts."""
NO_SPACE = 128 * MIB
FEW_FILES = 4096
"""Descriptors of a worker: connections to services and callers, the queue's files, and room."""
DAY = 86400
NEXT_WEEKS = 30 * DAY
TOLERABLE_SKEW = 30.0
INTOLERABLE_SKEW = 300.0
"""Services refuse signatures from the future or an hour old; five minutes leave room for neither."""
RELEASED = 1_767_225_600
"""2026-01-01: a clock that shows less was never set."""

OLDEST_REDIS = 7
WAL_RESET_FIXED = ((3, 51, 3), (3, 50, 7), (3, 44, 6))
"""SQLite loses committed pages in a race of writer and checkpoint before these (newest, and back-ported)."""


class Level(StrEnum):
    """How a finding is to be taken."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class Finding(NamedTuple):
    """What a check found."""

    check: str
    level: Level
    detail: str
    remedy: str = ""
    """What to do; "" if there is nothing to do."""


def examine(path: Path | None, environ: Mapping[str, str], timeout: float = 5.0) -> Iterator[Finding]:
    """Run all checks. What cannot be checked without a valid configuration is left out when there is none."""
    yield from machine()
    try:
        settings = load(path, environ)
    except SettingsError as error:
        for problem in error.problems:
            yield Finding(
                "configuration", Level.FAILED, f"{problem.key}: {problem.detail}", f"correct it in {error.source}"
            )
        return
    yield from configuration(settings, path)
    yield from storage(settings)
    yield from listener(settings)
    yield from access(settings, time.time())
    yield from group(settings)
    credentials = _CredentialCheck(settings)
    yield from credentials.findings(time.time())
    yield sealing(settings, environ)
    yield from rotated(records.look(settings.queue.path), time.time())
    yield from network(credentials.targets, timeout)


def _mistakes(check: str, error: SettingsError) -> Iterator[Finding]:
    for problem in error.problems:
        yield Finding(check, Level.FAILED, f"{problem.key}: {problem.detail}", f"correct it ({error.source})")


def machine() -> Iterator[Finding]:
    """The clock by itself, SQLite, and limits of the process."""
    if time.time() < RELEASED:
        remedy = "set the clock, and keep it set with an NTP client"
        yield Finding("clock", Level.FAILED, f"it shows {time.strftime('%Y-%m-%d')}", remedy)
    yield sqlite(apsw.sqlite_lib_version())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FEW_FILES:
        detail = f"a process may open {soft} files, which is few for many connections"
        yield Finding("file descriptors", Level.WARNING, detail, f"ulimit -n {min(hard, 65536)}, or LimitNOFILE=")
    else:
        yield Finding("file descriptors", Level.OK, f"{soft} per process")


def sqlite(version: str) -> Finding:
    """Whether this SQLite keeps what it committed."""
    number = tuple(int(part) for part in version.split("."))
    newest = WAL_RESET_FIXED[0]
    if number >= newest or any(number[:2] == fixed[:2] and number >= fixed for fixed in WAL_RESET_FIXED):
        return Finding("sqlite", Level.OK, version)
    remedy = "install the apsw of requirements.lock, which brings its own SQLite"
    return Finding("sqlite", Level.FAILED, f"{version} can lose committed pages of a log that is reset", remedy)


def configuration(settings: Settings, path: Path | None) -> Iterator[Finding]:
    """What is configured, as far as the gateway understands it."""
    blocks = settings.blocks()
    if not blocks:
        yield Finding("configuration", Level.WARNING, "no app has a provider", "add a block such as [apps.shop.apns]")
    else:
        names = ", ".join(f"{app}/{provider}" for app, provider in blocks)
        yield Finding("configuration", Level.OK, f"{path or 'environment'}: {names}")
    for (app, provider), block in blocks.items():
        for name, value in block:
            if name.endswith("_file") and name != "ca_file" and value is not None:
                yield from _private(f"{app}/{provider}", Path(str(value)))
        if block.credential_directory is not None:
            for path in sorted(Path(block.credential_directory).glob("[!.]*")):
                yield from _private(f"{app}/{provider}", path)


def _private(subject: str, path: Path) -> Iterator[Finding]:
    """Whether a key file is its owner's alone. Whether it can be read at all is found when it is loaded."""
    if path.is_file() and path.stat().st_mode & 0o077:
        yield Finding("keys", Level.WARNING, f"{subject}: {path} can be read by others", f"chmod 600 {path}")


def storage(settings: Settings) -> Iterator[Finding]:
    """Whether the data folder takes durable writes, and for how long."""
    folder = settings.data
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"carillon")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        remedy = "give the gateway's user a writable folder, and name it with queue.path"
        yield Finding("data folder", Level.FAILED, f"{folder} cannot be written: {error.strerror}", remedy)
        return
    free = shutil.disk_usage(folder).free
    level = Level.FAILED if free < NO_SPACE else Level.WARNING if free < LITTLE_SPACE else Level.OK
    remedy = "" if level is Level.OK else "free some, or shorten queue.retention"
    yield Finding("data folder", level, f"{folder} is writable, {free // MIB:,} MiB free", remedy)


def listener(settings: Settings) -> Iterator[Finding]:
    """Whether the port can be had. A gateway that is already running has it, which is no fault."""
    host, port = settings.http.host, settings.http.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
    except OSError as error:
        remedy = "if no gateway is running here yet, choose another http.host or http.port"
        detail = f"{host}:{port} cannot be listened on: {error.strerror}"
        yield Finding("listener", Level.WARNING, detail, remedy)
    else:
        yield Finding("listener", Level.OK, f"{host}:{port} is free")


def access(settings: Settings, now: float) -> Iterator[Finding]:
    """Whether callers have to say who they are, and whether what they show can be overheard."""
    where, http = f"{settings.http.host}:{settings.http.port}", settings.http
    if settings.access.open:
        remedy = "set access.open to false, and give each caller a key: carillon keys create NAME"
        yield Finding("access", Level.WARNING, f"whoever reaches {where} may do everything", remedy)
    else:
        yield Finding("access", Level.OK, "callers show a credential")
    if http.certificate_file is None:
        if not on_loopback(http.host):
            remedy = "set http.certificate_file, or put a proxy before it that speaks TLS"
            yield Finding("access", Level.WARNING, f"what callers of {where} show is not encrypted", remedy)
        return
    try:
        http.tls()
        pem = Secret(http.certificate_file.read_bytes())
        yield validity("listener", ClientCertificate(pem, pem), now)
    except OSError as error:
        yield Finding("access", Level.FAILED, str(error), "correct [http]")


def on_loopback(host: str) -> bool:
    """Whether a listener of this name is reached from its machine alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def group(settings: Settings) -> Iterator[Finding]:
    """What is shared with other machines, where anything is."""
    if settings.redis.url:
        yield from asyncio.run(_redis(settings.redis))
    if settings.kafka.servers:
        yield from asyncio.run(_kafka(settings.kafka))


async def _redis(settings: Redis) -> list[Finding]:
    ca_file = None if settings.ca_file is None else str(settings.ca_file)
    link = Link(settings.url.get_secret_value(), ca_file, changed=lambda cause: None, jitter=random.Random())
    try:
        answer: bytes = await link.call("INFO")
    except SharedUnavailable as error:
        return [Finding("redis", Level.FAILED, str(error), "start it, or correct [redis]")]
    except ResponseError:
        remedy = "look at maxmemory-policy by hand, or allow it: +info"
        return [Finding("redis", Level.WARNING, "it answers, but not how it is (INFO)", remedy)]
    finally:
        await link.close()
    return list(redis(dict(line.split(":", 1) for line in answer.decode().splitlines() if ":" in line)))


def redis(about: Mapping[str, str]) -> Iterator[Finding]:
    """Whether this Redis keeps what it is told, by its INFO."""
    version = about["redis_version"]
    if int(version.split(".")[0]) < OLDEST_REDIS:
        yield Finding("redis", Level.FAILED, f"{version} is too old", f"install {OLDEST_REDIS} or later, or Valkey")
        return
    policy = about.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        detail = f"it forgets when it is full ({policy}), and a forgotten idempotency key is a job taken twice"
        yield Finding("redis", Level.WARNING, detail, "CONFIG SET maxmemory-policy noeviction")
    if about.get("aof_enabled") == "0":
        detail = "its restart forgets idempotency keys, cancellations and dead targets"
        yield Finding("redis", Level.WARNING, detail, "CONFIG SET appendonly yes")
    yield Finding("redis", Level.OK, f"{version} answers")


async def _kafka(settings: Kafka) -> list[Finding]:
    try:
        wrong = await check(Cluster(settings), settings)
    except QueueError as error:
        return [Finding("kafka", Level.FAILED, str(error).partition(":")[0], "start the brokers, or correct [kafka]")]
    found = [Finding("kafka", Level.FAILED, f"{topic} {detail}", "see docs/kafka.md") for topic, detail in wrong]
    return found or [Finding("kafka", Level.OK, "the brokers answer, and all topics are as they should be")]


class _CredentialCheck:
    """Loads what signs, has it sign, and learns on the way where it would be sent to."""

    def __init__(self, settings: Settings) -> None:
        self._blocks = settings.blocks()
        self.targets: set[Target] = set()

    def findings(self, now: float) -> Iterator[Finding]:
        for key, block in self._blocks.items():
            try:
                store = CredentialStore({key: block})
            except CredentialsError as error:
                for problem in error.problems:
                    yield Finding(
                        "credential", Level.FAILED, f"{problem.key}: {problem.detail}", "correct the block or its files"
                    )
                continue
            for (app, provider), credential in store.items():
                subject = f"{app}/{provider}"
                endpoint = PROVIDERS[provider].endpoint(block)
                if endpoint:
                    self.targets.add(Target(endpoint, block.ca_file, credential.client_certificate))
                if exchange := credential.exchange(now):
                    self.targets.add(Target("/".join(exchange.url.split("/")[:3]), block.ca_file, None))
                if credential.client_certificate:
                    yield validity(subject, credential.client_certificate, now)
                yield Finding("credential", Level.OK, f"{subject}: signs as {credential.fingerprint}")


def sealing(settings: Settings, environ: Mapping[str, str]) -> Finding:
    """Whether credentials can be stored, and opened again."""
    try:
        vault = find(settings.credentials, environ)
    except VaultError as error:
        return Finding("credentials' key", Level.FAILED, str(error), "correct it, or the gateway does not start")
    if not vault.usable:
        return Finding("credentials' key", Level.OK, "there is none: credentials come from files alone")
    return Finding("credentials' key", Level.OK, "credentials that are added are stored encrypted")


def rotated(rows: Sequence[Record], now: float) -> Iterator[Finding]:
    """How the credentials of the database are that are at work."""
    for row in rows:
        about = f"{row.owner}: credential {row.number} ({row.fingerprint})"
        if row.trouble:
            remedy = "add another one: carillon credentials add"
            yield Finding("credential", Level.FAILED, f"{about} is refused by its service: {row.trouble}", remedy)
        elif row.expires is not None and row.expires < now + NEXT_WEEKS:
            ends = time.strftime("%Y-%m-%d", time.gmtime(row.expires))
            level = Level.WARNING if row.expires > now else Level.FAILED
            yield Finding("credential", level, f"{about} ends on {ends}", "have a new one issued, and rotate it")
        else:
            share = f", signing {row.share:.0%}" if row.share else ""
            yield Finding("credential", Level.OK, f"{about} is {row.state}{share}")


def validity(subject: str, certificate: ClientCertificate, now: float) -> Finding:
    """Whether a client certificate is valid now, and for the next weeks."""
    leaf = x509.load_pem_x509_certificate(certificate.chain.reveal())
    begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if now < begins.timestamp():
        remedy = "check this machine's clock"
        return Finding("certificate", Level.FAILED, f"{subject}: it is not valid before {begins:%Y-%m-%d}", remedy)
    if now > ends.timestamp():
        remedy = "have a new one issued; the service refuses this one"
        return Finding("certificate", Level.FAILED, f"{subject}: it ended on {ends:%Y-%m-%d}", remedy)
    if ends.timestamp() - now < NEXT_WEEKS:
        remedy = "have a new one issued before that day"
        return Finding("certificate", Level.WARNING, f"{subject}: it ends on {ends:%Y-%m-%d}", remedy)
    return Finding("certificate", Level.OK, f"{subject}: it is valid until {ends:%Y-%m-%d}")


def network(targets: set[Target], timeout: float) -> Iterator[Finding]:
    """Whether each endpoint is reached as the gateway would reach it, and what it thinks of our clock."""
    skews = []
    with ThreadPoolExecutor(max_workers=8) as pool:
        attempts = [(t, pool.submit(probe, t, timeout)) for t in sorted(targets, key=lambda t: t.origin)]
        for target, attempt in attempts:
            try:
                reached = attempt.result()
            except ProbeFailed as error:
                yield Finding("endpoint", Level.FAILED, f"{target.origin}: {error.detail}", error.remedy)
                continue
            detail = f"{target.origin}: {reached.tls}, h2, connected in {reached.seconds * 1000:.0f} ms"
            yield Finding("endpoint", Level.OK, detail)
            if reached.skew is not None:
                skews.append(reached.skew)
    if skews:
        yield clock(min(skews, key=abs))


def clock(skew: float) -> Finding:
    """What the endpoints' `Date` says: `skew` is our time minus theirs, of the one that agrees best."""
    detail = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the push services"
    if abs(skew) < TOLERABLE_SKEW:
        return Finding("clock", Level.OK, detail)
    level = Level.FAILED if abs(skew) > INTOLERABLE_SKEW else Level.WARNING
    return Finding("clock", level, detail, "run an NTP client; services refuse signatures dated wrongly")
