"""A fresh key pair on P-256 for each message, and what it shares with the subscriber's (RFC 8291, section 3.1).

`cryptography` makes an object of each key, and OpenSSL turns each into a form of its own when it is first used. For
keys that are used once that is a quarter of all work: 84 us a message, of which OpenSSL's arithmetic is 60. So the
arithmetic is asked directly, in the library that Python's own `ssl` has loaded: 64 us. Keys are drawn and multiplied by
the calls that `EC_KEY_generate_key` and `ECDH_compute_key` make; what OpenSSL promises of their timing holds. Where
that library cannot be reached, as in a Python that has it built in, `cryptography` does it all.

What a multiplication gives is a fraction, whose denominator OpenSSL inverts when it is asked for coordinates: 4 us,
twice a message. One inversion does for all points of a slice (Montgomery's trick): 60 us a message in slices of 24, 63
of 4, and 12 us more for one that is alone. OpenSSL's own calls do it, whose inversion takes constant time (Fermat's
theorem). They are deprecated and not gone; where they are, `cryptography` does it all.

https://docs.openssl.org/3.0/man3/EC_POINT_add/
"""

from __future__ import annotations

import _ssl
import ctypes
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from providers.keys import point

CURVE: Final = ec.SECP256R1()
_ECDH: Final = ec.ECDH()

_P256: Final = 415
"""`NID_X9_62_prime256v1`."""
_UNCOMPRESSED: Final = 4
_COORDINATE: Final = 32
_POINT: Final = 1 + 2 * _COORDINATE
"""Bytes of an uncompressed point: 0x04, x, y."""

_POINTER, _INT, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
_FUNCTIONS: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "BN_CTX_free": (None, (_POINTER,)),
    "BN_CTX_secure_new": (_POINTER, ()),
    "BN_bn2binpad": (_INT, (_POINTER, _POINTER, _INT)),
    "BN_clear_free": (None, (_POINTER,)),
    "BN_is_zero": (_INT, (_POINTER,)),
    "BN_priv_rand_range": (_INT, (_POINTER, _POINTER)),
    "BN_secure_new": (_POINTER, ()),
    "EC_GROUP_get0_order": (_POINTER, (_POINTER,)),
    "EC_GROUP_new_by_curve_name": (_POINTER, (_INT,)),
    "EC_POINTs_make_affine": (_INT, (_POINTER, _SIZE, _POINTER, _POINTER)),
    "EC_POINT_clear_free": (None, (_POINTER,)),
    "EC_POINT_get_Jprojective_coordinates_GFp": (_INT, (_POINTER,) * 6),
    "EC_POINT_mul": (_INT, (_POINTER,) * 6),
    "EC_POINT_new": (_POINTER, (_POINTER,)),
    "EC_POINT_oct2point": (_INT, (_POINTER, _POINTER, ctypes.c_char_p, _SIZE, _POINTER)),
    "ERR_clear_error": (None, ()),
}
"""What each returns and takes."""


class Agreed(NamedTuple):
    """As columns, a message each."""

    points: list[bytes]
    """The public key of the pair made for it, 65 bytes."""
    secrets: list[bytes]
    """What that pair and the subscriber's share, 32 bytes."""


