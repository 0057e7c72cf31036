"""Web Push: encryption by the RFCs' own examples, subscriptions, VAPID, headers and answers."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from providers.base import Alike, Message, Outcome, Plan, Recipient, Rendered, Scope, Subscription, Terms, Verdict
from providers.webpush import auth, provider, response
from providers.webpush.encryption import LONGEST_BODY, LONGEST_PLAINTEXT, encrypt, seal
from providers.webpush.response import Service
from providers.webpush.settings import WebPushSettings
from tests.providers import material
from tests.providers.hostile_endpoints import NEVER, NOT_LISTED
from tests.providers.material import EC_KEY, NOW, b64, delivery_id, pem, point, unb64, written

# What a browser does, written from RFC 8291 and 8188 alone


def expand(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256 for outputs of up to 32 bytes (RFC 5869)."""
    extracted = hmac.new(salt, key, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()[:length]


def open_records(body: bytes, key_material: bytes) -> bytes:
    """RFC 8188, sections 2 and 2.1, for a body of one record."""
    salt, size, id_length = body[:16], int.from_bytes(body[16:20], "big"), body[20]
    record = body[21 + id_length :]
    assert size >= 18
    assert len(record) <= size
    content_key = expand(key_material, salt, b"Content-Encoding: aes128gcm\0", 16)
    nonce = expand(key_material, salt, b"Content-Encoding: nonce\0", 12)
    padded = AESGCM(content_key).decrypt(nonce, record, None)
    text, delimiter, zeros = padded.rpartition(b"\x02")
    assert delimiter
    assert not zeros.strip(b"\0")
    return text


def decrypt(body: bytes, private: ec.EllipticCurvePrivateKey, secret: bytes) -> bytes:
    """RFC 8291, section 3.4, from the side of the user agent."""
    assert body[20] == 65
    assert int.from_bytes(body[16:20], "big") > len(body) - 86
    sender = body[21:86]
    shared = private.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sender))
    return open_records(body, expand(shared, secret, b"WebPush: info\0" + point(private) + sender, 32))


def private_key(scalar: str) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(unb64(scalar), "big"), ec.SECP256R1())


# RFC 8291, section 5 and appendix A
PLAINTEXT = b"When I grow up, I want to be a watermelon"
SENDER = private_key("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw")
RECEIVER = private_key("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94")
RECEIVER_POINT = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
SALT, SECRET = unb64("DGv6ra1nlYgDCS1FRnbzlw"), unb64("BTBZMqHH6r4Tts7J_aSIgg")
BODY = (
    "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95b"
    "Qpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
)


def test_rfc_8291_section_5() -> None:
    """The example of the RFC, byte for byte."""
    assert point(RECEIVER) == unb64(RECEIVER_POINT)
    shared = SENDER.exchange(ec.ECDH(), RECEIVER.public_key())
    body = seal(PLAINTEXT, unb64(RECEIVER_POINT), SECRET, point(SENDER), shared, SALT)
    assert b64(body) == BODY
    assert len(body) == 144
    assert hashlib.sha256(body).hexdigest() == "f976e174457c5111a0b05234e648bc012cb1e2b37949afce4d7b1e84752953c7"
    assert decrypt(body, RECEIVER, SECRET) == PLAINTEXT


def test_the_decryptor_of_these_tests_reads_the_example_of_rfc_8188() -> None:
    """Section 3.1: so that what it says about our bodies is worth something."""
    body = unb64("I1BsxtFttlv3u_Oo94xnmwAAEAAA-NAVub2qFgBEuQKRapoZu-IxkIva3MEB1PD-ly8Thjg")
    assert len(body) == 53
    assert open_records(body, unb64("yqdlZ-tYemfogSmv7Ws5PQ")) == b"I am the walrus"


@settings(max_examples=50)
@given(st.binary(max_size=LONGEST_PLAINTEXT), st.binary(min_size=16, max_size=16))
def test_what_is_encrypted_can_be_decrypted(plaintext: bytes, secret: bytes) -> None:
    (body,) = encrypt([plaintext], [point(RECEIVER)], [secret])
    assert len(body) == len(plaintext) + 103
    assert decrypt(body, RECEIVER, secret) == plaintext
    with pytest.raises(InvalidTag):
        decrypt(body, RECEIVER, bytes(16) if secret != bytes(16) else b"x" * 16)


def test_each_message_has_a_key_and_salt_of_its_own() -> None:
    made = encrypt([b"same"] * 20, [point(RECEIVER)] * 20, [SECRET] * 20)
    assert len({body[:16] for body in made}) == len({body[21:86] for body in made}) == 20


def test_the_longest_plaintext_makes_the_longest_body() -> None:
    assert LONGEST_PLAINTEXT == 3993
    (body,) = encrypt([b"x" * 3993], [point(RECEIVER)], [SECRET])
    assert len(body) == LONGEST_BODY == 4096


# Subscriptions

SETTINGS = WebPushSettings(
    vapid_key_file="unread.pem",
    subject="mailto:ops@shop.com",
    endpoint="https://localhost:8443",
    endpoints=("https://127.0.0.1:9999",),
)
KEYS = {"p256dh": RECEIVER_POINT, "auth": b64(SECRET)}


