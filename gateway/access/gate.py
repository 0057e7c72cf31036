"""Where it is found out who asks: by an API key, a signed token or a client certificate, in this order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Protocol

from aiohttp import web
from aiohttp.hdrs import AUTHORIZATION, FORWARDED, X_FORWARDED_FOR

from gateway.access import keys
from gateway.access.guard import Unauthenticated
from gateway.access.principal import Principal, anyone
from gateway.access.settings import Access, Certificate

_NONE = (
    "This needs a credential: send `Authorization: Bearer KEY`. On the gateway's machine the first key is in its data "
    "folder, in carillon.key, and `carillon keys create` makes others."
)
_BAD = "This credential is not known, has expired, or was revoked."
_MANY = "A request has one Authorization field."
_SCHEME = "Authorization is `Bearer` and a key or token (RFC 6750)."
_TWO_TENANTS = "The client certificate is another tenant's than this credential."


class Keys(Protocol):
    """What is asked of `keyring.Keyring`."""

    def remembered(self, field: str) -> Principal | None: ...

    async def holder(self, secret: str, field: str) -> Principal | None: ...


class Tokens(Protocol):
    """What is asked of `tokens.Tokens`."""

    async def bearer(self, token: str) -> Principal | None: ...


class OpenGate:
    """Lets everybody in as the default tenant."""

    def __init__(self) -> None:
        self._anyone = anyone()

    async def admit(self, _request: web.BaseRequest) -> Principal:
        return self._anyone

    async def admit_probe(self, _request: web.BaseRequest) -> Principal | None:
        return self._anyone


class CheckedGate:
    """Lets in who shows a credential that is good."""

    def __init__(self, access: Access, keyring: Keys, tokens: Tokens) -> None:
        self._keyring = keyring
        self._tokens = tokens
        self._certificates = {each.san: _certified(each) for each in access.certificates}
        self._anyone = anyone() if access.open else None
        self._probes = access.probes

    async def admit(self, request: web.BaseRequest) -> Principal:
        """See `guard.Gate`. A credential that is shown is what counts, also where none is asked for."""
        fields = request.headers.getall(AUTHORIZATION, ())
        certified = None
        if self._certificates:
            certified = self._certified(request)
        elif len(fields) == 1 and (known := self._keyring.remembered(fields[0])) is not None:
            return known
        if fields:
            return await self._bearer(fields, certified)
        if certified is not None:
            return certified
        if self._anyone is not None:
            return self._anyone
        raise Unauthenticated(_NONE, presented=False)

    async def admit_probe(self, request: web.BaseRequest) -> Principal | None:
        """Who reads metrics and such; None: nobody who may know more than that this process lives.

        Raises:
            Unauthenticated: a credential was shown, and is no good.
        """
        if AUTHORIZATION in request.headers or (self._certificates and self._certified(request)):
            return await self.admit(request)
        open_to = self._probes == "anyone" or (self._probes == "loopback" and _from_this_machine(request))
        return anyone() if open_to else None

    async def _bearer(self, fields: Sequence[str], certified: Principal | None) -> Principal:
        scheme, _, credential = fields[0].partition(" ")
        if len(fields) > 1 or scheme.lower() != "bearer":
            raise Unauthenticated(_MANY if len(fields) > 1 else _SCHEME, presented=True)
        if credential.startswith(keys.PREFIX):
            principal = await self._keyring.holder(credential, fields[0])
        else:
            principal = await self._tokens.bearer(credential)
        if principal is None:
            raise Unauthenticated(_BAD, presented=True)
        if certified is not None and certified.tenant != principal.tenant:
            raise Unauthenticated(_TWO_TENANTS, presented=True)
        return principal

    def _certified(self, request: web.BaseRequest) -> Principal | None:
        """Whose the connection's certificate is, which TLS has verified."""
        transport = request.transport
        certificate: Mapping[str, Sequence[tuple[str, str]]] | None
        certificate = None if transport is None else transport.get_extra_info("peercert")
        names = certificate.get("subjectAltName", ()) if certificate else ()
        return next((found for kind, name in names if (found := self._certificates.get(f"{kind}:{name}"))), None)


def _certified(certificate: Certificate) -> Principal:
    return Principal(
        certificate.tenant, f"certificate {certificate.san}", frozenset(certificate.scopes), certificate.apps
    )


def _from_this_machine(request: web.BaseRequest) -> bool:
    """Whether the peer is on this machine, and does not speak for somebody elsewhere."""
    if FORWARDED in request.headers or X_FORWARDED_FOR in request.headers or request.remote is None:
        return False
    try:
        return ip_address(request.remote).is_loopback
    except ValueError:
        return False
