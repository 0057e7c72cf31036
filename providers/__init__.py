"""Push services: what they want and what their answers mean, without any IO."""

from __future__ import annotations

from providers.apns import provider as apns
from providers.base import Provider
from providers.fcm import provider as fcm
from providers.stub import provider as stub
from providers.webpush import provider as webpush

PROVIDERS: dict[str, Provider] = {
    "apns": apns,
    "fcm": fcm,
    "webpush": webpush,
    "stub": stub,
}
"""Every service the gateway knows, by the name that recipients and settings use."""