def targets(*endpoints: str, keys: dict[str, str] | None = None, settings: WebPushSettings = SETTINGS) -> Any:
    people = [
        Recipient(id="r", provider="webpush", subscription=Subscription(endpoint=endpoint, keys=keys or KEYS))
        for endpoint in endpoints
    ]
    return provider.targets(people, settings)


@pytest.mark.parametrize(
    ("endpoint", "origin", "path"),
    [
        ("https://fcm.googleapis.com/fcm/send/a:b-c", "https://fcm.googleapis.com", b"/fcm/send/a:b-c"),
        ("https://FCM.GoogleApis.com:443/wp/X", "https://fcm.googleapis.com", b"/wp/X"),
        ("https://web.push.apple.com/Q~", "https://web.push.apple.com", b"/Q~"),
        ("https://updates.push.services.mozilla.com./w", "https://updates.push.services.mozilla.com", b"/w"),
        (
            "https://wns2-by3p.notify.windows.com/w/?token=B%2f%2bA%3d%3d",
            "https://wns2-by3p.notify.windows.com",
            b"/w/?token=B%2f%2bA%3d%3d",
        ),
        ("HTTPS://push.apple.com/", "https://push.apple.com", b"/"),
        ("https://localhost:8443/push/1", "https://localhost:8443", b"/push/1"),
        ("https://127.0.0.1:9999/push/1", "https://127.0.0.1:9999", b"/push/1"),
        ("https://fcm.googleapis.com/" + "x" * 4069, "https://fcm.googleapis.com", b"/" + b"x" * 4069),
    ],
)
def test_endpoints_of_known_services_are_kept_byte_for_byte(endpoint: str, origin: str, path: bytes) -> None:
    """Host in lower case, path and query verbatim: WNS tokens carry %2f, and decoding one breaks it."""
    found = targets(endpoint)
    assert found.refused == {}
    assert found.origins == [origin]
    assert found.columns == ([path], [RECEIVER_POINT.encode()], [b64(SECRET).encode()])
    assert provider.registered_keys(origin, found.columns) == [origin.encode() + path]


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://fcm.googleapis.com/x",
        "https://fcm.googleapis.com",
        "https://fcm.googleapis.com?x",
        "https://fcm.googleapis.com:8443/x",
        "https://fcm.googleapis.com:80/x",
        "https://fcm.googleapis.com:/../x:444/",
        "https://user@fcm.googleapis.com/x",
        "https://fcm.googleapis.com@evil.test/x",
        "https://fcm.googleapis.com\\@evil.test/",
        "https://fcm.googleapis.com\\.evil.test/",
        "https://evil.test\\@fcm.googleapis.com/",
        "https://fcm.googleapis.com/x#fragment",
        "https://fcm.googleapis.com/x y",
        "https://fcm.googleapis.com/x\r\nhost: y",
        "https://fcm.googleapis.com/ü",
        "https://fcm.googleapis.com/\\x",
        "https://ｆcm.googleapis.com/x",
        "https://evil.test/fcm.googleapis.com",
        "https://evilfcm.googleapis.com/x",
        "https://xpush.apple.com/x",
        "https://push.apple.com.evil.test/x",
        "https://push.apple.com..evil.test/x",
        "https://.push.apple.com/x",
        "https://apple.com/x",
        "https://com/x",
        "https://localhost/x",
        "https://localhost:8444/x",
        "https://127.0.0.1/x",
        "https://127.1:9999/x",
        "https://2130706433/x",
        "https://0x7f.1/x",
        "https://[::1]/x",
        "https://[::ffff:127.0.0.1]:443/x",
        "https://169.254.169.254/latest",
        "https://permanently-removed.invalid/fcm/send/x",
        "https://fcm.googleapis.com..//x",
        "https:/fcm.googleapis.com/x",
        "https:fcm.googleapis.com/x",
        "//fcm.googleapis.com/x",
        "ftp://fcm.googleapis.com/x",
        " https://fcm.googleapis.com/x",
        "https://fcm.googleapis.com/x\n",
        "https://fcm.googleapis.com/" + "x" * 4070,
        "",
    ],
)
def test_other_endpoints_are_refused_alone_and_not_quoted(endpoint: str) -> None:
    found = targets("https://fcm.googleapis.com/a", endpoint, "https://fcm.googleapis.com/b")
    assert list(found.refused) == [1]
    assert found.origins == ["https://fcm.googleapis.com", "", "https://fcm.googleapis.com"]
    assert found.columns[0] == [b"/a", b"", b"/b"]
    assert "evil" not in found.refused[1]


ANY_PUBLIC = SETTINGS.model_copy(update={"allow_any_public": True})


@pytest.mark.parametrize("endpoint", [*NEVER, *NOT_LISTED])
def test_hostile_endpoints_are_refused(endpoint: str) -> None:
    """More than two hundred of them; where a name leads is asked again when it is connected to."""
    assert list(targets(endpoint).refused) == [0]


