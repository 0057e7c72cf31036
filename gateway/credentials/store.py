"""The credentials at work in a process: loaded and checked at start, and followed when they are rotated.

Reads files and nothing else. A credential that needs an exchange (FCM's OAuth) says so by `Credential.exchange`;
dispatch sends that request over the gateway's own HTTP/2 core and feeds `Credential.exchanged` with the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from gateway.credentials import directory
from gateway.settings import Problem, SettingsError
from providers import PROVIDERS
from providers.base import Credential, Material, ProviderSettings


class CredentialsError(SettingsError):
    """Some apps' credentials cannot be used. Names all of them, without any secret."""

    def __str__(self) -> str:
        lines = "".join(f"\n  {problem.key}: {problem.detail}" for problem in self.problems)
        return f"{len(self.problems)} of the configured credentials cannot be used:{lines}"


class Tally:
    """What became of the deliveries that a credential signed, in this process and since it took its present part."""

    __slots__ = ("accepted", "failed", "reason", "refused")

    def __init__(self) -> None:
        self.begin()
        self.heard()

    def begin(self) -> None:
        """Count answers from here on. A refusal that nobody was told of stays."""
        self.accepted = 0
        self.failed = 0
        """Answers other than acceptance, whatever they say of the delivery."""

    def heard(self) -> None:
        """Everybody was told of the refusals."""
        self.refused = 0
        """Times that the service refused the credential itself."""
        self.reason = ""
        """The service's word for that."""


class Signing:
    """A credential at work."""

    __slots__ = ("_alarm", "ca_file", "credential", "name", "number", "promoted", "share", "tally")

    def __init__(
        self,
        name: str,
        credential: Credential,
        ca_file: str | None = None,
        *,
        number: int = 0,
        share: float = 0.0,
        alarm: Callable[[], None] = lambda: None,
    ) -> None:
        """`name` is for people; `number` is its row's, if it has one; `alarm` is called when it is refused."""
        self.name = name
        self.credential = credential
        self.ca_file = ca_file
        self.number = number
        self.share = share
        """Of the app's traffic, while another credential signs the rest."""
        self.promoted = 0.0
        """UNIX seconds since which it is, or was, the app's active one."""
        self.tally = Tally()
        self._alarm = alarm

    def __repr__(self) -> str:
        return f"<Signing {self.name} {self.credential!r}>"

    def refuse(self, reason: str) -> None:
        """The service refused the credential."""
        self.tally.refused += 1
        self.tally.reason = reason
        self._alarm()


class Line:
    """Who signs for an (app, provider)."""

    __slots__ = ("first", "pairs", "second")

    def __init__(
        self, first: Signing, second: Signing | None = None, pairs: Mapping[str, Signing] | None = None
    ) -> None:
        self.first = first
        self.second = second
        """Beside the first one: a canary with a share, or the former one, which is kept to go back to."""
        self.pairs = pairs or {}
        """By fingerprint, where targets are bound to the credential that they were made with (VAPID)."""

    def signings(self) -> Iterator[Signing]:
        """Each once."""
        found = {id(each): each for each in (self.first, self.second, *self.pairs.values()) if each is not None}
        yield from found.values()


class CredentialStore:
    """Who signs for each (app, provider): the settings' credential, until others are told. Its repr shows
    fingerprints only."""

    def __init__(self, blocks: Mapping[tuple[str, str], ProviderSettings]) -> None:
        """Load all of them.

        Args:
            blocks: `Settings.blocks()`.

        Raises:
            CredentialsError: with all that is wrong, at once.
        """
        self._lines: dict[tuple[str, str], Line] = {}
        self.folders: dict[tuple[str, str], Material] = {}
        """What the folders of blocks held at the start."""
        self.alarm: Callable[[], None] = lambda: None
        """Called when a service refuses a credential."""
        problems = []
        for (app, provider), block in blocks.items():
            try:
                found = directory.of(block, PROVIDERS[provider].parts)
                credential = PROVIDERS[provider].credential(block, found)
            except ValueError as error:
                problems.append(Problem(f"apps.{app}.{provider}", str(error)))
            except OSError as error:
                detail = f"{error.filename} cannot be read: {error.strerror}; name a readable file"
                problems.append(Problem(f"apps.{app}.{provider}", detail))
            else:
                first = Signing(f"{app}/{provider}", credential, block.ca_file, alarm=self._alarmed)
                self._lines[app, provider] = Line(first)
                if found is not None:
                    self.folders[app, provider] = found
        if problems:
            raise CredentialsError("credentials", problems)

    def _alarmed(self) -> None:
        self.alarm()

    def get(self, app: str, provider: str) -> Credential | None:
        """What signs this app's requests; None if the configuration has no such block (any more)."""
        line = self._lines.get((app, provider))
        return None if line is None else line.first.credential

    def line(self, app: str, provider: str) -> Line | None:
        """Who signs for it; None as `get`."""
        return self._lines.get((app, provider))

    def follow(self, app: str, provider: str, line: Line) -> None:
        """Have others sign from now on. Whoever sends asks again when told so."""
        self._lines[app, provider] = line

    def signings(self) -> Iterator[Signing]:
        """All that sign, or may soon."""
        for line in self._lines.values():
            yield from line.signings()

    def items(self) -> Iterator[tuple[tuple[str, str], Credential]]:
        """By (app, provider)."""
        return ((key, line.first.credential) for key, line in self._lines.items())

    def fingerprints(self) -> dict[str, str]:
        """For logs: `app/provider` and which credential it signs with."""
        return {f"{a}/{p}": credential.fingerprint for (a, p), credential in self.items()}

    def __repr__(self) -> str:
        return f"CredentialStore({self.fingerprints()})"
