"""The credentials of all apps, loaded and checked at start.

Reads files and nothing else. A credential that needs an exchange (FCM's OAuth) says so by `Credential.exchange`;
dispatch sends that request over the gateway's own HTTP/2 core and feeds `Credential.exchanged` with the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.settings import Problem, SettingsError
from providers import PROVIDERS
from providers.base import Credential, ProviderSettings


class CredentialsError(SettingsError):
    """Some apps' credentials cannot be used. Names all of them, without any secret."""

    def __str__(self) -> str:
        lines = "".join(f"\n  {problem.key}: {problem.detail}" for problem in self.problems)
        return f"{len(self.problems)} of the configured credentials cannot be used:{lines}"


class CredentialStore:
    """One credential per (app, provider). Its repr shows fingerprints only."""

    def __init__(self, blocks: Mapping[tuple[str, str], ProviderSettings]) -> None:
        """Load all of them.

        Args:
            blocks: `Settings.blocks()`.

        Raises:
            CredentialsError: with all that is wrong, at once.
        """
        self._credentials: dict[tuple[str, str], Credential] = {}
        problems = []
        for (app, provider), block in blocks.items():
            try:
                self._credentials[app, provider] = PROVIDERS[provider].credential(block)
            except ValueError as error:
                problems.append(Problem(f"apps.{app}.{provider}", str(error)))
            except OSError as error:
                detail = f"{error.filename} cannot be read: {error.strerror}; name a readable file"
                problems.append(Problem(f"apps.{app}.{provider}", detail))
        if problems:
            raise CredentialsError("credentials", problems)

    def get(self, app: str, provider: str) -> Credential | None:
        """What signs this app's requests; None if the configuration has no such block (any more)."""
        return self._credentials.get((app, provider))

    def items(self) -> Iterator[tuple[tuple[str, str], Credential]]:
        """By (app, provider)."""
        return iter(self._credentials.items())

    def fingerprints(self) -> dict[str, str]:
        """For logs: `app/provider` and which credential it signs with."""
        return {f"{a}/{p}": credential.fingerprint for (a, p), credential in self._credentials.items()}

    def __repr__(self) -> str:
        return f"CredentialStore({self.fingerprints()})"