@pytest.mark.parametrize("endpoint", NEVER)
def test_hostile_endpoints_are_refused_where_any_public_host_is_allowed(endpoint: str) -> None:
    assert list(targets(endpoint, settings=ANY_PUBLIC).refused) == [0]


def test_there_are_as_many_of_them_as_promised() -> None:
    assert len({*NEVER, *NOT_LISTED}) >= 200


@pytest.mark.parametrize("endpoint", NOT_LISTED)
def test_any_public_host_can_be_allowed(endpoint: str) -> None:
    found = targets(endpoint, settings=ANY_PUBLIC)
    assert found.refused == {}
    assert not ANY_PUBLIC.names(found.origins[0]), "it is a stranger's choice"


def test_the_operators_own_origins_are_told_from_a_strangers() -> None:
    """What the settings name is connected to wherever it is; all else goes by what its address is."""
    found = targets("https://LOCALHOST:8443/x", "https://127.0.0.1:9999/x", "https://fcm.googleapis.com/x")
    assert [SETTINGS.names(origin) for origin in found.origins] == [True, True, False]


def test_removed_subscriptions_are_called_removed() -> None:
    assert "removed" in targets("https://permanently-removed.invalid/x").refused[0]


def test_allowed_hosts_replace_the_browsers_own() -> None:
    own = SETTINGS.model_copy(update={"allowed_hosts": ("push.example.com",)})
    found = targets(
        "https://push.example.com/x", "https://a.push.example.com/x", "https://fcm.googleapis.com/x", settings=own
    )
    assert list(found.refused) == [2]


def test_of_many_keys_the_bad_ones_are_refused_alone() -> None:
    """They are looked at together; none may hide behind its neighbours, or take them along."""
    foreign = {**KEYS, "p256dh": RECEIVER_POINT[:-1] + "A"}
    bad: dict[int, dict[str, str]] = {
        1: {**KEYS, "p256dh": RECEIVER_POINT + "\n" + RECEIVER_POINT},
        2: {**KEYS, "auth": KEYS["auth"][:10] + "\n" + KEYS["auth"][11:]},
        4: {"auth": KEYS["auth"]},
        5: {**KEYS, "p256dh": RECEIVER_POINT[:43] + "\n" + RECEIVER_POINT[44:]},
        7: foreign,
        8: {**KEYS, "auth": KEYS["auth"][:-1] + "ä"},
    }
    people = [
        Recipient(
            id="r",
            provider="webpush",
            subscription=Subscription(endpoint=f"https://fcm.googleapis.com/{position}", keys=bad.get(position, KEYS)),
        )
        for position in range(10)
    ]
    found = provider.targets(people, SETTINGS)
    fields = {position: "auth" if "auth" in reason else "p256dh" for position, reason in found.refused.items()}
    assert fields == {1: "p256dh", 2: "auth", 4: "p256dh", 5: "p256dh", 7: "p256dh", 8: "auth"}
    good = [position for position in range(10) if position not in bad]
    assert [found.columns[0][position] for position in good] == [b"/%d" % position for position in good]
    assert {found.columns[1][position] for position in good} == {RECEIVER_POINT.encode()}
    assert all(column[position] == b"" for column in found.columns for position in bad)
    assert [bool(origin) for origin in found.origins] == [position not in bad for position in range(10)]
    assert provider.targets([], SETTINGS).columns == ([], [], [])


def test_keys_are_canonical_in_the_columns() -> None:
    """Padding and the standard alphabet are tolerated on the way in."""
    padded = {
        "p256dh": base64.b64encode(unb64(RECEIVER_POINT)).decode(),
        "auth": base64.b64encode(SECRET).decode(),
    }
    assert targets("https://fcm.googleapis.com/x", keys=padded).columns[1:] == (
        [RECEIVER_POINT.encode()],
        [b64(SECRET).encode()],
    )


def compressed() -> bytes:
    whole = unb64(RECEIVER_POINT)
    return bytes([2 + whole[64] % 2]) + whole[1:33]


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({}, "p256dh"),
        ({"auth": b64(SECRET)}, "p256dh"),
        ({"p256dh": RECEIVER_POINT}, "auth"),
        ({**KEYS, "p256dh": b64(compressed())}, "p256dh"),
        ({**KEYS, "p256dh": b64(unb64(RECEIVER_POINT)[:64])}, "p256dh"),
        ({**KEYS, "p256dh": b64(b"\x04" + bytes(63) + b"\x01")}, "p256dh"),
        ({**KEYS, "p256dh": b64(b"\x05" + unb64(RECEIVER_POINT)[1:])}, "p256dh"),
        ({**KEYS, "p256dh": RECEIVER_POINT[:40] + "!" + RECEIVER_POINT[41:]}, "p256dh"),
        ({**KEYS, "p256dh": RECEIVER_POINT + "é"}, "p256dh"),
        ({**KEYS, "p256dh": RECEIVER_POINT[:40] + "\n" + RECEIVER_POINT[40:]}, "p256dh"),
        ({**KEYS, "auth": b64(SECRET[:15])}, "auth"),
        ({**KEYS, "auth": b64(SECRET + b"x")}, "auth"),
        ({**KEYS, "auth": ""}, "auth"),
    ],
)
def test_keys_are_checked_to_the_last_bit(keys: dict[str, str], field: str) -> None:
    people = [
        Recipient(
            id="r", provider="webpush", subscription=Subscription(endpoint="https://fcm.googleapis.com/x", keys=keys)
        )
    ]
    assert f"subscription.keys.{field}" in provider.targets(people, SETTINGS).refused[0]


