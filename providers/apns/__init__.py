"""Apple Push Notification service: https://developer.apple.com/documentation/usernotifications"""

from __future__ import annotations

from collections.abc import Sequence

from providers.apns import auth, probe, request, response
from providers.apns.settings import HOSTS, ApnsSettings
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
)


class Apns:
    """A `Provider`."""

    name = "apns"
    settings: type[ProviderSettings] = ApnsSettings
    target_columns = 1
    default_rate: float | None = None
    default_connections = 4
    single_origin = True
    parts = auth.PARTS

    def targets(self, recipients: Sequence[Recipient], settings: ProviderSettings) -> Targets:
        return request.targets(recipients)

    def registered_keys(self, origin: str, targets: tuple[list[bytes], ...]) -> list[bytes]:
        return targets[0]

    def check(self, message: Message, terms: Terms, settings: ProviderSettings) -> list[Problem]:
        assert isinstance(settings, ApnsSettings)
        return request.check(message, terms, settings)

    def endpoint(self, settings: ProviderSettings) -> str:
        assert isinstance(settings, ApnsSettings)
        return settings.endpoint or HOSTS[settings.environment]

    def compile(self, message: Message, terms: Terms, settings: ProviderSettings, origin: str) -> Plan:
        assert isinstance(settings, ApnsSettings)
        return request.ApnsPlan(message, terms, settings, origin)

    def farewell(self, debug: bytes) -> Outcome | None:
        return response.farewell(debug)

    def credential(self, settings: ProviderSettings, material: Material | None = None) -> Credential:
        assert isinstance(settings, ApnsSettings)
        return auth.credential(settings, material)

    def probe(self, settings: ProviderSettings, credential: Credential, now: float) -> Exchange | None:
        assert isinstance(settings, ApnsSettings)
        return probe.request(settings, credential, self.endpoint(settings), now)

    def proof(self, status: int, headers: Headers, body: bytes, now: float) -> Outcome:
        return probe.proof(status, headers, body, now)


provider = Apns()
