"""The Web Push simulator: VAPID, RFC 8291's encryption as its user agent reads it, and each service's manners."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bench.simulators import Credentials, Rule, Script, Simulator, targets
from bench.simulators.subscriptions import Factory, Secrets, Undecryptable

from .conftest import Connect, Start
from .simulators_client import Client, Response, b64


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def raw(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def derive(salt: bytes, key: bytes, info: bytes, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt, info).derive(key)


def encrypt(subscription: dict[str, Any], text: bytes, *, delimiter: bytes = b"\2", rs: int = 4096) -> bytes:
    """RFC 8291 by the book, on the library's HKDF: independent of the simulator's own."""
    receiver, auth = unb64(subscription["keys"]["p256dh"]), unb64(subscription["keys"]["auth"])
    sender, salt = ec.generate_private_key(ec.SECP256R1()), os.urandom(16)
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), receiver)
    public = raw(sender.public_key())
    info = b"WebPush: info\0" + receiver + public
    key = derive(auth, sender.exchange(ec.ECDH(), point), info, 32)
    cek = derive(salt, key, b"Content-Encoding: aes128gcm\0", 16)
    nonce = derive(salt, key, b"Content-Encoding: nonce\0", 12)
    record = AESGCM(cek).encrypt(nonce, text + delimiter, None)
    return salt + rs.to_bytes(4, "big") + b"\x41" + public + record


def vapid(key_file: Path, audience: str, **changes: Any) -> str:
    key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    claims = {"aud": audience, "exp": int(time.time()) + 3600, "sub": "mailto:push@example.com"} | changes
    token = jwt.encode({name: value for name, value in claims.items() if value is not None}, key, algorithm="ES256")
    return f"vapid t={token}, k={b64(raw(key.public_key()))}"


def subscribe(simulator: Simulator, name: str = "") -> dict[str, Any]:
    [member] = targets("webpush", 1, name=name, endpoints=simulator.endpoints)
    return json.loads(b"{" + member + b"}")["subscription"]


def path(subscription: dict[str, Any]) -> str:
    return "/" + subscription["endpoint"].split("/", 3)[3]


class Pusher:
    """A client that signs for a simulator."""

    def __init__(self, client: Client, simulator: Simulator, key_file: Path) -> None:
        self.client = client
        self.origin = simulator.endpoints[0]
        self.key_file = key_file

    async def push(self, subscription: dict[str, Any], body: bytes | None = None, **changes: str | None) -> Response:
        headers = {
            "authorization": vapid(self.key_file, self.origin),
            "content-encoding": "aes128gcm",
            "ttl": "60",
            "urgency": "high",
        } | {name.replace("_", "-"): value for name, value in changes.items()}
        fields = {name: value for name, value in headers.items() if value is not None}
        body = encrypt(subscription, b"hello") if body is None else body
        return await self.client.request(path(subscription), fields, body)


@pytest.fixture(params=["strict", "quick"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pusher(simulate: Start, connect: Connect, credentials: Credentials) -> Any:
    async def make(**options: Any) -> tuple[Simulator, Pusher]:
        simulator = await simulate("webpush", **options)
        return simulator, Pusher(await connect(simulator), simulator, credentials.vapid_key_file)

    return make


async def test_accepts_and_decrypts(mode: str, pusher: Any) -> None:
    """A message is created with its own Location, and the user agent reads what was said."""
    simulator, push = await pusher(mode=mode)
    subscription = subscribe(simulator)
    answers = [await push.push(subscription) for _ in range(2)]
    assert [answer.status for answer in answers] == [201, 201]
    assert len({answer.headers["location"] for answer in answers}) == 2
    assert answers[0].headers["location"].startswith(simulator.endpoints[0])
    assert answers[0].headers["ttl"] == "60"
    assert simulator.journal.accepted() == {path(subscription): 2}
    assert list(simulator.service.messages) == [(path(subscription), b"hello")] * 2
    assert (simulator.stats()["decrypted"], simulator.stats().get("undecryptable", 0)) == (2, 0)


async def test_tells_what_does_not_decrypt(pusher: Any) -> None:
    """A body for somebody else is accepted, as a real service cannot know, and counted."""
    simulator, push = await pusher()
    mine, other = subscribe(simulator), subscribe(simulator, "other-")
    assert (await push.push(mine, encrypt(other, b"x"))).status == 201
    assert (await push.push(mine, encrypt(mine, b"x", delimiter=b"\1"))).status == 201
    assert simulator.stats()["undecryptable"] == 2


async def test_tells_reused_salts(pusher: Any) -> None:
    """The same key and salt for two bodies must not be (RFC 8188, section 2.1)."""
    simulator, push = await pusher()
    subscription = subscribe(simulator)
    body = encrypt(subscription, b"x")
    for _ in range(2):
        await push.push(subscription, body)
    assert simulator.stats()["salt_reused"] == 1


async def test_decrypts_one_of_so_many(pusher: Any) -> None:
    """Decryption costs an ECDH, so big runs sample."""
    simulator, push = await pusher(decrypt_every=3)
    subscription = subscribe(simulator)
    for _ in range(7):
        await push.push(subscription)
    assert simulator.stats()["decrypted"] == 2


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"authorization": None}, 401),
        ({"authorization": "vapid t=a.b.c, k=AAAA"}, 403),
        ({"ttl": None}, 400),
        ({"ttl": "-1"}, 400),
        ({"ttl": "soon"}, 400),
        ({"urgency": "extreme"}, 400),
        ({"topic": "x" * 33}, 400),
        ({"topic": "no spaces"}, 400),
        ({"content_encoding": "aesgcm"}, 400),
        ({"topic": "x" * 32, "ttl": "0", "urgency": None}, 201),
    ],
)
async def test_checks_headers(pusher: Any, changes: dict[str, str | None], status: int) -> None:
    """TTL, Urgency, Topic, Content-Encoding and Authorization as RFC 8030, 8188 and 8292 want them."""
    simulator, push = await pusher()
    assert (await push.push(subscribe(simulator), **changes)).status == status


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "https://elsewhere.example"},
        {"exp": int(time.time()) + 90_000},
        {"exp": int(time.time()) - 1},
        {"exp": "3600"},
        {"sub": "push@example.com"},
        {"sub": "mailto:me@localhost"},
    ],
)
async def test_checks_vapid_claims(pusher: Any, changes: dict[str, Any]) -> None:
    """The audience is the origin, the expiry a number within 24 hours, the subject a contact."""
    simulator, push = await pusher()
    authorization = vapid(push.key_file, push.origin, **changes)
    assert (await push.push(subscribe(simulator), authorization=authorization)).status == 403


async def test_subscriptions_are_bound_to_a_key(pusher: Any, credentials: Credentials) -> None:
    """Another application server's key is refused, and so is the VAPID key as the sender's."""
    simulator, push = await pusher()
    foreign = vapid(credentials.apns_key_file, push.origin)
    assert (await push.push(subscribe(simulator), authorization=foreign)).status == 403
    body = encrypt(subscribe(simulator), b"x")
    reused = body[:21] + raw(credentials.vapid_key) + body[86:]
    assert (await push.push(subscribe(simulator), reused)).status == 400


async def test_limits_bodies(pusher: Any) -> None:
    """3,993 bytes of text make the 4,096 bytes that every service takes; one more is too large."""
    simulator, push = await pusher()
    subscription = subscribe(simulator)
    assert (await push.push(subscription, encrypt(subscription, b"x" * 3993))).status == 201
    assert (await push.push(subscription, encrypt(subscription, b"x" * 3994))).status == 413


async def test_unknown_subscriptions(pusher: Any) -> None:
    """A path that the factory never made is unknown."""
    simulator, push = await pusher()
    subscription = subscribe(simulator)
    subscription["endpoint"] = subscription["endpoint"][:-1] + "x"
    assert (await push.push(subscription)).status == 404


async def test_empty_pushes_need_no_encryption(pusher: Any) -> None:
    """TTL and VAPID are enough for a push without a body."""
    simulator, push = await pusher()
    assert (await push.push(subscribe(simulator), b"", content_encoding=None)).status == 201


async def test_every_origin_is_its_own(simulate: Start, connect: Connect, credentials: Credentials) -> None:
    """Several origins listen on several ports; a token for one is not good for another."""
    simulator = await simulate("webpush", origins=2)
    first, second = simulator.endpoints
    subscription = subscribe(simulator)
    push = Pusher(await connect(simulator.ports[1]), simulator, credentials.vapid_key_file)
    assert (await push.push(subscription)).status == 403
    push.origin = second
    assert (await push.push(subscription)).status == 201
    assert first != second


@pytest.mark.parametrize(
    ("profile", "name", "status", "said"),
    [
        ("rfc", "unreg-", 410, "gone"),
        ("rfc", "quota-", 429, "too many"),
        ("fcm", "unreg-", 410, "unsubscribed"),
        ("mozilla", "unreg-", 410, '"errno":106'),
        ("mozilla", "unavail-", 503, '"errno":201'),
        ("apple", "quota-", 429, "TooManyRequests"),
        ("apple", "mismatch-", 400, "VapidPkHashMismatch"),
        ("wns", "quota-", 406, ""),
    ],
)
async def test_profiles(pusher: Any, profile: str, name: str, status: int, said: str) -> None:
    """Each service has its own statuses and its own shape of errors."""
    simulator, push = await pusher(profile=profile)
    answer = await push.push(subscribe(simulator, name), x_wns_cache_policy="cache")
    assert answer.status == status
    assert said in answer.body.decode()
    if status in (406, 429) or (profile == "mozilla" and status == 503):
        assert int(answer.headers["retry-after"]) > 0
    if profile == "wns":
        assert answer.headers["x-wns-error-description"]


async def test_manners_of_profiles(pusher: Any) -> None:
    """Apple wants a positive TTL and decodable topics; WNS wants its cache policy to agree with the TTL."""
    simulator, push = await pusher(profile="apple")
    subscription = subscribe(simulator)
    assert (await push.push(subscription, ttl="0")).json == {"reason": "BadTtl"}
    assert (await push.push(subscription, topic="x" * 13)).json == {"reason": "BadWebPushTopic"}
    assert (await push.push(subscription)).headers["apns-id"]
    simulator, push = await pusher(profile="wns")
    subscription = subscribe(simulator)
    conflict = await push.push(subscription, ttl="0", x_wns_cache_policy="cache")
    assert conflict.headers["x-wns-error-description"] == "Ttl value conflicts with X-WNS-Cache-Policy"
    assert (await push.push(subscription, ttl="0", x_wns_cache_policy="no-cache")).status == 201


async def test_scripts_go_by_what_follows_the_path(pusher: Any) -> None:
    """A rule's prefix is that of the path's last part."""
    simulator, push = await pusher(script=Script((Rule(prefix="vip-", answer="unavailable", retry_after=7),)))
    answer = await push.push(subscribe(simulator, "vip-"))
    assert (answer.status, answer.headers["retry-after"]) == (503, "7")
    assert (await push.push(subscribe(simulator))).status == 201


def test_reads_the_example_of_the_rfc() -> None:
    """RFC 8291, section 5: the receiver's key and secret open the printed body."""
    factory = Factory()
    private = int.from_bytes(unb64("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"), "big")
    key = ec.derive_private_key(private, ec.SECP256R1())
    factory.__dict__["_private_keys"] = [key]
    factory.__dict__["_public_keys"] = [raw(key.public_key())]
    body = unb64(
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBr"
        "u3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
    )
    plain = factory.decrypt(Secrets(0, unb64("BTBZMqHH6r4Tts7J_aSIgg")), body)
    assert (plain.text, plain.padding) == (b"When I grow up, I want to be a watermelon", 0)


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [(20, b"\x21", "65 bytes"), (21, b"\x05", "65 bytes"), (16, b"\0\0\0\x11", "record"), (40, b"\0\0", "curve")],
)
def test_a_user_agent_is_strict(place: int, value: bytes, why: str) -> None:
    """Key id, point and record size have to be exact (RFC 8291, section 4)."""
    factory = Factory()
    subscription = json.loads(factory.document("https://127.0.0.1", "a"))
    secrets = factory.secrets(path(subscription).removeprefix("/push/v1/").encode())
    assert secrets is not None
    body = encrypt(subscription, b"x")
    assert factory.decrypt(secrets, body).text == b"x"
    with pytest.raises(Undecryptable, match=why):
        factory.decrypt(secrets, body[:place] + value + body[place + len(value) :])