def test_a_token_is_no_subscription() -> None:
    found = provider.targets([Recipient(id="r", provider="webpush", token="t")], SETTINGS)
    assert "subscription" in found.refused[0]
    assert len(found.columns) == provider.target_columns


@pytest.mark.parametrize(
    "subject",
    ["mailto:a@b.co", "mailto:ops+push@mail.shop.example", "https://shop.com", "https://shop.com/contact"],
)
def test_good_subjects(subject: str) -> None:
    assert WebPushSettings(vapid_key_file="k", subject=subject).subject == subject


@pytest.mark.parametrize(
    "subject",
    [
        "ops@shop.com",
        "mailto: ops@shop.com",
        "mailto:mailto:ops@shop.com",
        "mailto:ops@localhost",
        "mailto:ops@shop.local",
        "mailto:ops@127.0.0.1",
        "mailto:@shop.com",
        "http://shop.com",
        "https://localhost",
        "https://localhost:8080/x",
        "",
    ],
)
def test_subjects_that_apple_refuses_fail_at_start(subject: str) -> None:
    with pytest.raises(ValidationError, match="subject"):
        WebPushSettings(vapid_key_file="k", subject=subject)


@pytest.mark.parametrize(
    "wrong", [{"allowed_hosts": ["https://x.com"]}, {"allowed_hosts": ["com"]}, {"endpoints": ["http://x"]}]
)
def test_hosts_and_endpoints_are_checked_at_start(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        WebPushSettings(vapid_key_file="k", subject="mailto:a@b.co", **wrong)


# VAPID

FCM = "https://fcm.googleapis.com"


@pytest.fixture
def vapid() -> auth.Vapid:
    return auth.Vapid(EC_KEY, subject="mailto:ops@shop.com")


def parts(credential: auth.Vapid, origin: str, now: float) -> tuple[str, str]:
    """t and k of the authorization field."""
    found = credential.headers(origin, now)
    assert found is not None
    ((name, value),) = found
    assert name == b"authorization"
    scheme, t, k = value.decode().split(" ")
    assert scheme == "vapid"
    return t.removeprefix("t=").removesuffix(","), k.removeprefix("k=")


def claims(token: str, key: ec.EllipticCurvePublicKey = EC_KEY.public_key()) -> dict[str, Any]:
    options = {"verify_exp": False, "verify_aud": False}
    return jwt.decode(token, key, algorithms=["ES256"], options=options)


def test_rfc_8292_section_2_4_has_the_shape_of_ours(vapid: auth.Vapid) -> None:
    """The RFC's own example verifies with its key, and ours has the same header and claims, and as long a key."""
    k = "BA1Hxzyi1RUM1b5wjxsn7nGxAszw2u61m164i3MrAIxHF6YK5h4SDYic-dRuU_RCPCfA5aq9ojSwk5Y2EmClBPs"
    t = (
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJFUzI1NiJ9.eyJhdWQiOiJodHRwczovL3B1c2guZXhhbXBsZS5uZXQiLCJleHAiOjE0NTM1MjM3NjgsInN1YiI6"
        "Im1haWx0bzpwdXNoQGV4YW1wbGUuY29tIn0.i3CYb7t4xfxCDquptFOepC9GAu_HLGkMlMuCGSK2rpiUfnK9ojFwDXb1JrErtmysazNjjvW2L9OkSS"
        "HzvoD1oA"
    )
    example = claims(t, ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), unb64(k)))
    ours, our_k = parts(vapid, FCM, NOW)
    assert ours.split(".")[0] == t.split(".")[0]
    assert list(claims(ours)) == list(example)
    assert (len(our_k), len(ours.split(".")[2])) == (len(k), len(t.split(".")[2]))
    assert unb64(our_k) == point(EC_KEY)


def test_claims(vapid: auth.Vapid) -> None:
    """aud is the origin, exp a number 12 h ahead."""
    assert claims(parts(vapid, FCM, NOW + 0.5)[0]) == {
        "aud": FCM,
        "exp": int(NOW) + 43200,
        "sub": "mailto:ops@shop.com",
    }


def test_each_origin_has_its_own_and_keeps_it(vapid: auth.Vapid) -> None:
    """One JWT per origin for at least ten hours, and never one with less than an hour left."""
    first = parts(vapid, FCM, NOW)
    assert parts(vapid, "https://web.push.apple.com", NOW)[0] != first[0]
    assert parts(vapid, FCM, NOW + 10 * 3600 - 1) == first
    for hours in range(1, 30):
        assert claims(parts(vapid, FCM, NOW + hours * 3600)[0])["exp"] - (NOW + hours * 3600) >= 3600


