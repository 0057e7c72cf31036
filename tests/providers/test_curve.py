"""Key agreement for Web Push: both ways to it say what `cryptography` says from the subscriber's side."""

from __future__ import annotations

import _ssl
import ctypes
import math
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from providers.webpush import curve
from providers.webpush.curve import Agreed, Arithmetic
from tests.providers.material import point

Agree = Callable[[Sequence[bytes]], Agreed]
CURVE = ec.SECP256R1()

within_reach = pytest.mark.skipif(
    not hasattr(_ssl, "__file__") or not ssl.OPENSSL_VERSION.startswith("OpenSSL"),
    reason="this Python has OpenSSL built in, or another library",
)


def library() -> ctypes.PyDLL:
    return ctypes.PyDLL(_ssl.__file__)


@pytest.fixture(params=[pytest.param("direct", marks=within_reach), "objects"])
def agree(request: pytest.FixtureRequest) -> Agree:
    return curve.by_objects if request.param == "objects" else Arithmetic(library()).agree


def shared(subscriber: ec.EllipticCurvePrivateKey, sender: bytes) -> bytes:
    """From the subscriber's side."""
    return subscriber.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(CURVE, sender))


@within_reach
def test_here_the_direct_way_is_taken() -> None:
    """It is what the figures are of."""
    assert curve.agree is not curve.by_objects


def test_subscriber_and_sender_share_the_same(agree: Agree) -> None:
    subscribers = [ec.generate_private_key(CURVE) for _ in range(50)]
    agreed = agree([point(subscriber) for subscriber in subscribers])
    assert agreed.secrets == [
        shared(subscriber, sender) for subscriber, sender in zip(subscribers, agreed.points, strict=True)
    ]
    assert {len(secret) for secret in agreed.secrets} == {32}
    assert agree([]) == Agreed([], [])


def test_each_message_has_a_pair_of_its_own(agree: Agree) -> None:
    agreed = agree([point(ec.generate_private_key(CURVE))] * 100)
    assert len(set(agreed.points)) == len(set(agreed.secrets)) == 100


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\x00",
        bytes(65),
        b"\x04" + bytes(64),
        b"\x04" + b"\xff" * 64,
        point(ec.derive_private_key(7, CURVE))[:-1],
        point(ec.derive_private_key(7, CURVE)) + b"\x00",
        point(ec.derive_private_key(7, CURVE))[:-1] + b"\x00",
        bytes([6 + point(ec.derive_private_key(7, CURVE))[-1] % 2]) + point(ec.derive_private_key(7, CURVE))[1:],
    ],
)
def test_what_is_no_uncompressed_point_is_refused(agree: Agree, bad: bytes) -> None:
    """Section 7 of RFC 8291; a point elsewhere would tell of the private key. And `ssl` is not to find an error."""
    good = point(ec.generate_private_key(CURVE))
    with pytest.raises(ValueError):  # noqa: PT011 - each way has its own words
        agree([good, bad])
    pending = library().ERR_peek_error
    pending.restype = ctypes.c_ulong
    assert pending() == 0


def test_threads_do_not_meet(agree: Agree) -> None:
    subscribers = [ec.generate_private_key(CURVE) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda subscriber: agree([point(subscriber)] * 50), subscribers))
    for subscriber, agreed in zip(subscribers, made, strict=True):
        assert agreed.secrets == [shared(subscriber, sender) for sender in agreed.points]


def test_a_library_that_is_not_openssl_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for other in (ModuleType("_ssl"), math):  # built into the interpreter, or another library
        monkeypatch.setattr(curve, "_ssl", other)
        assert curve._directly() is None


def test_arithmetic_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: Arithmetic, subscribers: Sequence[bytes]) -> Agreed:
        return Agreed([point(ec.generate_private_key(CURVE))], [bytes(32)])

    monkeypatch.setattr(Arithmetic, "agree", wrong)
    assert curve._directly() is None
