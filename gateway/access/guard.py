"""Every route says what it needs: a scope, or that it is there for anybody. One that says nothing is no route."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.access.principal import Principal, Scope

_PRINCIPAL = web.RequestKey("principal", Principal)


class Denied(Exception):
    """A request that is not answered; says what to do about it."""


class Unauthenticated(Denied):
    """Nobody knows who asks."""

    def __init__(self, detail: str, *, presented: bool) -> None:
        super().__init__(detail)
        self.presented = presented
        """Whether there was a credential, which is no good."""


class Forbidden(Denied):
    """It is known who asks, and they may not."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(f"This credential is not good for that: it needs the scope `{scope}`.")
        self.scope = scope


class Gate(Protocol):
    """Tells who asks."""

    async def admit(self, request: web.BaseRequest) -> Principal:
        """Whose credential a request carries.

        Raises:
            Unauthenticated: nobody's.
        """


class Guarded(NamedTuple):
    """A route with what it needs."""

    route: web.RouteDef
    scope: Scope | None
    """None: it is there for anybody."""

    def behind(self, gate: Gate) -> web.RouteDef:
        """The route whose handler runs only for those who may."""
        if self.scope is None:
            return self.route
        method, path, handler, options = self.route.method, self.route.path, self.route.handler, self.route.kwargs
        return web.RouteDef(method, path, _guarding(handler, self.scope, gate), options)


def needs(scope: Scope, *routes: web.RouteDef) -> list[Guarded]:
    """Routes for whoever has a scope."""
    return [Guarded(route, scope) for route in routes]


def for_anybody(*routes: web.RouteDef) -> list[Guarded]:
    """Routes that ask for no credential."""
    return [Guarded(route, None) for route in routes]


def principal(request: web.BaseRequest) -> Principal:
    """Who a request of a guarded route comes from."""
    return request[_PRINCIPAL]


def _guarding(handler: Handler, scope: Scope, gate: Gate) -> Handler:
    async def guarded(request: web.Request) -> web.StreamResponse:
        who = await gate.admit(request)
        if scope not in who.scopes:
            raise Forbidden(scope)
        request[_PRINCIPAL] = who
        return await handler(request)

    return guarded
