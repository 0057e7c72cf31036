"""Signed tokens (JWT, RFC 7519 and 8725) of the configured issuers, and what they are good for.

Nothing in a token decides how it is checked: the issuer's one algorithm, its one address of keys, its audience. A token
that was found good is remembered until it expires or the keys change, so that a caller's next request costs a hash.
"""

from __future__ import annotations

import ssl
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import jwt

from gateway.access.jwks import KeySet
from gateway.access.principal import Principal, Scope
from gateway.access.settings import Issuer

LONGEST = 8192
"""Characters of a token."""
LEEWAY = 30.0
"""Seconds by which clocks may differ."""
REMEMBERED = 1024
"""Tokens that were found good."""
NEEDED = ("exp", "iat", "aud", "iss")

_SUBJECT_SHOWN = 64


class _Good(NamedTuple):
    principal: Principal
    expires: float
    """UNIX seconds."""
    keys: KeySet
    generation: int


class Tokens:
    """One worker's knowledge of all issuers.

    Args:
        issuers: by the name in the configuration.
        tenants: those that there are; a token of any other is no good.
    """

    def __init__(self, issuers: Mapping[str, Issuer], tenants: Collection[str]) -> None:
        self._issuers = {each.issuer: (name, each, _key_set(each)) for name, each in issuers.items()}
        self._tenants = frozenset(tenants)
        self._good: OrderedDict[str, _Good] = OrderedDict()

    async def start(self, stack: AsyncExitStack) -> None:
        """Begin to fetch the keys; nothing waits for it, as an issuer that is down must not keep the gateway down."""
        for _, _, keys in self._issuers.values():
            keys.refresh()
            stack.push_async_callback(keys.close)

    async def bearer(self, token: str) -> Principal | None:
        """Who comes with this token; None: it is no good, whatever the reason."""
        if not self._issuers or len(token) > LONGEST:
            return None
        good = self._good.get(token)
        if good is not None and time.time() < good.expires and good.generation == good.keys.generation:
            return good.principal
        self._good.pop(token, None)
        try:
            good = await self._check(token)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            return None
        if good is None:
            return None
        self._good[token] = good
        if len(self._good) > REMEMBERED:
            self._good.popitem(last=False)
        return good.principal

    async def _check(self, token: str) -> _Good | None:
        claimed = jwt.decode_complete(token, options={"verify_signature": False})
        found = self._issuers.get(str(claimed["payload"].get("iss")))
        if found is None or claimed["header"].get("alg") != found[1].algorithm:
            return None
        name, issuer, keys = found
        key = await keys.key(claimed["header"].get("kid"))
        if key is None:
            return None
        claims = jwt.decode(
            token,
            key,
            algorithms=[issuer.algorithm],
            audience=issuer.audience,
            issuer=issuer.issuer,
            leeway=LEEWAY,
            options={"require": list(NEEDED)},
        )
        principal = self._principal(name, issuer, claims)
        return None if principal is None else _Good(principal, claims["exp"] + LEEWAY, keys, keys.generation)

    def _principal(self, name: str, issuer: Issuer, claims: Mapping[str, Any]) -> Principal | None:
        tenant = issuer.tenant if issuer.tenant_claim is None else claims.get(issuer.tenant_claim)
        if tenant not in self._tenants:
            return None
        subject = "".join(c for c in str(claims.get("sub", "")) if c.isprintable())[:_SUBJECT_SHOWN]
        return Principal(tenant, f"{name}: {subject}", _scopes(issuer, claims.get(issuer.scope_claim)))


def _scopes(issuer: Issuer, said: object) -> frozenset[Scope]:
    words = said.split() if isinstance(said, str) else said if isinstance(said, list) else []
    return frozenset(scope for scope, word in issuer.scopes.items() if word in words)


def _key_set(issuer: Issuer) -> KeySet:
    return KeySet(issuer.jwks_url, issuer.algorithm, ssl.create_default_context(cafile=issuer.ca_file))
