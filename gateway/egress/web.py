"""HTTP/1.1 requests, one answer each, to places that a stranger named, or that the operator did.

No redirect is followed, no proxy is taken from the environment, no answer is unpacked, and only the first bytes of an
answer are kept. To a stranger's place there is no way but through the guard.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.egress.guard import Forbidden, Found, Guard
from providers.hosts import is_public_name

ANSWER = 64 * 1024
"""Bytes of an answer's body that are kept."""

CONNECTIONS_A_HOST = 8

# Visible ASCII only; no userinfo, no fragment, and no backslash, which parsers disagree about.
_PLACE = re.compile(r"(?i:https)://([A-Za-z0-9._-]+?)\.?(?::443)?(?:[/?][!-\x22$-\[\]-~]*)?")
LONGEST_PLACE = 2048


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    """Whose names are in whatever case."""
    body: bytes
    """At most `ANSWER` bytes of it."""


class Unreached(Exception):
    """No answer came; the message says why, without anything of the request or of where it went."""


def check_place(url: str) -> None:
    """Whether a stranger may name a URL: https on port 443, at a host with a name in the public DNS.

    Raises:
        ValueError: saying what is wrong, without the URL.
    """
    match = _PLACE.fullmatch(url)
    if match is None or len(url) > LONGEST_PLACE:
        raise ValueError(
            f"has to be an https:// address on port 443, of at most {LONGEST_PLACE} visible ASCII characters and"
            " without credentials"
        )
    if not is_public_name(match[1].lower()):
        raise ValueError("its host has to have a name in the public DNS")


class Web:
    """Makes requests. To be used as a context manager, on the loop's thread."""

    def __init__(self, guard: Guard | None, *, timeout: float, tls: ssl.SSLContext | None = None) -> None:
        """`guard` is None only for places that the operator's settings name; `timeout` is for a whole request."""
        checked: dict[str, Any] = {}
        if guard is not None:
            # The resolver is not asked about addresses that are written as such; sockets are made for all.
            checked = {
                "resolver": _Resolver(guard),
                "use_dns_cache": False,
                "socket_factory": lambda info: guard.open(Found(*info)),
            }
        self._connector = aiohttp.TCPConnector(
            ssl=tls or ssl.create_default_context(), limit_per_host=CONNECTIONS_A_HOST, **checked
        )
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            timeout=aiohttp.ClientTimeout(total=timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers={"Accept-Encoding": "identity"},
        )

    async def __aenter__(self) -> Web:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def request(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None) -> Reply:
        """One request and its answer, whatever its status; an answer of 3xx is one like any other.

        Raises:
            Unreached: there was none.
        """
        try:
            async with self._session.request(method, url, headers=headers, data=body, allow_redirects=False) as answer:
                return Reply(answer.status, answer.headers, await _first(answer.content))
        except TimeoutError:
            raise Unreached("no answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            cause = getattr(error, "os_error", error)
            # The words of others may hold the address.
            raise Unreached(str(cause) if isinstance(cause, Forbidden) else type(cause).__name__) from None


class _Resolver(AbstractResolver):
    """A guard, as aiohttp asks for addresses."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=found.address[0],
                port=port,
                family=found.family,
                proto=found.protocol,
                flags=0,
            )
            for found in await self._guard.resolved(host, port)
        ]

    async def close(self) -> None:
        """Nothing is kept."""


async def _first(content: aiohttp.StreamReader) -> bytes:
    """The first bytes of a body. What is behind them is not read: its connection is not used again."""
    body = bytearray()
    while len(body) < ANSWER and (data := await content.readany()):
        body += data
    return bytes(body[:ANSWER])
