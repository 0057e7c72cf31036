"""What `[apps.NAME.apns]` takes: a signing key (`.p8`) or a certificate, the app's topic, and which environment."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from providers.base import ProviderSettings

HOSTS = {
    "production": "https://api.push.apple.com",
    "development": "https://api.sandbox.push.apple.com",
}
"""apns.md, section 1. Port 2197 reaches the same, where 443 is blocked: set it with `endpoint`."""


class ApnsSettings(ProviderSettings):
    topic: str = Field(pattern=r"^[A-Za-z0-9.-]{1,255}$")
    """The app's bundle id, without a push type's suffix."""
    environment: Literal["production", "development"] = "production"
    """Where the app's device tokens come from (the entitlement `aps-environment`); TestFlight is production."""

    team_id: str | None = Field(default=None, pattern=r"^[A-Z0-9]{10}$")
    key_id: str | None = Field(default=None, pattern=r"^[A-Z0-9]{10}$")
    key_file: str | None = None
    """The signing key as Apple gives it: `AuthKey_….p8`."""

    certificate_file: str | None = None
    """Instead of a signing key: the app's certificate with its chain, PEM."""
    certificate_key_file: str | None = None
    """The certificate's private key, PEM without a password; None where it is in `certificate_file`."""

    @model_validator(mode="after")
    def _one_way_to_authenticate(self) -> Self:
        token = [self.team_id, self.key_id, self.key_file]
        if self.credential_directory is not None:
            if self.certificate_file is not None or self.key_file is not None:
                raise ValueError("give either credential_directory or files, not both")
        elif self.certificate_file is not None:
            if any(part is not None for part in token):
                raise ValueError("give either certificate_file or team_id, key_id and key_file, not both")
        elif not all(part is not None for part in token):
            raise ValueError("give team_id, key_id and key_file, or a certificate_file")
        return self
