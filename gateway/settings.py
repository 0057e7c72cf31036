"""What the gateway is told at start: a TOML file, then the environment over it, checked whole before anything runs.

Every key is also an environment variable: `CARILLON_` and the path in capitals, two underscores between its parts,
so that `http.port` is `CARILLON_HTTP__PORT` and `apps.shop.apns.team_id` is `CARILLON_APPS__SHOP__APNS__TEAM_ID`.
An app's provider blocks are the providers' own settings classes. Paths are relative to the file's folder (without a
file, to the working directory). `carillon.example.toml` in the project's root shows every key.
"""

from __future__ import annotations

import difflib
import socket
import ssl
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

from gateway.access.names import DEFAULT, full_name
from gateway.access.settings import Access, Certificate, Issuer, Key, Quota
from gateway.durations import Seconds
from gateway.listener import server_context
from gateway.webhooks.settings import EndpointName, Webhook
from providers import PROVIDERS
from providers.base import ProviderSettings

PREFIX = "CARILLON_"
DELIMITER = "__"
OTHER_VARIABLES = frozenset({"CARILLON_CONFIG", "CARILLON_URL", "CARILLON_KEY", "CARILLON_CA_FILE"})
"""Belong to the command line, see `gateway.cli`."""

AppName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
TenantName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]


class Section(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Http(Section):
    """`[http]`: the listener that callers and probes use."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """0 takes a free one."""
    max_body: ByteSize = ByteSize(8 * 2**20)
    """Bytes of a job sent as one JSON document."""
    max_line: ByteSize = ByteSize(64 * 2**10)
    """Bytes of one recipient's line of a job sent as NDJSON."""
    certificate_file: Path | None = None
    """The listener's certificate and chain (PEM): with it, callers come by TLS."""
    key_file: Path | None = None
    """Of the certificate, if it is not in the same file."""
    client_ca_file: Path | None = None
    """Authorities of callers' certificates; see `[[access.certificates]]` for what one is good for."""
    client_certificates: Literal["required", "optional"] = "required"
    """Whether a caller without one gets a connection at all, once there is a `client_ca_file`."""

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if self.certificate_file is None and (self.key_file or self.client_ca_file):
            raise ValueError("key_file and client_ca_file need a certificate_file")
        return self

    def tls(self) -> ssl.SSLContext | None:
        """What the listener speaks TLS with; None: it does not.

        Raises:
            OSError: a file cannot be read, or is not what it should be.
        """
        if self.certificate_file is None:
            return None
        required = self.client_certificates == "required"
        return server_context(self.certificate_file, self.key_file, self.client_ca_file, required=required)


class Queue(Section):
    """`[queue]`: the embedded queue. Everything the gateway writes is in the folder of `path`."""

    path: Path = Path("data/carillon.db")
    high_water: Annotated[int, Field(gt=0)] = 10_000_000
    """Deliveries stored and not complete, beyond which new jobs are refused with 503 and `Retry-After`."""
    lease_seconds: Seconds = 30.0
    """How long a worker may be silent about a batch before another may take it."""
    max_crashes: Annotated[int, Field(ge=2)] = 3
    """Processes that may die with a batch in their hands, after which it is parked until an operator decides."""
    retention: Seconds = 7 * 86400.0
    """How long receipts are kept."""


class Redis(Section):
    """`[redis]`: what machines share at speed, on Redis 7 or Valkey. See docs/shared-state.md."""

    url: SecretStr = SecretStr("")
    """`redis://NAME:PASSWORD@HOST:PORT/NUMBER`, `rediss://` for TLS, or `unix://PATH`. None: nothing is shared."""
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.{}-]{1,64}$")] = "carillon"
    """Of all keys: gateways with the same one share."""
    ca_file: Path | None = None
    """Authorities to trust instead of the system's."""

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: SecretStr) -> SecretStr:
        if (value := url.get_secret_value()) and not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("has to begin with redis://, rediss:// (TLS) or unix://")
        return url


