"""What `[apps.NAME.fcm]` takes: a service account's key file, and a project where that differs."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Self, cast

import orjson
from pydantic import Field, model_validator

from providers import keys
from providers.base import ProviderSettings

DIRECTORY_FILE = "service_account.json"
ENDPOINT = "https://fcm.googleapis.com"


class FcmSettings(ProviderSettings):
    service_account_file: str | None = None
    """The JSON key file of a service account that may send for the project (`cloudmessaging.messages.create`)."""
    project_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9:.-]{1,100}$")
    """Where to send; None takes the project of the key file. They differ where one account sends for several."""
    token_uri: str | None = Field(default=None, pattern=r"^https://")
    """Where to exchange the assertion for an access token; None takes the key file's."""

    @model_validator(mode="after")
    def _one_account(self) -> Self:
        if (self.service_account_file is None) == (self.credential_directory is None):
            raise ValueError("give either service_account_file or credential_directory")
        return self

    @cached_property
    def service_account(self) -> dict[str, Any]:
        """The key file's contents, read once per process.

        Raises:
            ValueError: it is no service account's key file.
        """
        path = self.service_account_file or f"{self.credential_directory}/{DIRECTORY_FILE}"
        return account(keys.read(path, "service_account_file"), path)

    @property
    def project(self) -> str:
        return self.project_id or str(self.service_account["project_id"])


def account(contents: bytes, path: str) -> dict[str, Any]:
    """A service account's key file; `path` is for errors.

    Raises:
        ValueError: it is none.
    """
    try:
        found = orjson.loads(contents)
    except orjson.JSONDecodeError:
        raise ValueError(f"service_account_file: {path} is not JSON") from None
    if not isinstance(found, dict) or found.get("type") != "service_account":
        raise ValueError(f"service_account_file: {path} is not a service account's key file")
    for name in ("project_id", "private_key_id", "private_key", "client_email", "token_uri"):
        if not isinstance(found.get(name), str):
            raise ValueError(f"service_account_file: {path} lacks `{name}`; download the key file anew")
    return cast("dict[str, Any]", found)
