"""`[apps.NAME.webhooks.ENDPOINT]`: who is told, and how it is signed."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from gateway.durations import Seconds
from gateway.webhooks.signing import signer
from providers.hosts import is_public_name

EndpointName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


class Webhook(BaseModel):
    """One endpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: SecretStr
    """Where events are posted. It may hold a secret path, so nothing shows it."""
    secrets: Annotated[tuple[SecretStr, ...], Field(min_length=1, max_length=4)]
    """`whsec_…` signs with HMAC (`v1`), `whsk_…` with Ed25519 (`v1a`). Each signs, so that one can replace another."""
    events: frozenset[Literal["receipts", "tokens"]] = frozenset({"receipts", "tokens"})
    """What is told: receipts, and targets that were declared dead."""
    private: bool = False
    """Whether it is in the operator's own network: then any address may be, and http:// too."""
    timeout: Annotated[Seconds, Field(le=60)] = 20.0
    """For a whole request."""
    retry_for: Seconds = 3 * 86400.0
    """How long a message is tried. After that it waits for a replay."""
    disable_after: Seconds = 5 * 86400.0
    """How long an endpoint may take nothing at all, after which nothing is sent to it until it is enabled again."""

    @field_validator("secrets")
    @classmethod
    def _secrets_sign(cls, secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for secret in secrets:
            signer(secret.get_secret_value())
        return secrets

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Self:
        parts = urlsplit(self.url.get_secret_value())
        if parts.username is not None or parts.fragment or not parts.hostname:
            raise ValueError("url has to be an address without a name, password or fragment in it")
        if self.private:
            if parts.scheme not in ("https", "http"):
                raise ValueError("url has to begin with https:// or http://")
        elif parts.scheme != "https" or not is_public_name(parts.hostname):
            raise ValueError(
                "url has to begin with https:// and a name in the public DNS; for a receiver in your own network, set "
                "private = true"
            )
        return self