class Kafka(Section):
    """`[kafka]`: the queue over many machines, in place of the embedded one. See docs/kafka.md."""

    servers: tuple[str, ...] = ()
    """`host:port` of some brokers. None: the embedded queue."""
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "carillon"
    """Of all topics, and the name of the consumer group."""
    instance: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")] = socket.gethostname()
    """This gateway's own name in the group, the same after a restart: its partitions wait for it meanwhile."""
    partitions: Annotated[int, Field(gt=0, le=10_000)] = 12
    """Of each topic, as `carillon topics create` makes them: at most so many gateways share the work."""
    replication: Annotated[int, Field(gt=0)] = 3
    min_insync: Annotated[int, Field(gt=0)] = 2
    """Replicas that have a record before it counts as stored."""
    retention: Seconds = 7 * 86400.0
    """How long records are kept, read or not."""
    session_timeout: Annotated[Seconds, Field(ge=6)] = 45.0
    """How long a gateway may be silent before others take over its partitions. 1.5 times `queue.lease_seconds`, at
    least."""
    handover: Annotated[Seconds, Field(ge=1)] = 20.0
    """How long a change of the group waits for what is on the wire."""
    timeout: Seconds = 10.0
    """How long a caller waits for a record to be stored before it gets 503."""
    receipts: Literal["batch", "delivery"] = "batch"
    """One event for each batch, or for each delivery: the first costs a tenth."""
    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    username: str = ""
    password: SecretStr = SecretStr("")
    ca_file: Path | None = None
    """Authorities to trust instead of the system's."""
    certificate_file: Path | None = None
    """For brokers that ask for a client's certificate."""
    key_file: Path | None = None


class Dispatch(Section):
    """`[dispatch]`: how notifications are tried."""

    request_timeout: Seconds = 15.0
    connect_timeout: Seconds = 10.0
    max_attempts: Annotated[int, Field(gt=0)] = 20
    """Tries of a delivery, after which it is dead-lettered."""
    max_failures: Annotated[int, Field(gt=0)] = 20
    """Tries of a batch that cannot be prepared, after which its deliveries are dead-lettered."""
    backoff_base: Seconds = 1.0
    """The longest first wait after a failure, and twice the shortest; it doubles with each."""
    backoff_cap: Seconds = 900.0
    retry_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Retries of a route in relation to what it sends for the first time, at most: an outage is not multiplied. What
    is beyond it waits."""
    retry_floor: Annotated[float, Field(gt=0)] = 10.0
    """Retries of a route a second, over all workers, that are allowed besides."""
    max_dead_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """A larger share of dead targets among a minute's answers of a route (500 at least; 50 before its first accepted
    notification) is taken for a wrong configuration: the route stops, nothing is invalidated."""
    deliveries_per_route: Annotated[int, Field(gt=0)] = 16_000
    """Deliveries of one route's campaigns from which on a worker takes no more: memory against round trips to the
    queue. A job counts for 32 more than it has."""


class Observe(Section):
    """`[observe]`: what is written about all this."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"


class Credentials(Section):
    """`[credentials]`: those that are added while the gateway runs, and how they are rotated."""

    key: SecretStr | None = None
    """32 bytes in base64, which encrypt them in the database; several, one a line: the first encrypts."""
    key_file: Path | None = None
    """The same in a file; without either, the systemd credential `carillon-credentials-key`."""
    canary_window: Seconds = 60.0
    """How long a new one signs 1 % and then 10 % of the notifications before it signs more."""
    overlap: Seconds = 3600.0
    """How long the one before is kept to go back to."""


class App(Section):
    """`[apps.NAME]`: has a field for each provider, made below from the providers' own classes."""

    weight: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    """Its share of what several apps want at the same time, in proportion to theirs."""
    webhooks: dict[EndpointName, Webhook] = {}
    """Who is told what became of its deliveries, by names of the operator's choice."""


if TYPE_CHECKING:
    AppBlocks = App  # the fields depend on what is registered, which no type checker can follow
else:
    AppBlocks = create_model(
        "AppBlocks",
        __base__=App,
        **{name: (provider.settings | None, None) for name, provider in PROVIDERS.items()},
    )


class Tenant(Quota):
    """`[tenants.NAME]`: apps that only this tenant's credentials reach, and what they may take together."""

    weight: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    """Its share of what several tenants want at the same time, divided among its apps by theirs."""
    apps: dict[AppName, AppBlocks] = Field(default_factory=dict)


