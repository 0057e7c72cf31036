"""The smallest whole provider: the one to copy.

To add a push service, copy this folder, give each file the service's own rules (what belongs where is said at the top
of each), add one line to the table in `providers/__init__.py`, a field for its block to `Message` in
`providers/base.py`, a simulator of it in `bench/simulators/`, and tests in `tests/providers/`. Nothing else has to
know about it.
"""

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
from providers.stub import request
from providers.stub.auth import PARTS, BearerKey
from providers.stub.settings import ENDPOINT, StubSettings


class Stub:
    """A `Provider` for a service of the simplest kind."""

    name = "stub"
    settings: type[ProviderSettings] = StubSettings
    target_columns = 1
    default_rate: float | None = None
    default_connections = 2
    single_origin = True
    parts = PARTS

    def targets(self, recipients: Sequence[Recipient], settings: ProviderSettings) -> Targets:
        return request.targets(recipients)

    def registered_keys(self, origin: str, targets: tuple[list[bytes], ...]) -> list[bytes]:
        return targets[0]

    def check(self, message: Message, terms: Terms, settings: ProviderSettings) -> list[Problem]:
        return request.check(message)

    def endpoint(self, settings: ProviderSettings) -> str:
        return settings.endpoint or ENDPOINT

    def compile(self, message: Message, terms: Terms, settings: ProviderSettings, origin: str) -> Plan:
        return request.StubPlan(message, origin)

    def farewell(self, debug: bytes) -> Outcome | None:
        return None

    def credential(self, settings: ProviderSettings, material: Material | None = None) -> Credential:
        assert isinstance(settings, StubSettings)
        return BearerKey(settings, material)

    def probe(self, settings: ProviderSettings, credential: Credential, now: float) -> Exchange | None:
        """None: this service has no request that only tells whether the key is right."""
        return None

    def proof(self, status: int, headers: Headers, body: bytes, now: float) -> Outcome:
        return Outcome(Verdict.UNAVAILABLE, "nothing was asked")


provider = Stub()
