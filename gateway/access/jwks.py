"""The public keys of an issuer: fetched from one fixed address, kept, and kept on when it does not answer.

What is fetched may be hostile: it has a size, a time, and keys of one kind, and no token has any say in where from or
how often. A key that a token names and nobody knows leads to a look at most once a minute.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterator

import jwt
import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gateway.egress.web import ANSWER, Unreached, Web

MOST = 32
"""Keys of it that are looked at."""
GAP = 60.0
"""Seconds between two fetches, at least."""
FRESH = 600.0
"""Seconds after which keys are fetched anew, while they go on being good."""
STALE = 86_400.0
"""Seconds after which keys are no longer good that could not be fetched anew."""
TIMEOUT = 5.0
FEWEST_BITS = 2048
"""Of an RSA key."""

_LOG = structlog.get_logger()


class _Set(msgspec.Struct):
    keys: list[dict[str, object]]


class KeySet:
    """One issuer's.

    Args:
        url: an `https` address.
        algorithm: EdDSA, ES256 or RS256.
        trusted: whom to trust for `url`.
        clock: monotonic seconds.
    """

    def __init__(
        self, url: str, algorithm: str, trusted: ssl.SSLContext, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url
        self._algorithm = algorithm
        self._trusted = trusted
        self._clock = clock
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched = self._tried = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self.generation = 0
        """Counts changes: what was verified with former keys has to be verified again."""

    async def key(self, kid: str | None) -> jwt.PyJWK | None:
        """The key of this name; without one, the only key there is."""
        now = self._clock()
        if now - self._fetched > STALE:
            self._keys = {}
        found = self._find(kid)
        if found is None:
            await self._fetch_soon()
            return self._find(kid)
        if now - self._fetched > FRESH:
            self.refresh()
        return found

    def refresh(self) -> None:
        """Fetch in the background, unless that was just done."""
        if self._fetching is None and self._clock() - self._tried >= GAP:
            self._tried = self._clock()
            self._fetching = asyncio.ensure_future(self._fetch())
            self._fetching.add_done_callback(self._forget)

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    async def _fetch_soon(self) -> None:
        self.refresh()
        if self._fetching is not None:
            await asyncio.wait([self._fetching])

    def _forget(self, _task: asyncio.Task[None]) -> None:
        self._fetching = None

    def _find(self, kid: str | None) -> jwt.PyJWK | None:
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid)

    async def _fetch(self) -> None:
        try:
            text = await self._get()
            found = dict(self._usable(msgspec.json.decode(text, type=_Set)))
        except (Unreached, ValueError, RecursionError) as error:
            _LOG.warning("jwks.not_fetched", url=self._url, reason=str(error))
            return
        if not found:
            _LOG.warning("jwks.not_fetched", url=self._url, reason=f"no key in it is good for {self._algorithm}")
            return
        if found.keys() != self._keys.keys() or any(found[k].key != self._keys[k].key for k in found):
            self.generation += 1
        self._keys, self._fetched = found, self._clock()

    async def _get(self) -> bytes:
        async with Web(None, timeout=TIMEOUT, tls=self._trusted) as web:
            reply = await web.request("GET", self._url, headers={})
        if reply.status != 200:
            raise ValueError(f"status {reply.status}")
        if len(reply.body) == ANSWER:  # the rest of it, if there is any, was not kept
            raise ValueError(f"not shorter than {ANSWER} bytes")
        return reply.body

    def _usable(self, found: _Set) -> Iterator[tuple[str | None, jwt.PyJWK]]:
        """The keys of this issuer's kind; others may stand beside them."""
        for each in found.keys[:MOST]:
            if each.get("use", "sig") != "sig" or each.get("alg", self._algorithm) != self._algorithm:
                continue
            kid = each.get("kid")
            try:
                key = jwt.PyJWK(each, self._algorithm)
            except (jwt.PyJWTError, ValueError, TypeError):
                continue
            if _fits(key.key, self._algorithm) and (kid is None or isinstance(kid, str)):
                yield kid, key


def _fits(key: object, algorithm: str) -> bool:
    match algorithm:
        case "EdDSA":
            return isinstance(key, ed25519.Ed25519PublicKey)
        case "ES256":
            return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
        case _:
            return isinstance(key, rsa.RSAPublicKey) and key.key_size >= FEWEST_BITS