class Settings(BaseSettings):
    """The whole configuration. Built by `load`; frozen."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter=DELIMITER, extra="forbid", frozen=True)

    workers: Annotated[int, Field(ge=1, le=256)] = 1
    http: Http = Http()
    queue: Queue = Queue()
    redis: Redis = Redis()
    kafka: Kafka = Kafka()
    dispatch: Dispatch = Dispatch()
    observe: Observe = Observe()
    credentials: Credentials = Credentials()
    access: Access = Access()
    apps: dict[AppName, AppBlocks] = {}
    """Those of the default tenant."""
    tenants: dict[TenantName, Tenant] = {}

    @field_validator("tenants")
    @classmethod
    def _default_apps_are_plain(cls, tenants: dict[str, Tenant]) -> dict[str, Tenant]:
        if DEFAULT in tenants and tenants[DEFAULT].apps:
            raise ValueError(f"apps of the tenant {DEFAULT} are [apps.NAME], not [tenants.{DEFAULT}.apps.NAME]")
        return tenants

    @model_validator(mode="after")
    def _tenants_are_known(self) -> Self:
        if unknown := self.access.tenants() - self.tenant_names():
            names = ", ".join(sorted(unknown))
            raise ValueError(f"access names tenants that there are not: {names}. Add [tenants.NAME] for each")
        return self

    @model_validator(mode="after")
    def _whole_group(self) -> Settings:
        """What Kafka needs beside itself."""
        if not self.kafka.servers:
            return self
        if not self.redis.url:
            raise ValueError("kafka.servers needs redis.url: gateways of one group share keys and cancellations there")
        if self.kafka.session_timeout < 1.5 * self.queue.lease_seconds:
            raise ValueError("kafka.session_timeout has to be 1.5 times queue.lease_seconds at least")
        if self.webhooks():
            raise ValueError("webhooks read the embedded queue: with [kafka], take receipts from its topic")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what it is given: the environment comes in by `load`, and a test's does not come in at all."""
        return (init_settings,)

    @property
    def data(self) -> Path:
        """The folder of everything the gateway writes."""
        return self.queue.path.parent

    def all_apps(self) -> dict[str, AppBlocks]:
        """Every tenant's, by their full names."""
        return {
            full_name(tenant, app): blocks
            for tenant, apps in {DEFAULT: self.apps, **self._tenants_apps()}.items()
            for app, blocks in apps.items()
        }

    def tenant_names(self) -> set[str]:
        """All tenants, the default one among them."""
        return {DEFAULT, *self.tenants}

    def quotas(self) -> Mapping[str, Quota]:
        """How much each tenant may ask for."""
        return {
            name: Quota(**{key: getattr(of, key) for key in Quota.model_fields}) for name, of in self.tenants.items()
        }

    def _tenants_apps(self) -> dict[str, dict[str, AppBlocks]]:
        return {name: tenant.apps for name, tenant in self.tenants.items() if name != DEFAULT}

    def webhooks(self) -> dict[str, dict[str, Webhook]]:
        """Who is told of each app's deliveries, by their names."""
        return {app: blocks.webhooks for app, blocks in self.all_apps().items() if blocks.webhooks}

    def weights(self) -> dict[str, float]:
        """Each app's share of what several want at the same time, by full name.

        A tenant's weight is divided among its apps in proportion to theirs. With one tenant they are its apps' own.
        """
        tenants = {DEFAULT: self.apps, **self._tenants_apps()}
        sums = {name: sum(app.weight for app in apps.values()) for name, apps in tenants.items() if apps}
        weights = {name: self.tenants[name].weight if name in self.tenants else 1.0 for name in sums}
        worth = sum(sums.values()) / sum(weights.values()) if sums else 1.0
        return {
            full_name(name, app): blocks.weight * weights[name] / sums[name] * worth
            for name in sums
            for app, blocks in tenants[name].items()
        }

    def blocks(self) -> dict[tuple[str, str], ProviderSettings]:
        """What is configured, by (full name of the app, provider)."""
        return {
            (app, provider): block
            for app, blocks in self.all_apps().items()
            for provider in PROVIDERS
            if (block := getattr(blocks, provider)) is not None
        }


class Problem(NamedTuple):
    """One wrong key."""

    key: str
    """Dotted path, as in the file."""
    detail: str


class SettingsError(ValueError):
    """The configuration is wrong. Names every wrong key and what is expected; never shows a value."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        super().__init__(source, problems)
        self.source = source
        self.problems = problems

    def __str__(self) -> str:
        lines = "".join(f"\n  {problem.key}: {problem.detail}" for problem in self.problems)
        return f"The configuration ({self.source}) cannot be used:{lines}"


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read, overlay, resolve and check the configuration.

    Raises:
        SettingsError: with all that is wrong, at once.
    """
    source = "environment" if path is None else str(path)
    values, problems = ({}, []) if path is None else _read(path)
    overlay, misnamed = _environment(environ)
    _merge(values, overlay)
    _anchor(values, Path.cwd() if path is None else path.resolve().parent)
    try:
        settings = Settings(**values)
    except ValidationError as error:
        problems += [_problem(detail) for detail in error.errors(include_url=False, include_input=False)]
    if problems := problems + misnamed:
        raise SettingsError(source, problems)
    return settings


