"""Who signs for a route, and what changes with that: its connections, and those of a second credential."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from gateway.credentials.store import CredentialStore, Signing
from gateway.dispatch.exit import Exit
from gateway.dispatch.quarantine import Quarantine
from gateway.dispatch.sender import Sender
from gateway.http2.connection import Source
from gateway.http2.pool import Pool
from gateway.model import Route

FORMER_DEADLINE = 20.0
"""Seconds for what is on a former credential's connections to be answered when they are closed."""


class OpenPool(Protocol):
    """Opens a pool of a sender's for a credential; `limit` is that of the settings unless it is given."""

    def __call__(self, sender: Sender, signing: Signing, source: Source, limit: int | None = None) -> Pool: ...


class Signers:
    """Has each sender sign with what the store says."""

    def __init__(
        self, credentials: CredentialStore, open_pool: OpenPool, spawn: Callable[[Coroutine[Any, Any, None]], None]
    ) -> None:
        self._credentials = credentials
        self._open_pool = open_pool
        self._spawn = spawn

    def of(self, route: Route) -> Signing | None:
        """Who signs for a route: for targets that are bound to a credential, that one."""
        line = self._credentials.line(route.app, route.provider)
        if line is None:
            return None
        return line.pairs.get(route.pair) if route.pair else line.first

    def equip(self, sender: Sender) -> None:
        """Give a new sender its connections."""
        sender.pool = self._open_pool(sender, sender.signing, sender)
        self._set_exit(sender)
        self._set_quarantine(sender)

    def follow(self, sender: Sender) -> None:
        """Others sign from now on, or another share."""
        signing = self.of(sender.route)
        if signing is not None and signing is not sender.signing:
            self._change(sender, signing)
        self._set_exit(sender)
        sender.wake()

    def _change(self, sender: Sender, signing: Signing) -> None:
        """Have another credential sign at once. What is on the wire is answered on its own connections, which stay
        beside until the store forgets their credential."""
        ready = sender.exit
        if ready is None or ready.signing is not signing:
            if ready is not None:
                self._spawn(ready.close(FORMER_DEADLINE))
            ready = self._exit(sender, signing)
        pool = ready.change(sender.signing, sender.pool)
        ready.pool.serve(ready, ready)
        pool.serve(sender, sender)
        sender.pool, sender.exit = pool, ready
        sender.sign_with(signing)
        sender.breaker.forgive()
        self._spawn(sender.quarantine.close(FORMER_DEADLINE))
        self._set_quarantine(sender)

    def _set_exit(self, sender: Sender) -> None:
        """The second credential that the store names has its own way out, and no other has."""
        line = self._credentials.line(sender.route.app, sender.route.provider)
        second = line.second if line is not None and line.first is sender.signing else None
        if sender.exit is not None and sender.exit.signing is not second:
            self._spawn(sender.exit.close(FORMER_DEADLINE))
            sender.exit = None
        if sender.exit is None and second is not None:
            sender.exit = self._exit(sender, second)

    def _exit(self, sender: Sender, signing: Signing) -> Exit:
        opened = Exit(sender, signing)
        opened.pool = self._open_pool(sender, signing, opened)
        return opened

    def _set_quarantine(self, sender: Sender) -> None:
        signing = sender.signing
        sender.quarantine = Quarantine(sender, lambda source: self._open_pool(sender, signing, source, 1))