def test_renewing_signs_again_once_an_hour_at_most(vapid: auth.Vapid) -> None:
    first = parts(vapid, FCM, NOW)
    vapid.renew(NOW + 3599)
    assert parts(vapid, FCM, NOW + 3599) == first
    vapid.renew(NOW + 3600)
    second = parts(vapid, FCM, NOW + 3600)
    assert second != first
    vapid.renew(NOW + 3700)
    assert parts(vapid, FCM, NOW + 3700) == second


def test_a_clock_that_is_set_back_signs_again(vapid: auth.Vapid) -> None:
    """Otherwise the expiry might be more than 24 h ahead, which services refuse."""
    parts(vapid, FCM, NOW + 10**6)
    assert claims(parts(vapid, FCM, NOW)[0])["exp"] == int(NOW) + 43200


def test_the_cache_is_bounded(vapid: auth.Vapid) -> None:
    """The origin seen first is forgotten and signed anew."""
    first = claims(parts(vapid, FCM, NOW)[0])
    for number in range(auth.MOST_ORIGINS):
        parts(vapid, f"https://{number}.notify.windows.com", NOW)
    assert claims(parts(vapid, FCM, NOW + 10)[0])["exp"] == first["exp"] + 10


@pytest.mark.parametrize("form", ["pem", "base64url"])
def test_the_key_file_may_be_pem_or_32_bytes_in_base64url(tmp_path: Path, form: str) -> None:
    raw = b64(EC_KEY.private_numbers().private_value.to_bytes(32, "big")).encode() + b"\n"
    path = written(tmp_path / "key", pem(EC_KEY) if form == "pem" else raw)
    loaded = provider.credential(SETTINGS.model_copy(update={"vapid_key_file": path}))
    assert isinstance(loaded, auth.Vapid)
    assert unb64(loaded.public_key) == point(EC_KEY)
    assert repr(loaded) == f"<Vapid {loaded.fingerprint}>"


def test_a_wrong_key_file_is_named_and_not_quoted(tmp_path: Path) -> None:
    for contents in (b"SECRET", pem(material.RSA_KEY), b"A" * 43, b"!" * 43):
        path = written(tmp_path / "key", contents)
        with pytest.raises(ValueError, match="vapid_key_file: ") as raised:
            provider.credential(SETTINGS.model_copy(update={"vapid_key_file": path}))
        assert "SECRET" not in str(raised.value)
    with pytest.raises(ValueError, match="vapid_key_file: cannot read"):
        provider.credential(SETTINGS.model_copy(update={"vapid_key_file": str(tmp_path / "none")}))


# Requests

COLUMNS = ([b"/wp/abc"], [RECEIVER_POINT.encode()], [b64(SECRET).encode()])


def compiled(message: Message, terms: Terms = Terms(), origin: str = FCM) -> Plan:
    return provider.compile(message, terms, SETTINGS, origin)


def render(message: Message, terms: Terms = Terms(), now: float = NOW, **variables: Any) -> Rendered:
    return material.bodies(compiled(message, terms), message, COLUMNS, *([variables] if variables else []), now=now)


def shown(message: Message, terms: Terms = Terms(), **variables: Any) -> dict[str, Any]:
    """What the service worker gets."""
    rendered = render(message, terms, **variables)
    assert not rendered.rejected
    return dict(json.loads(decrypt(rendered.bodies[0], RECEIVER, SECRET)))


def all_fields(message: Message, terms: Terms = Terms(), origin: str = FCM, now: float = NOW) -> dict[bytes, bytes]:
    """Every header field of the first request."""
    plan = compiled(message, terms, origin)
    head = plan.head((), now)
    rendered = plan.render(material.rows(message, COLUMNS), now)
    varying = dict(zip(head.varying, (column[0] for column in rendered.fields), strict=True))
    return dict(head.fixed + head.literal) | varying


def test_fields_of_a_plain_push() -> None:
    """One content coding, a positive TTL, and a Topic of 32 characters that is the delivery's own."""
    assert all_fields(Message(title="t")) == {
        b":method": b"POST",
        b":scheme": b"https",
        b":authority": b"fcm.googleapis.com",
        b":path": b"/wp/abc",
        b"content-encoding": b"aes128gcm",
        b"content-type": b"application/octet-stream",
        b"ttl": b"2419200",
        b"topic": delivery_id(0).replace(b"-", b""),
    }


def test_urgency() -> None:
    assert all_fields(Message(title="t"), Terms(transactional=True))[b"urgency"] == b"high"
    low = Message(title="t", webpush={"urgency": "low"})
    assert all_fields(low, Terms(transactional=True))[b"urgency"] == b"low"
    assert "urgency" not in shown(low)


def test_topics_of_a_collapse_key_are_derived() -> None:
    """Always 32 characters of base64url: Apple refuses lengths that cannot be decoded."""
    topics = {all_fields(Message(title="t"), Terms(collapse_key=key))[b"topic"] for key in ("a", "b", "ü" * 50)}
    assert len(topics) == 3
    assert all(len(topic) == 32 and len(base64.urlsafe_b64decode(topic)) == 24 for topic in topics)
    own = Message(title="t", webpush={"topic": "sale"})
    assert all_fields(own, Terms(collapse_key="a"))[b"topic"] == b"sale"