def _read(path: Path) -> tuple[dict[str, Any], list[Problem]]:
    try:
        return tomllib.loads(path.read_text("utf-8")), []
    except FileNotFoundError:
        detail = "there is no such file; copy carillon.example.toml, or name another with --config"
    except OSError as error:
        detail = f"cannot be read: {error.strerror}"
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        detail = f"is not TOML: {error}"
    raise SettingsError(str(path), [Problem("file", detail)])


def _environment(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[Problem]]:
    """The tables that the environment spells out, and variables whose first part is no key."""
    ours = {k.lower(): v for k, v in environ.items() if k.startswith(PREFIX) and k not in OTHER_VARIABLES}
    misnamed = [
        Problem(name.upper(), "this environment variable stands for no key" + _suggestion(key, known))
        for name in ours
        if (key := name.removeprefix(PREFIX.lower()).split(DELIMITER)[0]) not in (known := Settings.model_fields)
    ]
    source = EnvSettingsSource(Settings)
    source.env_vars = ours
    try:
        return source(), misnamed
    except SourceError as error:
        return {}, [*misnamed, Problem(PREFIX + "*", f"{error}; lists and tables are written as JSON there")]


def _merge(values: dict[str, Any], overlay: Mapping[str, Any]) -> None:
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(below := values.get(key), dict):
            _merge(below, value)
        else:
            values[key] = value


def _anchor(values: dict[str, Any], folder: Path) -> None:
    """Make paths absolute: `queue.path`, and every key that ends in `_file` or `_directory`."""
    queue = values.setdefault("queue", {})
    if isinstance(queue, dict) and isinstance(path := queue.get("path", str(Queue().path)), str):
        queue["path"] = str(folder / Path(path).expanduser())
    _anchor_files(values, folder)


def _anchor_files(table: dict[str, Any], folder: Path) -> None:
    for key, value in table.items():
        if isinstance(value, dict):
            _anchor_files(value, folder)
        elif key.endswith(("_file", "_directory")) and isinstance(value, str) and value:
            table[key] = str(folder / Path(value).expanduser())


_APP_RULE = "an app's name is up to 64 of a-z, 0-9, _ and -, and begins with a letter or digit"
_TENANT_RULE = "a tenant's name is up to 32 of a-z, 0-9 and -, and begins with a letter or digit"


def _problem(detail: Mapping[str, Any]) -> Problem:
    *tables, key = [str(part) for part in detail["loc"]] or ["settings"]
    path = ".".join([*tables, key])
    match detail["type"]:
        case _ if key == "[key]":
            return Problem(".".join(tables), _TENANT_RULE if tables[:-1] == ["tenants"] else _APP_RULE)
        case "missing":
            return Problem(path, "is missing and has to be given")
        case "extra_forbidden":
            return Problem(path, "is not known" + _suggestion(key, _table(tables).model_fields))
        case "path_type":
            return Problem(path, "expected a path")
        case "model_type" | "dict_type":
            return Problem(path, f"expected a table, [{path}]")
        case _:
            return Problem(path, str(detail["msg"]).removeprefix("Value error, "))


def _table(path: list[str]) -> type[BaseModel]:
    """What the table at a path is validated with."""
    match path[2:] if path[:1] == ["tenants"] and len(path) > 2 else path:
        case ["tenants", _]:
            return Tenant
        case ["apps", _]:
            return AppBlocks
        case ["apps", _, "webhooks", _]:
            return Webhook
        case ["apps", _, provider]:
            return PROVIDERS[provider].settings
        case ["access", "issuers", _]:
            return Issuer
        case ["access", "certificates", _]:
            return Certificate
        case ["access", "keys", _]:
            return Key
        case [section]:
            return type(Settings.model_fields[section].default)
        case _:
            return Settings


def _suggestion(key: str, known: Iterable[str]) -> str:
    if close := difflib.get_close_matches(key, known, 1):
        return f"; is {close[0]} meant?"
    return f"; known here: {', '.join(known)}"
