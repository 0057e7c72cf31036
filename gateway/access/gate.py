"""Where it is found out who asks."""

from __future__ import annotations

from aiohttp import web

from gateway.access.principal import Principal, anyone


class OpenGate:
    """Lets everybody in as the default tenant: for networks where whoever gets through is trusted."""

    def __init__(self) -> None:
        self._anyone = anyone()

    async def admit(self, _request: web.BaseRequest) -> Principal:
        return self._anyone