@pytest.mark.parametrize(("left", "ttl"), [(100.9, b"100"), (1.5, b"1"), (0.4, b"1"), (-5, b"1"), (10**8, b"2419200")])
def test_ttl_is_what_is_left_and_never_0_by_accident(left: float, ttl: bytes) -> None:
    assert all_fields(Message(title="t"), Terms(expires_at=NOW + left))[b"ttl"] == ttl


def test_ttl_of_the_message_itself() -> None:
    assert all_fields(Message(title="t", webpush={"ttl": 0}), Terms(expires_at=NOW + 9))[b"ttl"] == b"0"


def test_windows_alone_gets_its_cache_policy() -> None:
    """A policy that contradicts the TTL is refused by WNS, and the field means nothing elsewhere."""
    origin = "https://wns2-by3p.notify.windows.com"
    assert all_fields(Message(title="t"), origin=origin)[b"x-wns-cache-policy"] == b"cache"
    expiring = Terms(expires_at=NOW + 60)
    assert all_fields(Message(title="t"), expiring, origin=origin)[b"x-wns-cache-policy"] == b"cache"
    now_or_never = Message(title="t", webpush={"ttl": 0})
    assert all_fields(now_or_never, origin=origin)[b"x-wns-cache-policy"] == b"no-cache"
    assert b"x-wns-cache-policy" not in all_fields(Message(title="t"), origin="https://notify.windows.com.example.com")


def test_the_payload() -> None:
    message = Message(
        title="{{t}}",
        body="B",
        image="https://i",
        link="https://l",
        data={"k": "{{t}}"},
        webpush={"icon": "https://icon", "data": {"more": 1}, "urgency": "low", "topic": "tt", "ttl": 5},
    )
    assert provider.check(message, Terms(), SETTINGS) == []
    assert shown(message, t='"ü') == {
        "title": '"ü',
        "body": "B",
        "image": "https://i",
        "url": "https://l",
        "data": {"k": '"ü', "more": 1},
        "tag": delivery_id(0).decode(),
        "icon": "https://icon",
    }
    assert shown(Message(title="t"), Terms(collapse_key="sale"))["tag"] == "sale"
    assert shown(Message(title="t", webpush={"tag": "mine"}), Terms(collapse_key="sale"))["tag"] == "mine"


@pytest.mark.parametrize(
    ("message", "pointer"),
    [
        (Message(), "/message"),
        (Message(webpush={"urgency": "low"}), "/message"),
        (Message(title="t", webpush={"urgency": "urgent"}), "/message/webpush/urgency"),
        (Message(title="t", webpush={"urgency": "{{u}}"}), "/message/webpush/urgency"),
        (Message(title="t", webpush={"topic": "x" * 33}), "/message/webpush/topic"),
        (Message(title="t", webpush={"topic": "x" * 13}), "/message/webpush/topic"),
        (Message(title="t", webpush={"topic": "a b"}), "/message/webpush/topic"),
        (Message(title="t", webpush={"topic": ""}), "/message/webpush/topic"),
        (Message(title="t", webpush={"ttl": -1}), "/message/webpush/ttl"),
        (Message(title="t", webpush={"ttl": "60"}), "/message/webpush/ttl"),
        (Message(title="t", webpush={"ttl": True}), "/message/webpush/ttl"),
        (Message(title="t", webpush={"silent": True, "vibrate": [1]}), "/message/webpush/vibrate"),
        (Message(title="t", webpush={"renotify": True, "tag": ""}), "/message/webpush/renotify"),
        (Message(title="{{ a"), "/message/title"),
    ],
)
def test_what_would_be_refused_is_a_problem(message: Message, pointer: str) -> None:
    assert [problem.pointer for problem in provider.check(message, Terms(), SETTINGS)] == [pointer]


@pytest.mark.parametrize("over", [0, 1])
def test_the_payload_limit_at_the_edge(over: int) -> None:
    """3,993 bytes of plaintext make a body of 4,096, which every service takes."""
    frame = len(json.dumps(shown(Message(body="x")), separators=(",", ":"))) - 1
    rendered = render(Message(body="{{v}}"), v="x" * (3993 - frame + over))
    assert list(rendered.rejected) == ([0] if over else [])
    assert over or len(rendered.bodies[0]) == 4096
    constant = Message(body="x" * (3993 - frame + 36 + over))  # the tag's 36 bytes are the delivery's
    assert len(provider.check(constant, Terms(), SETTINGS)) == over


# Answers


def answer(service: Service, status: int, body: bytes = b"", *headers: tuple[bytes, bytes]) -> Outcome:
    origin = {
        Service.FCM: FCM,
        Service.MOZILLA: "https://updates.push.services.mozilla.com",
        Service.APPLE: "https://web.push.apple.com",
        Service.WINDOWS: "https://wns2-by3p.notify.windows.com",
        Service.OTHER: "https://push.example.com",
    }[service]
    return compiled(Message(title="t"), origin=origin).outcome(status, headers, body, NOW)


def apple(word: str) -> bytes:
    return json.dumps({"reason": word}).encode()


def mozilla(errno: int) -> bytes:
    return json.dumps({"code": 400, "errno": errno, "error": "x", "message": "never read"}).encode()


