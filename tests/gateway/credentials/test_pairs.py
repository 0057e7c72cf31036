"""Which VAPID key signs for a subscription."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from gateway.credentials.pairs import UNKNOWN, bind
from gateway.credentials.store import Line, Signing
from providers.base import Recipient, Subscription
from providers.webpush.auth import Vapid


def signing(promoted: float) -> Signing:
    made = Signing("shop/webpush", Vapid(ec.generate_private_key(ec.SECP256R1()), subject="mailto:a@example.com"))
    made.promoted = promoted
    return made


OLD, NEW, NEWEST = signing(100.0), signing(200.0), signing(300.0)
LINE = Line(OLD, None, {each.credential.fingerprint: each for each in (OLD, NEW, NEWEST)})


def bound(line: Line, key: str | None = None, registered: bytes = b"") -> Any:
    subscription = Subscription("https://push.example/1", {}, applicationServerKey=key)
    found = bind(line, [Recipient(id="u", provider="webpush", subscription=subscription)], [registered])
    return found.refused.get(0) or found.pairs.get(0)


def test_a_subscription_goes_by_the_key_that_it_names() -> None:
    assert bound(LINE, OLD.credential.key_id) is None
    assert bound(LINE, NEW.credential.key_id) == NEW.credential.fingerprint
    assert bound(LINE, NEW.credential.key_id + "=", b"150.0") == NEW.credential.fingerprint
    assert bound(LINE, signing(0.0).credential.key_id) == UNKNOWN


def test_without_it_by_when_it_was_registered() -> None:
    """And without that, by the oldest key: it is the one that subscriptions of before any rotation have."""
    assert bound(LINE) is None
    assert bound(LINE, registered=b"50.0") is None
    assert bound(LINE, registered=b"199.9") is None
    assert bound(LINE, registered=b"200.0") == NEW.credential.fingerprint
    assert bound(LINE, registered=b"1000.0") == NEWEST.credential.fingerprint


def test_an_app_with_one_key_knows_its_own() -> None:
    alone = Line(OLD)
    assert bound(alone) is None
    assert bound(alone, registered=b"1000.0") is None
    assert bound(alone, OLD.credential.key_id) is None
    assert bound(alone, NEW.credential.key_id) == UNKNOWN
