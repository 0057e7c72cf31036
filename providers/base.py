"""What a push service has to say for itself, in values: no IO, no clock, no import of the gateway.

A provider is asked four things, each once per batch or per slice of a batch, never per recipient:

1. `Provider.targets`  which recipients can be reached, and at which origin   (at ingest)
2. `Provider.compile`  a message becomes a `Plan`                             (at ingest as a check, then at dispatch)
3. `Plan.render`       a slice of recipients becomes header values and bodies (right before framing)
4. `Plan.outcome`      an answer becomes an `Outcome`                         (as answers arrive)

and it brings a `Credential`, which signs requests. Time always comes in as an argument, in UNIX seconds.
"""

from __future__ import annotations

import enum
import hmac
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Never, Protocol

import msgspec
from pydantic import BaseModel, ConfigDict, Field

Headers = tuple[tuple[bytes, bytes], ...]
"""Header fields in order; names in lower case."""


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be said. Any string in it may hold `{{name}}` placeholders (see `providers.template`).

    The provider blocks are raw overrides, merged last into what the provider makes of the other fields.
    """

    title: str | None = None
    body: str | None = None
    image: str | None = None
    link: str | None = None
    data: dict[str, str] = {}
    apns: dict[str, Any] = {}
    fcm: dict[str, Any] = {}
    webpush: dict[str, Any] = {}
    stub: dict[str, Any] = {}


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How a job wants its message treated, as far as a service can be told."""

    expires_at: float | None = None
    """UNIX seconds after which nobody wants the notification any more; None lets the service decide."""
    collapse_key: str | None = None
    """None means each delivery collapses only with resends of itself."""
    transactional: bool = False


class Subscription(msgspec.Struct, frozen=True, gc=False):
    """A browser's PushSubscription, as `JSON.stringify` gives it (W3C Push API)."""

    endpoint: str
    keys: dict[str, str]
    expirationTime: float | None = None  # noqa: N815 - the browser's spelling
    applicationServerKey: str | None = None  # noqa: N815 - likewise
    """The public key that it was made with, `options.applicationServerKey` in base64url; for apps with several."""


class Recipient(msgspec.Struct, frozen=True, gc=False):
    """One recipient as the caller sent it; exactly one of `token` and `subscription` is meant to be set."""

    id: str
    provider: str
    token: str | None = None
    subscription: Subscription | None = None
    vars: dict[str, msgspec.Raw] = {}
    registered_at: str | None = None


class Targets(NamedTuple):
    """The reachable ones of a list of recipients, as columns.

    Column values are bytes without newlines, so that a column is stored as one newline-joined blob.
    """

    origins: list[str]
    """Per recipient; "" means the endpoint of the app's settings. Refused ones have "" too."""
    columns: tuple[list[bytes], ...]
    """As many as the provider's `target_columns`, each as long as the recipients; b"" where refused."""
    refused: dict[int, str]
    """Position -> why, in words for the caller. Never contains the target itself."""


class Problem(NamedTuple):
    """Something wrong with a message, for the caller."""

    pointer: str
    """RFC 6901 JSON pointer from the job's root, such as `/message/apns/aps/badge`."""
    detail: str


class Rows(NamedTuple):
    """A slice of a batch, as columns of equal length."""

    ids: list[bytes]
    """Delivery ids, 36 characters, lower-case UUIDs."""
    targets: tuple[list[bytes], ...]
    variables: tuple[list[bytes], ...]
    """In the order of `template.variables(message)`; text as it stands between the quotes of a JSON string."""


class Rendered(NamedTuple):
    """What `Plan.render` made of `Rows`, as columns of the same length."""

    fields: tuple[list[bytes], ...]
    """A column per name in `Head.varying`."""
    bodies: list[bytes]
    rejected: dict[int, str]
    """Position -> reason; such a position is not to be sent, and its other values mean nothing."""


class Head(NamedTuple):
    """The header fields of each request of a plan, by how HPACK should treat them."""

    fixed: Headers
    """The same for many batches: worth a place in the peer's dynamic table. Holds the pseudo-header fields."""
    literal: Headers
    """The same within a batch only: sent in full, so that nothing churns the table."""
    varying: tuple[bytes, ...]
    """Names whose values `render` gives for each recipient; b":path", if it is one of them, comes first."""