CONFIG = {"verdict": Verdict.CREDENTIAL, "scope": Scope.ORIGIN}
ROWS = [
    (Service.FCM, 410, b"", Outcome(Verdict.UNREGISTERED, "gone", dead_since=NOW)),
    (Service.FCM, 404, b"<html>", Outcome(Verdict.UNREGISTERED, "gone", dead_since=NOW)),
    (
        Service.FCM,
        403,
        b"Invalid push subscription endpoint.",
        Outcome(Verdict.UNREGISTERED, "gone", dead_since=NOW),
    ),
    (
        Service.FCM,
        403,
        b"the VAPID credentials in the authorization header do not correspond to the credentials used to create it",
        Outcome(Verdict.REJECTED, "VapidPkHashMismatch"),
    ),
    (Service.FCM, 403, b"", Outcome(reason="http_403", remint=True, **CONFIG)),
    (Service.FCM, 401, b"", Outcome(reason="http_401", remint=True, **CONFIG)),
    (Service.FCM, 400, b"UnauthorizedRegistration", Outcome(reason="UnauthorizedRegistration", **CONFIG)),
    (Service.FCM, 400, b"<html>", Outcome(Verdict.REJECTED, "http_400")),
    (Service.FCM, 413, b"", Outcome(Verdict.REJECTED, "http_413")),
    (Service.FCM, 429, b"", Outcome(Verdict.THROTTLED, "http_429", scope=Scope.UNNAMED)),
    (Service.FCM, 406, b"", Outcome(Verdict.REJECTED, "http_406")),
    (Service.FCM, 307, b"", Outcome(Verdict.REJECTED, "http_307")),
    (Service.FCM, 500, b"", Outcome(Verdict.UNAVAILABLE, "http_500")),
    (Service.FCM, 408, b"", Outcome(Verdict.UNAVAILABLE, "http_408")),
    (Service.MOZILLA, 410, mozilla(103), Outcome(Verdict.UNREGISTERED, "errno_103", dead_since=NOW)),
    (Service.MOZILLA, 410, mozilla(105), Outcome(Verdict.UNREGISTERED, "errno_105", dead_since=NOW)),
    (Service.MOZILLA, 410, mozilla(106), Outcome(Verdict.UNREGISTERED, "errno_106", dead_since=NOW)),
    (Service.MOZILLA, 404, mozilla(102), Outcome(Verdict.UNREGISTERED, "errno_102", dead_since=NOW)),
    (Service.MOZILLA, 401, mozilla(109), Outcome(reason="errno_109", remint=True, **CONFIG)),
    (Service.MOZILLA, 413, mozilla(104), Outcome(Verdict.REJECTED, "errno_104")),
    (Service.MOZILLA, 400, mozilla(111), Outcome(Verdict.REJECTED, "errno_111")),
    (Service.MOZILLA, 503, mozilla(201), Outcome(Verdict.UNAVAILABLE, "errno_201")),
    (Service.MOZILLA, 502, mozilla(901), Outcome(Verdict.UNAVAILABLE, "errno_901")),
    (Service.MOZILLA, 400, b'{"errno": "x"}', Outcome(Verdict.REJECTED, "http_400")),
    (Service.APPLE, 410, apple("Unregistered"), Outcome(Verdict.UNREGISTERED, "Unregistered", dead_since=NOW)),
    (Service.APPLE, 404, apple("BadPath"), Outcome(Verdict.UNREGISTERED, "BadPath", dead_since=NOW)),
    (Service.APPLE, 400, apple("VapidPkHashMismatch"), Outcome(Verdict.REJECTED, "VapidPkHashMismatch")),
    (Service.APPLE, 403, apple("BadJwtToken"), Outcome(reason="BadJwtToken", remint=True, **CONFIG)),
    (Service.APPLE, 403, apple("ExpiredJwtToken"), Outcome(reason="ExpiredJwtToken", remint=True, **CONFIG)),
    (Service.APPLE, 400, apple("BadAuthorizationHeader"), Outcome(reason="BadAuthorizationHeader", **CONFIG)),
    (Service.APPLE, 403, apple("BadAuthorizationHeader"), Outcome(reason="BadAuthorizationHeader", **CONFIG)),
    (Service.APPLE, 400, apple("BadVapidPublicKey"), Outcome(reason="BadVapidPublicKey", **CONFIG)),
    (Service.APPLE, 403, apple("BadVapidPublicKey"), Outcome(reason="BadVapidPublicKey", **CONFIG)),
    (Service.APPLE, 400, apple("IdleTimeout"), Outcome(Verdict.UNSENT, "IdleTimeout")),
    (Service.APPLE, 400, apple("BadTtl"), Outcome(Verdict.REJECTED, "BadTtl")),
    (Service.APPLE, 400, apple("BadWebPushTopic"), Outcome(Verdict.REJECTED, "BadWebPushTopic")),
    (Service.APPLE, 405, apple("MethodNotAllowed"), Outcome(Verdict.REJECTED, "MethodNotAllowed")),
    (Service.APPLE, 413, apple("PayloadTooLarge"), Outcome(Verdict.REJECTED, "PayloadTooLarge")),
    (Service.APPLE, 429, apple("TooManyRequests"), Outcome(Verdict.THROTTLED, "TooManyRequests", scope=Scope.UNNAMED)),
    (Service.APPLE, 503, apple("Shutdown"), Outcome(Verdict.UNAVAILABLE, "Shutdown")),
    (Service.APPLE, 400, b"\xff", Outcome(Verdict.REJECTED, "http_400")),
    (Service.APPLE, 400, apple("<b>"), Outcome(Verdict.REJECTED, "http_400")),
    (Service.WINDOWS, 410, b"", Outcome(Verdict.UNREGISTERED, "gone", dead_since=NOW)),
    (Service.WINDOWS, 406, b"", Outcome(Verdict.THROTTLED, "http_406", scope=Scope.UNNAMED)),
    (Service.WINDOWS, 401, b"", Outcome(reason="http_401", remint=True, **CONFIG)),
    (Service.OTHER, 400, apple("VapidPkHashMismatch"), Outcome(Verdict.REJECTED, "http_400")),
    (Service.OTHER, 404, b"", Outcome(Verdict.UNREGISTERED, "gone", dead_since=NOW)),
]


