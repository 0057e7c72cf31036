"""What `[apps.NAME.webpush]` takes: the VAPID key, who answers for it, and which push services are trusted."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from providers.base import ProviderSettings

HOSTS = (
    "fcm.googleapis.com",
    "jmt17.google.com",
    "updates.push.services.mozilla.com",
    "push.apple.com",
    "notify.windows.com",
)
"""Push services of the browsers, and all hosts below these names (webpush.md, section 8)."""

_DOMAIN = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]"
_SUBJECT = re.compile(rf"mailto:[^\s@:]+@({_DOMAIN})|https://({_DOMAIN})(?:[:/?][!-~]*)?")
_UNREAL = (".local", ".localhost", ".invalid")

Origin = Annotated[str, Field(pattern=r"^https://[A-Za-z0-9.:\[\]-]+$")]


class WebPushSettings(ProviderSettings):
    vapid_key_file: str | None = None
    """The private key whose public half the website subscribes with: PEM, or 32 bytes in base64url."""
    subject: str
    """Whom a push service may write to about these pushes: `mailto:ops@shop.com` or an `https://` address."""
    allowed_hosts: tuple[str, ...] = HOSTS
    """Push services that subscriptions may name; a name includes all hosts below it. Replaces the browsers' own."""
    allow_any_public: bool = False
    """Subscriptions may name any host of the public internet: what leads elsewhere is still not connected to."""
    endpoints: tuple[Origin, ...] = ()
    """Further origins that are allowed as they are, with their port, such as simulators, or a push service inside the
    company: what they lead to is not checked. `endpoint` is one of them."""

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if (self.vapid_key_file is None) == (self.credential_directory is None):
            raise ValueError("give either vapid_key_file or credential_directory")
        return self

    @field_validator("subject")
    @classmethod
    def _reachable(cls, subject: str) -> str:
        match = _SUBJECT.fullmatch(subject)
        # Apple answers 403 BadJwtToken to anything less, and to localhost.
        if match is None or (match[1] or match[2]).lower().endswith(_UNREAL):
            raise ValueError("has to be mailto: and an address at a real domain, or an https:// address")
        return subject

    @field_validator("allowed_hosts")
    @classmethod
    def _names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not re.fullmatch(_DOMAIN, host):
                raise ValueError(
                    f"{host!r} is no host name; give names such as push.example.com, without scheme or port"
                )
        return tuple(host.lower() for host in hosts)

    def names(self, origin: str) -> bool:
        return origin in {named.lower() for named in self.origins}

    @property
    def origins(self) -> frozenset[str]:
        """Origins that are allowed as they are."""
        return frozenset(self.endpoints) | ({self.endpoint} if self.endpoint else frozenset())