class Verdict(enum.IntEnum):
    """What an answer means for the delivery."""

    ACCEPTED = 1  #: the service took it; it never means delivered
    REJECTED = 2  #: this message to this target will never be taken
    UNREGISTERED = 3  #: the target is dead, since `Outcome.dead_since`
    THROTTLED = 4  #: not now; `Outcome.scope` says who has to wait
    UNAVAILABLE = 5  #: the service failed; another try may succeed
    CREDENTIAL = 6  #: nothing is wrong with the delivery: stop this credential and keep its jobs
    UNSENT = 7  #: known not to have been processed
    UNKNOWN = 8  #: sent, no answer


class Scope(enum.IntEnum):
    """Who has to wait after a THROTTLED or CREDENTIAL outcome."""

    TARGET = 1
    APP = 2
    CREDENTIAL = 3
    ORIGIN = 4
    UNNAMED = 5  #: the service does not say: the target, unless everybody is told the same


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What an answer of a service means. `reason` is the service's own word, safe to show and to count."""

    verdict: Verdict
    reason: str = ""
    provider_id: str = ""
    """The service's own id of the notification where it differs from the delivery id."""
    retry_after: float | None = None
    """Seconds the service asked for, or that its documentation asks for."""
    scope: Scope = Scope.TARGET
    dead_since: float | None = None
    """UNIX seconds; for UNREGISTERED: when the service last knew the target to be dead."""
    ambiguous: bool = False
    """For UNREGISTERED: a wrong setting of ours is answered in the same way."""
    remint: bool = False
    """For CREDENTIAL: a freshly signed credential may cure it; otherwise an operator has to."""


class Alike(NamedTuple):
    """Answers that differ in one header field's value or in their bodies alone, as columns of equal length."""

    status: int
    headers: Headers
    """Each one's, but for the value of the field that differs."""
    place: int
    """Of that field in `headers`; -1 where none differs."""
    values: Sequence[bytes]
    """That field's; b"" where none differs."""
    bodies: Sequence[bytes]

    def each_headers(self) -> Iterator[Headers]:
        """Each one's header fields."""
        if self.place < 0:
            yield from (self.headers for _ in self.values)
            return
        before, (name, _), after = self.headers[: self.place], self.headers[self.place], self.headers[self.place + 1 :]
        for value in self.values:
            yield (*before, (name, value), *after)


class Plan(Protocol):
    """One message compiled for one app, provider and origin."""

    slice: int
    """How many recipients one `render` may take and stay within about two milliseconds."""
    bare_accept: bool
    """Whether status 200 without a body needs no look by `outcome`: it is ACCEPTED and carries nothing to keep."""

    def head(self, auth: Headers, now: float) -> Head:
        """The header fields around the rendered ones. `auth` comes from the credential."""

    def render(self, rows: Rows, now: float) -> Rendered:
        """Header values and bodies for a slice; rejects what the service would, such as an oversized payload."""

    def outcome(self, status: int, headers: Headers, body: bytes, now: float) -> Outcome:
        """The meaning of an answer. Never raises: what is not understood is judged by its status class."""

    def provider_ids(self, alike: Alike) -> Sequence[str] | None:
        """What `Outcome.provider_id` would be of each of these answers, if all of them are plainly ACCEPTED.

        None if `outcome` had better look at each. The answers may be to several messages of the app at this origin.
        """


class Exchange(NamedTuple):
    """A request that a credential needs answered before it can sign (such as OAuth's token exchange)."""

    url: str
    headers: Headers
    body: bytes