@pytest.mark.parametrize(("service", "status", "body", "meaning"), ROWS)
def test_answers(service: Service, status: int, body: bytes, meaning: Outcome) -> None:
    assert answer(service, status, body) == meaning


def test_every_row_of_the_tables_is_tested() -> None:
    tested = {(service, status, response._word(service, (), body)) for service, status, body, _ in ROWS}
    assert set(response.BY_WORD) <= tested
    assert set(response.BY_STATUS) <= {status for _, status, _, _ in ROWS}


@pytest.mark.parametrize(
    ("service", "status"), [(Service.FCM, 429), (Service.WINDOWS, 406), (Service.MOZILLA, 503), (Service.APPLE, 500)]
)
def test_retry_after_is_passed_on(service: Service, status: int) -> None:
    """Both forms, clamped to a second and an hour."""
    assert answer(service, status, b"", (b"retry-after", b"120")).retry_after == 120.0
    assert answer(service, status, b"", (b"retry-after", b"0")).retry_after == 1.0
    assert answer(service, status, b"", (b"retry-after", b"Fri, 15 Jan 2027 09:00:01 GMT")).retry_after == 3600.0
    assert answer(service, status).retry_after is None


@pytest.mark.parametrize("service", Service)
@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_an_answer(service: Service, status: int) -> None:
    """Whoever sends one would have us go where nobody has checked: it is a refusal like any other."""
    found = answer(service, status, b"", (b"location", b"http://169.254.169.254/latest/meta-data/"))
    assert (found.verdict, found.reason, found.provider_id) == (Verdict.REJECTED, f"http_{status}", "")


def test_windows_says_why_in_a_header_field() -> None:
    why = b"Ttl value conflicts with X-WNS-Cache-Policy"
    assert answer(Service.WINDOWS, 400, b"", (b"x-wns-error-description", why)) == Outcome(
        Verdict.REJECTED, why.decode()
    )
    assert answer(Service.WINDOWS, 400, b"", (b"x-wns-error-description", b"\x1b[0m")).reason == "http_400"


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_any_2xx_is_accepted_and_its_location_kept(status: int) -> None:
    """RFC 8030 promises 201; other services answer other codes."""
    location = b"https://updates.push.services.mozilla.com/m/1"
    assert answer(Service.MOZILLA, status, b"", (b"location", location)) == Outcome(
        Verdict.ACCEPTED, provider_id=location.decode()
    )
    assert answer(Service.APPLE, status, b"", (b"apns-id", b"A-1")).provider_id == "A-1"
    assert answer(Service.FCM, status) == Outcome(Verdict.ACCEPTED)
    assert len(answer(Service.FCM, status, b"", (b"location", b"x" * 9999)).provider_id) == 512


@pytest.mark.parametrize(
    ("status", "headers", "place", "known"),
    [
        (201, ((b":status", b"201"), (b"location", b"?"), (b"ttl", b"0")), 1, True),
        (299, ((b":status", b"299"), (b"apns-id", b"i"), (b"location", b"?")), 2, True),
        (404, ((b":status", b"404"), (b"location", b"?")), 1, False),
        (201, ((b":status", b"201"), (b"apns-id", b"?")), 1, False),
        (201, ((b":status", b"201"), (b"location", b"?"), (b"location", b"l")), 1, False),
        (201, ((b":status", b"201"), (b"location", b"l")), -1, False),
    ],
)
def test_locations_of_answers_that_are_alike_are_read_together(
    status: int, headers: tuple[tuple[bytes, bytes], ...], place: int, known: bool
) -> None:
    """As `outcome` reads each; what is not plain is left to it."""
    values = [b"/m/1", b"/m/2", b"\xff", b"x" * 9999]
    alike = Alike(status, headers, place, values, [b""] * len(values))
    ids = response.provider_ids(alike)
    if known:
        assert ids == [answer(Service.OTHER, status, b"", *fields).provider_id for fields in alike.each_headers()]
    else:
        assert ids is None
