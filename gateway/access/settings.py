"""`[access]` and the limits of `[tenants.NAME]`: who is let in, as what, and how much of it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gateway.access.names import DEFAULT
from gateway.access.principal import Scope


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Issuer(_Section):
    """`[access.issuers.NAME]`: somebody whose signed tokens (JWT) are taken."""

    issuer: Annotated[str, Field(min_length=1)]
    """`iss` of its tokens, to the letter."""
    audience: Annotated[str, Field(min_length=1)]
    """`aud` that means this gateway."""
    jwks_url: Annotated[str, Field(pattern=r"^https://[^\s/@#]+(/[^\s#]*)?$")]
    """Where its public keys are."""
    algorithm: Literal["EdDSA", "ES256", "RS256"]
    """The only one that its tokens may be signed with."""
    tenant: str | None = None
    """Whose its tokens are, all of them."""
    tenant_claim: str | None = None
    """Or the claim that says so."""
    scope_claim: str = "scope"
    """The claim that lists scopes: words in a text, or an array."""
    scopes: dict[Scope, str] = {scope: scope.value for scope in Scope}
    """The words that stand for ours."""
    ca_file: str | None = None
    """Authorities to trust for `jwks_url` instead of the system's."""

    @model_validator(mode="after")
    def _one_tenant(self) -> Self:
        if (self.tenant is None) == (self.tenant_claim is None):
            raise ValueError("needs either tenant, for all its tokens, or tenant_claim")
        return self


class Certificate(_Section):
    """`[[access.certificates]]`: a client certificate that says who calls. Needs `http.client_ca_file`."""

    san: Annotated[str, Field(pattern=r"^(DNS|URI|IP Address|email):.+$")]
    """A subject alternative name of it, with its kind: `DNS:campaigns.acme.example`, `URI:spiffe://acme/campaigns`."""
    tenant: str = DEFAULT
    scopes: frozenset[Scope] = frozenset(Scope)
    apps: frozenset[str] | None = None
    """Apps that it is limited to; all of the tenant's without."""


class Key(_Section):
    """`[[access.keys]]`: an API key that is good on every machine with this configuration.

    Others are made while the gateway runs, and are one machine's: see `carillon keys`.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Who calls with it."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the key, as `carillon keys create --declare` prints it."""
    tenant: str = DEFAULT
    scopes: frozenset[Scope] = frozenset(Scope)
    apps: frozenset[str] | None = None
    """Apps that it is limited to; all of the tenant's without."""


class Access(_Section):
    """`[access]`: what callers have to show."""

    open: bool = False
    """Let in who shows nothing, as the default tenant with every scope: for networks where everybody is trusted."""
    probes: Literal["loopback", "anyone", "credential"] = "loopback"
    """Who may read `/metrics`, and what `/readyz` says in detail, without a credential."""
    issuers: dict[str, Issuer] = {}
    certificates: tuple[Certificate, ...] = ()
    keys: tuple[Key, ...] = ()

    def tenants(self) -> set[str]:
        """All that are named here."""
        named = {issuer.tenant for issuer in self.issuers.values() if issuer.tenant is not None}
        named |= {certificate.tenant for certificate in self.certificates}
        return named | {key.tenant for key in self.keys}


class Quota(_Section):
    """How much a tenant may ask for; no limit where none is given."""

    queued: Annotated[int, Field(gt=0)] | None = None
    """Deliveries stored and not complete."""
    jobs_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    recipients_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """A larger job is taken, and the next ones wait until it is paid off."""
