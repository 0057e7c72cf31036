"""Starting simulators: a service, a mode, and the listeners."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

from cryptography.hazmat.primitives import serialization

from . import credentials as names
from .apns import STREAMS, Apns, Key
from .certificates import Certificates
from .credentials import Credentials
from .engine import Engine
from .fast import APPLE, FastEngine, Success, Terms, apns_success, fcm_success, stub_success, webpush_success
from .fast_journal import FastJournal
from .fcm import Fcm
from .frame_wire import FrameWire
from .h2_wire import H2Wire
from .journal import Journal
from .message import Request
from .oauth import AccessTokens, OAuth
from .script import Rule, Script
from .service import Service
from .stub import Stub
from .subscriptions import Factory
from .webpush import PROFILES, WebPush

Name = Literal["apns", "fcm", "webpush", "stub"]
SERVICES: tuple[Name, ...] = get_args(Name)

Mode = Literal["strict", "quick", "fast"]
"""strict: validates, on the library h2. quick: validates, on frames parsed by hand. fast: only answers."""


class Options(NamedTuple):
    """How a simulator is to be."""

    mode: Mode = "strict"
    script: Script = Script()
    profile: str | None = None
    """Without one the plain service. webpush: rfc, fcm, mozilla, apple, wns.

    apns: apple. Where requests are validated, rejections then cost streams and in the end the connection; in fast
    mode it is Apple's start with one stream, refill of a 65,535-byte window at half, and a round trip of 40 ms.
    """
    rtt: float = 0.0
    """Seconds that every answer takes."""
    streams: int | None = None
    """MAX_CONCURRENT_STREAMS of the fast mode, where it differs from the service's."""
    decrypt_every: int = 1
    """Web Push decrypts one message of so many; 0: none."""


