"""What `[apps.NAME.stub]` takes.

In a provider of your own: every key an operator has to give, each with a sentence; secrets as `SecretStr` or, for
whole key files, as a path in a key that ends in `_file`. What can be checked without reading a file is checked here,
so that a wrong value fails at start with the name of its key.
"""

from __future__ import annotations

from pydantic import Field, SecretStr

from providers.base import ProviderSettings

ENDPOINT = "https://push.stub.example"


class StubSettings(ProviderSettings):
    key: SecretStr = Field(min_length=1)
    """The bearer key that the service gave the app."""