class Secret:
    """Bytes that are shown to nobody by accident: no repr, no pickle, compared in constant time."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        return self._value

    def __repr__(self) -> str:
        return "<secret>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> Never:
        raise TypeError("a secret does not leave its process")


Material = Mapping[str, Secret]
"""What a credential is made of, by the names of `Provider.material`: keys, certificates, and who they belong to."""


class ClientCertificate(NamedTuple):
    """What mutual TLS shows, PEM."""

    chain: Secret
    key: Secret


class Credential(Protocol):
    """What signs an app's requests. Holds secrets: its repr shows only `fingerprint`."""

    fingerprint: str
    """Short, stable, not secret: for logs, metrics and pool keys."""
    key_id: str
    """What the service calls it, for people to tell keys apart; "" where it has no name."""
    expires_at: float | None
    """UNIX seconds after which the service refuses it; None where that is never, or nobody knows."""
    client_certificate: ClientCertificate | None
    """For mutual TLS."""

    def headers(self, origin: str, now: float) -> Headers | None:
        """Header fields that sign a request to `origin`, or None while an exchange has to come first."""

    def exchange(self, now: float) -> Exchange | None:
        """The request to make now, if any: one is due ahead of expiry, while `headers` still works."""

    def exchanged(self, status: int, headers: Headers, body: bytes, now: float) -> Outcome:
        """Takes the answer of `exchange`: ACCEPTED, UNAVAILABLE (try again later) or CREDENTIAL (for an operator)."""

    def renew(self, now: float) -> None:
        """Drop what was minted, after an outcome with `remint`; the next `headers` or `exchange` mints anew."""


class ProviderSettings(BaseModel):
    """What each `[apps.NAME.PROVIDER]` block takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str | None = Field(default=None, pattern=r"^https://[A-Za-z0-9.:\[\]-]+$")
    """Instead of the service's own address: a simulator, a proxy, a test server. `https://host[:port]`."""
    ca_file: str | None = None
    """PEM file of certificate authorities to trust for this endpoint instead of the system's."""
    rate: float | None = None
    """Notifications a second over all workers of this machine, or of all machines that share a `[redis]`; None takes
    the provider's `default_rate`."""
    connections: int | None = None
    """Most connections a worker opens to one host; None takes the provider's `default_connections`."""
    credential_directory: str | None = None
    """A folder with the credential's parts as files, as Kubernetes mounts secrets; changes there are rotated in."""

    def names(self, origin: str) -> bool:
        """Whether these settings name an origin that a target brought: otherwise a stranger chose it."""
        return origin == self.endpoint


class Provider(Protocol):
    """A push service. One instance per process, stateless."""

    name: str
    settings: type[ProviderSettings]
    target_columns: int
    default_rate: float | None
    """Notifications a second that the service allows an app by default; None where it names no limit."""
    default_connections: int
    single_origin: bool
    """Whether all of an app's requests go to `endpoint`; otherwise each target brings its own origin."""

    def targets(self, recipients: Sequence[Recipient], settings: ProviderSettings) -> Targets:
        """Validate and canonicalise the targets of recipients that all name this provider."""

    def registered_keys(self, origin: str, targets: tuple[list[bytes], ...]) -> list[bytes]:
        """What identifies targets for token invalidation: the tokens, or the subscriptions' endpoints."""

    def check(self, message: Message, terms: Terms, settings: ProviderSettings) -> list[Problem]:
        """What the service would refuse about the message for every recipient, found before anything is stored."""

    def endpoint(self, settings: ProviderSettings) -> str:
        """Origin for targets that bring none, `https://host[:port]`."""

    def compile(self, message: Message, terms: Terms, settings: ProviderSettings, origin: str) -> Plan:
        """Compile a message that `check` found nothing wrong with. `origin` is where the requests go."""

    def farewell(self, debug: bytes) -> Outcome | None:
        """What the debug data of a GOAWAY means for the route (RFC 9113, section 6.8); None where it means nothing."""

    parts: frozenset[str]
    """What a credential's material may hold."""

    def credential(self, settings: ProviderSettings, material: Material | None = None) -> Credential:
        """Check and load a credential of the app: of this material, or else of the files that the settings name.

        Raises:
            ValueError: naming the field, part or file that is wrong and what to do, without any secret.
        """

    def probe(self, settings: ProviderSettings, credential: Credential, now: float) -> Exchange | None:
        """A signed request that reaches nobody and whose answer tells whether the service takes the credential.

        None where no request tells, and the material's own check has to do. `credential.headers` has to be there.
        """

    def proof(self, status: int, headers: Headers, body: bytes, now: float) -> Outcome:
        """What the answer to `probe` says: ACCEPTED (proven), CREDENTIAL (refuted), or UNAVAILABLE (neither)."""
