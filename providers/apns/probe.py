"""A request that tells whether APNs takes a credential, and that no device can get.

It is a background notification to a device token of zeros, which Apple never gave to any device, and it is not to be
stored. Apple looks at the provider token or certificate and the topic first (403, 400 `BadTopic`, `TopicDisallowed`),
so `BadDeviceToken` proves them.
"""

from __future__ import annotations

from typing import Final

from providers.apns import response
from providers.apns.settings import ApnsSettings
from providers.base import Credential, Exchange, Headers, Outcome, Verdict

NOBODY: Final = "0" * 64
"""A device token of the right form."""

PROVEN = frozenset({"BadDeviceToken", "DeviceTokenNotForTopic", "Unregistered", "ExpiredToken"})


def request(settings: ApnsSettings, credential: Credential, endpoint: str, now: float) -> Exchange:
    signed = credential.headers(endpoint, now)
    assert signed is not None, "APNs' credentials sign at once"
    about = (
        (b"apns-topic", settings.topic.encode()),
        (b"apns-push-type", b"background"),
        (b"apns-priority", b"5"),
        (b"apns-expiration", b"0"),
    )
    return Exchange(f"{endpoint}/3/device/{NOBODY}", (*about, *signed), b'{"aps":{"content-available":1}}')


def proof(status: int, headers: Headers, body: bytes, now: float) -> Outcome:
    outcome = response.outcome(status, headers, body, now, own_topic=True)
    if outcome.reason in PROVEN:
        return Outcome(Verdict.ACCEPTED, outcome.reason)
    if outcome.verdict in (Verdict.ACCEPTED, Verdict.CREDENTIAL):
        return outcome
    return Outcome(Verdict.UNAVAILABLE, outcome.reason, retry_after=outcome.retry_after)
