"""Web Push: RFC 8030 (delivery), 8291 and 8188 (encryption), 8292 (VAPID)."""

from __future__ import annotations

from collections.abc import Sequence

from providers.base import (
    Credential,
    Exchange,
    Headers,
    Material,
    Message,
    Outcome,
    Plan,
    Problem,
    ProviderSettings,
    Recipient,
    Targets,
    Terms,
    Verdict,
)
from providers.webpush import auth, request, subscription
from providers.webpush.settings import HOSTS, WebPushSettings


class WebPush:
    """A `Provider`. Its origins are those of the subscriptions."""

    name = "webpush"
    settings: type[ProviderSettings] = WebPushSettings
    target_columns = 3
    default_rate: float | None = None
    default_connections = 4
    single_origin = False
    parts = auth.PARTS

    def targets(self, recipients: Sequence[Recipient], settings: ProviderSettings) -> Targets:
        assert isinstance(settings, WebPushSettings)
        return subscription.targets(recipients, settings)

    def registered_keys(self, origin: str, targets: tuple[list[bytes], ...]) -> list[bytes]:
        prefix = origin.encode()
        return [prefix + path for path in targets[0]]

    def check(self, message: Message, terms: Terms, settings: ProviderSettings) -> list[Problem]:
        return request.check(message, terms)

    def endpoint(self, settings: ProviderSettings) -> str:
        """For trying out whether a service can be reached: each subscription brings its own origin."""
        assert isinstance(settings, WebPushSettings)
        return next(iter(settings.endpoints), settings.endpoint or f"https://{HOSTS[0]}")

    def compile(self, message: Message, terms: Terms, settings: ProviderSettings, origin: str) -> Plan:
        return request.WebPushPlan(message, terms, origin)

    def farewell(self, debug: bytes) -> Outcome | None:
        return None

    def credential(self, settings: ProviderSettings, material: Material | None = None) -> Credential:
        assert isinstance(settings, WebPushSettings)
        return auth.credential(settings, material)

    def probe(self, settings: ProviderSettings, credential: Credential, now: float) -> Exchange | None:
        """None: no push service says that it looks at the signature before the subscription, and each origin is one."""
        return None

    def proof(self, status: int, headers: Headers, body: bytes, now: float) -> Outcome:
        return Outcome(Verdict.UNAVAILABLE, "nothing was asked")


provider = WebPush()
