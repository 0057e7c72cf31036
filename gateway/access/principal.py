"""Who asks, as the credential says and nothing else."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from gateway.access.names import DEFAULT, full_name, split
from gateway.audit.log import Actor


class Scope(StrEnum):
    """What a credential is good for."""

    SEND = "send"  #: hand in jobs, and take them back
    READ = "read"  #: what became of them
    OPERATE = "operate"  #: parked batches, credentials, keys, the audit log


class Principal(msgspec.Struct, frozen=True):
    """Who a request comes from."""

    tenant: str
    name: str
    """Of the credential, for the audit log: never a part of it."""
    scopes: frozenset[Scope]
    apps: frozenset[str] | None = None
    """The apps of the tenant that it is limited to, by their plain names; None: all of them."""

    @property
    def actor(self) -> Actor:
        return Actor(self.tenant, self.name)

    @property
    def runs_the_machine(self) -> bool:
        """Whether it may see what concerns all tenants together, such as how long the loop is held up."""
        return self.tenant == DEFAULT and self.apps is None and Scope.OPERATE in self.scopes

    def full(self, app: str) -> str:
        """The full name of the app that this caller means; "" if it cannot be one of its own."""
        return full_name(self.tenant, app) if split(app) == (DEFAULT, app) and self._may(app) else ""

    def sees(self, name: str) -> bool:
        """Whether the app with this full name is one of its own."""
        tenant, app = split(name)
        return tenant == self.tenant and self._may(app)

    def shown(self, name: str) -> str:
        """What this caller calls one of its own apps."""
        return split(name)[1]

    def _may(self, app: str) -> bool:
        return self.apps is None or app in self.apps


def anyone() -> Principal:
    """Who asks where nobody has to say who they are: the default tenant, with every scope."""
    return Principal(DEFAULT, "anyone", frozenset(Scope))