class Arithmetic:
    """OpenSSL's, in a library that is loaded. May be called from any thread: what a call works with is its own."""

    def __init__(self, library: ctypes.PyDLL) -> None:
        """`library` holds on to the interpreter's lock in its calls, each of which is over in 50 us.

        Raises:
            AttributeError: it is not OpenSSL.
        """
        functions = {name: getattr(library, name) for name in _FUNCTIONS}
        for name, (returned, taken) in _FUNCTIONS.items():
            functions[name].restype, functions[name].argtypes = returned, taken
        self._free_context, self._new_context = functions["BN_CTX_free"], functions["BN_CTX_secure_new"]
        self._free_number, self._new_number = functions["BN_clear_free"], functions["BN_secure_new"]
        self._free_point, self._new_point = functions["EC_POINT_clear_free"], functions["EC_POINT_new"]
        self._is_zero, self._draw = functions["BN_is_zero"], functions["BN_priv_rand_range"]
        self._multiply = functions["EC_POINT_mul"]
        self._read, self._write = functions["EC_POINT_oct2point"], functions["BN_bn2binpad"]
        self._make_affine = functions["EC_POINTs_make_affine"]
        self._coordinates = functions["EC_POINT_get_Jprojective_coordinates_GFp"]
        self._clear_error = functions["ERR_clear_error"]
        self._group = functions["EC_GROUP_new_by_curve_name"](_P256)
        self._order = functions["EC_GROUP_get0_order"](self._group) if self._group else None

    def agree(self, subscribers: Sequence[bytes]) -> Agreed:
        """As `agree`."""
        context = self._new_context()
        private, x, y = numbers = [self._new_number() for _ in range(3)]
        peer, *made = points = [self._new_point(self._group) for _ in range(1 + 2 * len(subscribers))]
        try:
            if not (context and all(numbers) and all(points) and self._order):
                raise MemoryError("OpenSSL gives no memory")
            publics, products = made[::2], made[1::2]
            for subscriber, public, product in zip(subscribers, publics, products, strict=True):
                self._pair(public, private, context)
                self._multiply_peer(product, private, subscriber, peer, context)
            if not self._make_affine(self._group, len(made), (_POINTER * len(made))(*made), context):
                raise self._failed("OpenSSL inverts no denominator")
            points_of = [b"\x04" + both for both in self._written(publics, (x, y), context)]
            return Agreed(points_of, self._written(products, (x,), context))
        finally:
            for number in numbers:
                self._free_number(number)
            for each in points:
                self._free_point(each)
            self._free_context(context)

    def _pair(self, public: int, private: int, context: int) -> None:
        if not self._draw(private, self._order) or self._is_zero(private):
            raise self._failed("OpenSSL draws no key")
        if not self._multiply(self._group, public, private, None, None, context):
            raise self._failed("OpenSSL makes no key pair")

    def _multiply_peer(self, product: int, private: int, subscriber: bytes, peer: int, context: int) -> None:
        group = self._group
        uncompressed = len(subscriber) == _POINT and subscriber[0] == _UNCOMPRESSED
        if not uncompressed or not self._read(group, peer, subscriber, _POINT, context):  # it looks for the curve too
            raise self._failed("a subscriber's key is no point on the curve")
        if not self._multiply(group, product, None, peer, private, context):
            raise self._failed("OpenSSL multiplies no point")

    def _written(self, points: Sequence[int], numbers: tuple[int, ...], context: int) -> list[bytes]:
        """Of points whose denominator is 1 the x, or x and y, by way of so many numbers.

        None of them is at infinity: the curve's order is prime, and a private key no multiple of it.
        """
        x, y = (*numbers, None)[:2]
        buffer = ctypes.create_string_buffer(_COORDINATE * len(numbers))
        places = [(number, ctypes.byref(buffer, _COORDINATE * place)) for place, number in enumerate(numbers)]
        written = []
        for each in points:
            if not self._coordinates(self._group, each, x, y, None, context):
                raise self._failed("OpenSSL tells no coordinates")
            for number, place in places:
                if self._write(number, place, _COORDINATE) != _COORDINATE:
                    raise self._failed("OpenSSL writes no coordinates")
            written.append(buffer.raw)
        return written

    def _failed(self, why: str) -> ValueError:
        """Leaves no error behind: `ssl` would take it for one of its own."""
        self._clear_error()
        return ValueError(why)


def by_objects(subscribers: Sequence[bytes]) -> Agreed:
    """As `agree`, by `cryptography`.

    Step by step over all of them rather than message by message: OpenSSL's tables for key generation, 150 KB, then stay
    in the processor's cache; 7 % less for a dozen messages.
    """
    senders = [ec.generate_private_key(CURVE) for _ in subscribers]
    points = [point(sender.public_key()) for sender in senders]
    peers = [ec.EllipticCurvePublicKey.from_encoded_point(CURVE, key) for key in subscribers]
    return Agreed(points, [sender.exchange(_ECDH, peer) for sender, peer in zip(senders, peers, strict=True)])


def _directly() -> Callable[[Sequence[bytes]], Agreed] | None:
    """By arithmetic alone, where it can be reached and is seen to say what `cryptography` says."""
    try:
        arithmetic = Arithmetic(ctypes.PyDLL(_ssl.__file__))
        subscriber = ec.generate_private_key(CURVE)
        ((sender,), (secret,)) = arithmetic.agree([point(subscriber.public_key())])
        known = subscriber.exchange(_ECDH, ec.EllipticCurvePublicKey.from_encoded_point(CURVE, sender))
    except (AttributeError, OSError, ValueError, MemoryError):
        return None
    return arithmetic.agree if secret == known else None


agree: Final = _directly() or by_objects
"""A fresh key pair for each of these subscribers' public keys, and what both share.

Raises:
    ValueError: a key is no uncompressed point on the curve.
"""