class Simulator:
    """A running simulator.

    `ports` are the service's, one an origin; `token_uri` is FCM's OAuth endpoint.
    """

    def __init__(self, name: Name, host: str, engine: Engine | FastEngine, service: Service) -> None:
        self.name = name
        self.host = host
        self.engine = engine
        self.service = service
        self.token_engine: Engine | None = None
        self.token_uri = ""
        self.ports: list[int] = []
        self._servers: list[asyncio.Server] = []
        self._listeners: list[tuple[Engine | FastEngine, ssl.SSLContext, int]] = []
        self._down = 0

    @property
    def port(self) -> int:
        return self.ports[0]

    @property
    def endpoints(self) -> list[str]:
        """Origins, as a gateway is told them."""
        return [f"https://{self.host}:{port}" for port in self.ports]

    @property
    def journal(self) -> Journal:
        return self.engine.journal

    def stats(self) -> dict[str, Any]:
        """Numbers since the last reset; those of connections count the open ones too."""
        stats: dict[str, Any] = {
            "requests": len(self.journal),
            "connections_open": len(self.engine.wires),
            **self.engine.stats,
        }
        if isinstance(self.service, WebPush):
            stats.update(self.service.stats)
        if self.token_engine is not None:
            stats["token_exchanges"] = len(self.token_engine.journal)
        return stats

    def load(self, script: Script) -> None:
        """Plays another script from now on.

        Raises:
            KeyError: the service has no such answer.
            ValueError: the fast mode cannot play it.
        """
        self.engine.load(script)

    def reset(self) -> None:
        """Forgets what was seen."""
        self.engine.reset()

    def register(self, key_id: str, public_key: bytes) -> None:
        """Takes what is signed with one more key, PEM: for Web Push, for the subscriptions whose names begin with the
        id."""
        key: Any = serialization.load_pem_public_key(public_key)
        if isinstance(self.service, Apns):
            self.service.register(key_id, Key(names.TEAM_ID, key))
        elif isinstance(self.service, WebPush):
            self.service.register(key_id, key)
        else:
            self._oauth().register(key_id, key)

    def revoke(self, key_id: str) -> None:
        """Takes nothing of a key any more; of a certificate, by its serial number."""
        if isinstance(self.service, Apns):
            self.service.revoke(key_id)
        else:
            self._oauth().revoke(key_id)

    def _oauth(self) -> OAuth:
        if self.token_engine is None or not isinstance(self.token_engine.service, OAuth):
            raise ValueError(f"{self.name} has no keys that come and go")
        return self.token_engine.service

    def goaway(self, code: int = 0, debug: bytes = b"") -> None:
        self.engine.goaway(code, debug)

    def settings(self, values: dict[int, int]) -> None:
        """Announces SETTINGS on all connections, by identifier (RFC 9113, section 6.5.2)."""
        self.engine.settings(values)

    def cut(self) -> None:
        """Ends all connections at once."""
        self.engine.cut()

    async def restart(self, seconds: float) -> None:
        """Ends all connections, refuses new ones for so long, and remembers everything."""
        self._down += 1
        for server in self._servers:
            server.close()
        self._servers.clear()
        self.cut()
        await asyncio.sleep(seconds)
        self._down -= 1
        if not self._down:
            for opened in self._listeners:
                await self._open(*opened)

    async def listen(
        self, engine: Engine | FastEngine, tls: Certificates, protocols: tuple[str, ...], port: int
    ) -> int:
        """Opens a listener and says its port."""
        context = tls.server_context(*protocols)
        port = await self._open(engine, context, port)
        self._listeners.append((engine, context, port))
        return port

    async def _open(self, engine: Engine | FastEngine, context: ssl.SSLContext, port: int) -> int:
        server = await asyncio.get_running_loop().create_server(
            engine.connect, self.host, port, ssl=context, backlog=1024
        )
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Ends all connections and listeners."""
        for server in self._servers:
            server.close()
        self.engine.close()
        if self.token_engine is not None:
            self.token_engine.close()
        for server in self._servers:
            await server.wait_closed()


async def start(
    service: Name,
    *,
    tls: Certificates,
    credentials: Credentials,
    host: str = "127.0.0.1",
    port: int = 0,
    origins: int = 1,
    options: Options = Options(),
) -> Simulator:
    """Starts a simulator on the running loop.

    Args:
        tls: Made by `Certificates.make`; clients trust its `ca_file`.
        credentials: What is accepted. FCM writes its service account file, as that names the token endpoint.
        port: Of the first origin; 0 takes a free one.
        origins: Listening ports of Web Push.

    Raises:
        KeyError, ValueError: the script or profile is not one of the service.
    """
    tokens = AccessTokens()
    judge = _SERVICES[service](credentials, options, tokens)
    engine = _fast(service, judge, options) if options.mode == "fast" else _strict(judge, options)
    simulator = Simulator(service, host, engine, judge)
    protocols = ("h2",) if options.mode == "fast" else judge.protocols
    for number in range(origins if service == "webpush" else 1):
        simulator.ports.append(await simulator.listen(engine, tls, protocols, port + number if port else 0))
    if service == "fcm":
        await _start_oauth(simulator, tls, credentials, tokens)
    return simulator


async def _start_oauth(simulator: Simulator, tls: Certificates, credentials: Credentials, tokens: AccessTokens) -> None:
    oauth = OAuth(credentials.google_key, names.CLIENT_EMAIL, credentials.google_key_id, tokens)
    simulator.token_engine = Engine(oauth, Script(), wire=H2Wire, rtt=0.0)
    port = await simulator.listen(simulator.token_engine, tls, oauth.protocols, 0)
    simulator.token_uri = oauth.audience = f"https://{simulator.host}:{port}/token"
    credentials.write_service_account(simulator.token_uri)


def _strict(service: Service, options: Options) -> Engine:
    wire = H2Wire if options.mode == "strict" else FrameWire
    return Engine(service, options.script, wire=wire, rtt=options.rtt)


def _fast(name: Name, service: Service, options: Options) -> FastEngine:
    apple = name == "apns" and options.profile == "apple"
    terms = APPLE if apple else Terms(streams=STREAMS if name == "apns" else service.limits.streams)
    if options.streams:
        terms = terms._replace(streams=options.streams)
    if options.rtt:
        terms = terms._replace(rtt=options.rtt)
    nobody = Request(b"POST", b"/", {}, False, b"{}")

    def refuse(rule: Rule) -> Any:
        service.check(rule)
        return service.scripted(rule, nobody, time.time())

    journal = FastJournal(service.key, keeps_bodies=name in ("fcm", "stub"))
    return FastEngine(_SUCCESS[name](apple), refuse, options.script, terms, journal)


def _apns(credentials: Credentials, options: Options, _tokens: AccessTokens) -> Service:
    if options.profile not in (None, "apple"):
        raise ValueError("apns has the profile apple, or none")
    keys = {names.KEY_ID: Key(names.TEAM_ID, credentials.apns_key)}
    manners = options.profile == "apple"
    return Apns(keys, frozenset({names.TOPIC}), manners=manners, dead_since=time.time())


def _fcm(credentials: Credentials, options: Options, tokens: AccessTokens) -> Service:
    if options.profile is not None:
        raise ValueError("fcm has no profiles")
    return Fcm(names.PROJECT_ID, tokens)


def _webpush(credentials: Credentials, options: Options, _tokens: AccessTokens) -> Service:
    if options.profile is not None and options.profile not in PROFILES:
        raise ValueError(f"webpush has the profiles {', '.join(PROFILES)}")
    return WebPush(
        Factory(),
        bound_key=credentials.vapid_key,
        profile=PROFILES[options.profile or "rfc"],
        decrypt_every=options.decrypt_every,
    )


def _stub(credentials: Credentials, options: Options, _tokens: AccessTokens) -> Service:
    if options.profile is not None:
        raise ValueError("stub has no profiles")
    return Stub(credentials.stub_key, dead_since=time.time())


_SERVICES: dict[Name, Callable[[Credentials, Options, AccessTokens], Service]] = {
    "apns": _apns,
    "fcm": _fcm,
    "webpush": _webpush,
    "stub": _stub,
}
_SUCCESS: dict[Name, Callable[[bool], Success]] = {
    "apns": apns_success,
    "fcm": lambda _: fcm_success(names.PROJECT_ID),
    "webpush": lambda _: webpush_success(),
    "stub": lambda _: stub_success(),
}
