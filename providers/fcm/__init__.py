"""Firebase Cloud Messaging, HTTP v1: https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages"""

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
)
from providers.fcm import probe, request
from providers.fcm.auth import PARTS, ServiceAccount
from providers.fcm.settings import ENDPOINT, FcmSettings


class Fcm:
    """A `Provider`."""

    name = "fcm"
    settings: type[ProviderSettings] = FcmSettings
    target_columns = 1
    default_rate: float | None = 10_000.0
    """600,000 a minute is a project's default quota."""
    default_connections = 20
    single_origin = True
    """100 streams each: 10,000 a second as long as an answer takes less than 0.2 s."""
    parts = PARTS

    def targets(self, recipients: Sequence[Recipient], settings: ProviderSettings) -> Targets:
        return request.targets(recipients)

    def registered_keys(self, origin: str, targets: tuple[list[bytes], ...]) -> list[bytes]:
        return targets[0]

    def check(self, message: Message, terms: Terms, settings: ProviderSettings) -> list[Problem]:
        return request.check(message, terms)

    def endpoint(self, settings: ProviderSettings) -> str:
        return settings.endpoint or ENDPOINT

    def compile(self, message: Message, terms: Terms, settings: ProviderSettings, origin: str) -> Plan:
        assert isinstance(settings, FcmSettings)
        return request.FcmPlan(message, terms, settings, origin)

    def farewell(self, debug: bytes) -> Outcome | None:
        return None

    def credential(self, settings: ProviderSettings, material: Material | None = None) -> Credential:
        assert isinstance(settings, FcmSettings)
        return ServiceAccount(settings, material)

    def probe(self, settings: ProviderSettings, credential: Credential, now: float) -> Exchange | None:
        assert isinstance(settings, FcmSettings)
        return probe.request(settings, credential, self.endpoint(settings), now)

    def proof(self, status: int, headers: Headers, body: bytes, now: float) -> Outcome:
        return probe.proof(status, headers, body, now)


provider = Fcm()
