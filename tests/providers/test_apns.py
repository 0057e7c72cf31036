"""APNs: requests, limits, provider tokens and answers, by Apple's documentation."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import jwt
import pytest
from pydantic import ValidationError

from providers.apns import auth, payload, provider, response
from providers.apns.settings import ApnsSettings
from providers.base import Message, Outcome, Recipient, Rendered, Scope, Secret, Terms, Verdict
from tests.providers import material
from tests.providers.material import EC_KEY, NOW, delivery_id, pem, written

TOKEN = b"ab" * 32
SETTINGS = ApnsSettings(topic="com.example.shop", team_id="TEAM123456", key_id="KEY1234567", key_file="unread.p8")
BY_CERTIFICATE = ApnsSettings(topic="com.example.shop", certificate_file="unread.pem")


def check(message: Message, terms: Terms = Terms(), settings: ApnsSettings = SETTINGS) -> list[str]:
    return [problem.pointer for problem in provider.check(message, terms, settings)]


def headers(message: Message, terms: Terms = Terms()) -> dict[bytes, bytes]:
    """All fields that are the same within a batch."""
    head = provider.compile(message, terms, SETTINGS, "https://api.push.apple.com").head((), NOW)
    return dict(head.fixed + head.literal)


def render(message: Message, *variables: dict[str, Any], terms: Terms = Terms()) -> Rendered:
    plan = provider.compile(message, terms, SETTINGS, "https://api.push.apple.com")
    return material.bodies(plan, message, ([TOKEN] * max(len(variables), 1),), *variables)


def block(**apns: Any) -> Message:
    return Message(title="t", apns=apns)


# Targets


def test_tokens_of_any_even_length_are_lower_cased() -> None:
    """Apple says never to assume a length; lower case is the canonical form."""
    tokens = ["AB", "cd" * 32, "Ef" * 80, "00" * 200]
    found = provider.targets([Recipient(id="r", provider="apns", token=token) for token in tokens], SETTINGS)
    assert found.columns == ([token.lower().encode() for token in tokens],)
    assert not found.refused


@pytest.mark.parametrize(
    "token", [None, "", "a", "abc", "zz", "00" * 201, "ab cd", "ab\n", "ab/../cd", "٠٠", "ＡＢ", "0x00", "ab?x"]
)
def test_anything_else_is_refused_alone_and_not_quoted(token: str | None) -> None:
    people = [Recipient(id="r", provider="apns", token=each) for each in ("AB", token, "cd")]
    found = provider.targets(people, SETTINGS)
    assert list(found.refused) == [1]
    assert found.columns == ([b"ab", b"", b"cd"],)
    assert not token or len(token) < 5 or token not in found.refused[1]


# Headers


def test_head_of_an_alert() -> None:
    """Constant fields first, the delivery's id as id and collapse id, so that a resend replaces."""
    plan = provider.compile(Message(title="t"), Terms(), SETTINGS, "https://localhost:2197")
    head = plan.head(((b"authorization", b"bearer x"),), NOW)
    assert head.fixed == (
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b"localhost:2197"),
        (b"apns-topic", b"com.example.shop"),
        (b"apns-push-type", b"alert"),
        (b"apns-priority", b"10"),
        (b"authorization", b"bearer x"),
    )
    assert head.literal == ()
    assert head.varying == (b":path", b"apns-id", b"apns-collapse-id")
    assert render(Message(title="t")).fields == ([b"/3/device/" + TOKEN], [delivery_id(0)], [delivery_id(0)])


def test_expiration_and_collapse_key_are_the_jobs() -> None:
    terms = Terms(expires_at=NOW + 0.9, collapse_key="sale ü")
    plan = provider.compile(Message(title="t"), terms, SETTINGS, "https://x")
    head = plan.head((), NOW)
    assert head.literal == ((b"apns-expiration", b"1800000000"), (b"apns-collapse-id", "sale ü".encode()))
    assert head.varying == (b":path", b"apns-id")
    assert len(render(Message(title="t"), terms=terms).fields) == 2


def test_a_message_may_set_headers_itself() -> None:
    own = {
        "apns-push-type": "liveactivity",
        "apns-topic": "com.other.push-type.liveactivity",
        "apns-priority": 5,
        "apns-expiration": "0",
        "apns-collapse-id": "mine",
    }
    message = block(headers=own)
    found = headers(message, Terms(expires_at=NOW, collapse_key="jobs"))
    assert {name.decode(): value.decode() for name, value in found.items() if name.startswith(b"apns")} == {
        name: str(value) for name, value in own.items()
    }
    assert b"headers" not in render(message).bodies[0]


@pytest.mark.parametrize(
    ("push_type", "topic"),
    [
        ("alert", b"com.example.shop"),
        ("background", b"com.example.shop"),
        ("voip", b"com.example.shop.voip"),
        ("complication", b"com.example.shop.complication"),
        ("fileprovider", b"com.example.shop.pushkit.fileprovider"),
        ("mdm", b"com.example.shop"),
        ("liveactivity", b"com.example.shop.push-type.liveactivity"),
        ("pushtotalk", b"com.example.shop.voip-ptt"),
        ("location", b"com.example.shop.location-query"),
        ("widgets", b"com.example.shop.push-type.widgets"),
        ("controls", b"com.example.shop.push-type.controls"),
    ],
)
def test_each_push_type_has_its_topic(push_type: str, topic: bytes) -> None:
    message = Message(apns={"headers": {"apns-push-type": push_type}, "aps": {}})
    found = headers(message)
    assert found[b"apns-topic"] == topic
    assert found[b"apns-push-type"] == push_type.encode()
    assert found[b"apns-priority"] == (b"5" if push_type == "background" else b"10")
    assert found.get(b"apns-expiration") == (b"0" if push_type == "voip" else None)


def test_a_silent_payload_is_a_background_push() -> None:
    """content-available without alert, badge and sound derives type background and its only priority."""
    found = headers(Message(apns={"aps": {"content-available": 1}}, data={"k": "v"}))
    assert (found[b"apns-push-type"], found[b"apns-priority"]) == (b"background", b"5")
    assert headers(Message(title="t", apns={"aps": {"content-available": 1}}))[b"apns-push-type"] == b"alert"


@pytest.mark.parametrize(
    ("own", "pointer"),
    [
        ({"apns-push-type": "banner"}, "/message/apns/headers/apns-push-type"),
        ({"apns-push-type": "{{t}}"}, "/message/apns/headers/apns-push-type"),
        ({"apns-priority": "7"}, "/message/apns/headers/apns-priority"),
        ({"apns-priority": True}, "/message/apns/headers/apns-priority"),
        ({"apns-priority": "1", "apns-push-type": "location"}, "/message/apns/headers/apns-priority"),
        ({"apns-topic": "com.example.shop", "apns-push-type": "voip"}, "/message/apns/headers/apns-topic"),
        ({"apns-expiration": "soon"}, "/message/apns/headers/apns-expiration"),
        ({"apns-expiration": -1}, "/message/apns/headers/apns-expiration"),
        ({"apns-collapse-id": "x" * 65}, "/message/apns/headers/apns-collapse-id"),
        ({"apns-collapse-id": ""}, "/message/apns/headers/apns-collapse-id"),
        ({"apns-collapse-id": "a\r\nb"}, "/message/apns/headers/apns-collapse-id"),
        ({"apns-id": "x"}, "/message/apns/headers"),
        ({"authorization": "x"}, "/message/apns/headers"),
    ],
)
def test_wrong_headers_are_problems(own: dict[str, Any], pointer: str) -> None:
    assert pointer in check(block(headers=own))


def test_a_background_push_has_priority_5_only() -> None:
    own = {"apns-push-type": "background", "apns-priority": "10"}
    message = Message(apns={"headers": own, "aps": {"content-available": 1}})
    assert check(message) == ["/message/apns/headers/apns-priority"]


def test_location_needs_a_signing_key() -> None:
    message = block(headers={"apns-push-type": "location"})
    assert check(message) == []
    assert check(message, settings=BY_CERTIFICATE) == ["/message/apns/headers/apns-push-type"]


@pytest.mark.parametrize(
    ("key", "fits"), [("x" * 64, True), ("x" * 65, False), ("é" * 32, True), ("é" * 32 + "x", False)]
)
def test_collapse_keys_are_counted_in_bytes(key: str, fits: bool) -> None:
    assert check(Message(title="t"), Terms(collapse_key=key)) == ([] if fits else ["/collapse_key"])


# Payload


def test_the_message_becomes_aps_and_custom_keys() -> None:
    """Title and body in the alert, image, link and data beside aps, and the block merged last and deep."""
    message = Message(
        title="{{who}}",
        body="B",
        image="https://i",
        link="https://l",
        data={"sku": "{{sku}}"},
        apns={"aps": {"alert": {"subtitle": "S", "body": "other"}, "badge": "{{n}}", "sound": "default"}, "x": [1]},
    )
    assert check(message) == []
    (body,) = render(message, {"who": "Ä", "sku": "1", "n": 3}).bodies
    assert json.loads(body) == {
        "aps": {
            "alert": {"title": "Ä", "body": "other", "subtitle": "S"},
            "mutable-content": 1,
            "badge": 3,
            "sound": "default",
        },
        "image": "https://i",
        "link": "https://l",
        "data": {"sku": "1"},
        "x": [1],
    }
    assert b" " not in body


@pytest.mark.parametrize("key", sorted(payload.NUMERIC))
def test_numeric_keys_land_bare(key: str) -> None:
    message = Message(title="t", apns={"aps": {key: "{{ n }}"}})
    assert check(message) == []
    rendered = render(message, {"n": "1"}, {"n": 0.5}, {"n": "many"})
    assert json.loads(rendered.bodies[0])["aps"][key] == 1
    assert list(rendered.rejected) == [2]


@pytest.mark.parametrize(
    ("aps", "where"),
    [
        ({"badge": "3"}, "badge"),
        ({"badge": -1}, "badge"),
        ({"badge": True}, "badge"),
        ({"badge": "{{n}} new"}, "badge"),
        ({"sound": 1}, "sound"),
        ({"sound": {"critical": 2}}, "sound"),
        ({"sound": {"volume": 1.5}}, "sound"),
        ({"thread-id": 1}, "thread-id"),
        ({"content-available": True}, "content-available"),
        ({"mutable-content": "1"}, "mutable-content"),
        ({"interruption-level": "loud"}, "interruption-level"),
        ({"relevance-score": 1.01}, "relevance-score"),
        ({"alert": 5}, "alert"),
        ({"alert": {"title": {"loc-key": "k"}}}, "alert/title"),
        ({"alert": {"loc-args": "x"}}, "alert/loc-args"),
        ({"timestamp": 1.5}, "timestamp"),
    ],
)
def test_apples_schema_is_checked_with_pointers(aps: dict[str, Any], where: str) -> None:
    assert check(block(aps=aps)) == [f"/message/apns/aps/{where}"]


@pytest.mark.parametrize(
    "aps",
    [
        {"badge": 0},
        {"sound": {"critical": 1, "name": "a.caf", "volume": 0.5}},
        {"relevance-score": 1},
        {"interruption-level": "{{level}}"},
        {"new-key-of-2027": {"any": "thing"}},
        {"alert": "just text"},
        {"alert": {"loc-key": "k", "loc-args": ["a", "{{b}}"]}},
    ],
)
def test_good_payloads_have_no_problems(aps: dict[str, Any]) -> None:
    assert check(block(aps=aps)) == []


def test_a_message_that_shows_nothing_is_a_problem() -> None:
    assert check(Message()) == ["/message/apns"]
    assert check(Message(apns={"aps": "x"})) == ["/message/apns/aps"]


def live(**aps: Any) -> Message:
    return Message(apns={"headers": {"apns-push-type": "liveactivity"}, "aps": aps})


def test_live_activities_have_rules_of_their_own() -> None:
    update = {"event": "update", "timestamp": 1, "content-state": {}, "relevance-score": 75.5}
    assert check(live(**update)) == []
    assert check(live(event="update")) == ["/message/apns/aps/timestamp", "/message/apns/aps/content-state"]
    assert check(live(**update, **{"input-push-token": 1})) == ["/message/apns/aps/event"]
    start = update | {
        "event": "start",
        "attributes-type": "A",
        "attributes": {},
        "alert": {"title": {"loc-key": "k"}, "body": "b", "sound": "s"},
    }
    assert check(live(**start)) == []
    assert check(live(**start, **{"input-push-token": 1, "input-push-channel": "c"})) == [
        "/message/apns/aps/input-push-token"
    ]
    del start["attributes"]
    assert check(live(**start)) == ["/message/apns/aps/attributes"]


def test_background_and_widgets_have_rules_of_their_own() -> None:
    background = {"apns-push-type": "background"}
    assert check(Message(title="t", apns={"headers": background, "aps": {"content-available": 1}})) == [
        "/message/apns/aps/alert"
    ]
    assert check(Message(apns={"headers": background})) == ["/message/apns/aps/content-available"]
    widgets = {"apns-push-type": "widgets"}
    assert check(Message(apns={"headers": widgets, "aps": {"content-changed": True}})) == []
    assert check(Message(apns={"headers": widgets})) == ["/message/apns/aps/content-changed"]


def test_mdm_and_pushkit_payloads_need_no_aps() -> None:
    message = Message(apns={"headers": {"apns-push-type": "mdm"}, "mdm": "magic"})
    assert check(message) == []
    assert render(message).bodies == [b'{"mdm":"magic"}']
    assert check(Message(apns={"headers": {"apns-push-type": "voip"}})) == ["/message/apns"]


@pytest.mark.parametrize(("kind", "limit"), [("alert", 4096), ("voip", 5120)])
@pytest.mark.parametrize("over", [0, 1])
def test_payload_limits_at_the_edge(kind: str, limit: int, over: int) -> None:
    """4,096 bytes, 5,120 for VoIP, counted as bytes of the rendered body; for constants found by `check`."""
    own = {"headers": {"apns-push-type": kind}}
    frame = len(render(Message(body="", apns=own)).bodies[0])
    text = "é" + "x" * (limit - frame - 2 + over)
    rendered = render(Message(body="{{v}}", apns=own), {"v": text})
    assert list(rendered.rejected) == ([0] if over else [])
    assert check(Message(body=text, apns=own)) == (["/message"] if over else [])


def test_problems_of_templates_come_first() -> None:
    assert check(Message(title="{{ a", apns={"aps": {"badge": "x"}})) == ["/message/title"]


# Provider tokens


@pytest.fixture
def token() -> auth.ProviderToken:
    return auth.ProviderToken(EC_KEY, team_id="TEAM123456", key_id="KEY1234567")


def minted(credential: auth.ProviderToken, now: float) -> bytes:
    found = credential.headers("https://api.push.apple.com", now)
    assert found is not None
    ((name, value),) = found
    assert name == b"authorization"
    return value


def issued(value: bytes) -> int:
    claims = jwt.decode(
        value.removeprefix(b"bearer "), EC_KEY.public_key(), algorithms=["ES256"], options={"verify_iat": False}
    )
    assert claims.keys() == {"iss", "iat"}
    return int(claims["iat"])


GRID = 1_800_000_000 // 2400 * 2400


def test_a_provider_token_is_an_es256_jwt(token: auth.ProviderToken) -> None:
    """Header alg and kid, claims iss and iat, raw signature: what Apple documents and nothing else."""
    value = minted(token, NOW).removeprefix(b"bearer ")
    assert jwt.get_unverified_header(value) == {"alg": "ES256", "kid": "KEY1234567"}
    assert len(material.unb64(value.rsplit(b".", 1)[1])) == 64
    assert (
        jwt.decode(value, EC_KEY.public_key(), algorithms=["ES256"], options={"verify_iat": False})["iss"]
        == "TEAM123456"
    )


def test_all_machines_mint_the_same_bytes(token: auth.ProviderToken) -> None:
    """Apple counts provider tokens per team, so every process has to come to the same one by itself."""
    other = auth.ProviderToken(EC_KEY, team_id="TEAM123456", key_id="KEY1234567")
    assert minted(token, GRID + 61) == minted(other, GRID + 2459)
    assert token.fingerprint == other.fingerprint


def test_tokens_change_60_seconds_after_a_point_of_the_grid(token: auth.ProviderToken) -> None:
    """Machines whose clocks differ by less than a minute never present a token from the future."""
    assert issued(minted(token, GRID + 59.9)) == GRID - 2400
    assert issued(minted(token, GRID + 60)) == GRID
    assert issued(minted(token, GRID + 2459.9)) == GRID
    assert issued(minted(token, GRID + 2460)) == GRID + 2400


def test_a_clock_that_is_set_back_does_not_leave_a_token_from_the_future(token: auth.ProviderToken) -> None:
    minted(token, GRID + 86400)
    assert issued(minted(token, GRID + 100)) == GRID


def test_renewing_mints_no_more_often_than_every_20_minutes(token: auth.ProviderToken) -> None:
    first = minted(token, GRID + 100)
    token.renew(GRID + 1259)
    assert minted(token, GRID + 1259) == first
    token.renew(GRID + 1260)
    assert issued(minted(token, GRID + 1260)) == GRID + 1200
    token.renew(GRID + 1300)
    assert issued(minted(token, GRID + 1300)) == GRID + 1200


def test_after_renewing_late_the_next_token_waits_its_20_minutes(token: auth.ProviderToken) -> None:
    """The regular next token would come right after; the renewed one is young enough to be kept."""
    minted(token, GRID + 100)
    token.renew(GRID + 2399)
    assert issued(minted(token, GRID + 2470)) == GRID + 1200
    assert issued(minted(token, GRID + 2399 + 1200)) == GRID + 2400


@pytest.mark.parametrize("start", range(0, 2400, 150))
def test_no_token_is_ever_older_than_apple_takes(start: int) -> None:
    """Whenever it starts and is renewed, a token's age stays under 60 minutes and two are 20 minutes apart."""
    credential = auth.ProviderToken(EC_KEY, team_id="TEAM123456", key_id="KEY1234567")
    changes: list[tuple[int, int]] = []
    for now in range(GRID + start, GRID + start + 12000, 50):
        credential.renew(now)
        iat = issued(minted(credential, now))
        assert 0 < now - iat < 3600
        if not changes or changes[-1][1] != iat:
            changes.append((now, iat))
    assert len(changes) > 4
    # The first stands apart: others may have minted it long before.
    assert all(later - earlier >= 1200 for (earlier, _), (later, _) in pairwise(changes[1:]))


@pytest.mark.parametrize("late", [0, 300, 1139])
def test_a_late_renewal_pushes_the_next_one_back_too(token: auth.ProviderToken, late: int) -> None:
    """The regular token after a late renewal is late as well, and counts from when it was really minted."""
    minted(token, GRID + 100)
    token.renew(GRID + 1260 + late)
    regular = GRID + 1260 + late + 1200
    assert issued(minted(token, regular)) == GRID + 2400
    token.renew(regular + 1199)
    assert issued(minted(token, regular + 1199)) == GRID + 2400
    assert issued(minted(token, GRID + 2400 + 2460)) == GRID + 4800


def test_the_repr_shows_only_the_fingerprint(token: auth.ProviderToken) -> None:
    assert repr(token) == f"<ProviderToken {token.fingerprint}>"


def test_the_key_file_is_read_and_checked(tmp_path: Path) -> None:
    def credential(path: str) -> Any:
        return provider.credential(SETTINGS.model_copy(update={"key_file": path}))

    good = credential(written(tmp_path / "good.p8", pem(EC_KEY)))
    assert good.client_certificate is None
    assert issued(minted(good, NOW)) == auth.GRID * (int(NOW - 60) // auth.GRID)
    with pytest.raises(ValueError, match=r"key_file: cannot read .*missing\.p8"):
        credential(str(tmp_path / "missing.p8"))
    with pytest.raises(ValueError, match=r"key_file: .* is not a PEM private key") as raised:
        credential(written(tmp_path / "bad.p8", b"SECRET"))
    assert "SECRET" not in str(raised.value)
    with pytest.raises(ValueError, match="curve P-256"):
        credential(written(tmp_path / "rsa.p8", pem(material.RSA_KEY)))


# Certificates

TOPICS = "1.2.840.113635.100.6.3.6"
TOPICS_DER = (
    bytes.fromhex("3025")
    + b"\x0c\x10com.example.shop"
    + b"\x30\x05\x0c\x03app"
    + b"\x0c\x05x.app"
    + b"\x30\x03\x0c\x01y"
)


def by_certificate(path: Path, contents: bytes, **changes: Any) -> auth.Certificate:
    settings = BY_CERTIFICATE.model_copy(update={"certificate_file": written(path / "c.pem", contents), **changes})
    found = provider.credential(settings)
    assert isinstance(found, auth.Certificate)
    return found


def test_a_certificate_signs_the_connection_and_no_request(tmp_path: Path) -> None:
    """Its topics and end come from the certificate itself."""
    found = by_certificate(tmp_path, material.certificate([(TOPICS, TOPICS_DER)]))
    pem = Secret((tmp_path / "c.pem").read_bytes())
    assert found.client_certificate == (pem, pem)
    assert found.headers("https://x", NOW) == ()
    assert found.topics == ("com.example.shop", "x.app")
    assert found.expires_at == 1798761600.0
    assert repr(found) == f"<Certificate {found.fingerprint}>"


def test_an_old_certificate_names_its_topic_as_user_id(tmp_path: Path) -> None:
    assert by_certificate(tmp_path, material.certificate([], uid="com.example.shop")).topics == ("com.example.shop",)


def test_a_certificate_has_to_fit_topic_environment_and_key(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"topic: the certificate is for com\.other, not com\.example\.shop"):
        by_certificate(tmp_path, material.certificate([], uid="com.other"))
    development = material.certificate([("1.2.840.113635.100.6.3.1", b"\x05\x00")])
    with pytest.raises(ValueError, match="environment: the certificate is not for production"):
        by_certificate(tmp_path, development)
    assert by_certificate(tmp_path, development, environment="development")
    with pytest.raises(ValueError, match="does not belong"):
        by_certificate(
            tmp_path, material.certificate([]), certificate_key_file=written(tmp_path / "k.pem", pem(material.RSA_KEY))
        )
    with pytest.raises(ValueError, match="not a PEM certificate"):
        by_certificate(tmp_path, b"nothing")
    with pytest.raises(ValueError, match="malformed"):
        by_certificate(tmp_path, material.certificate([(TOPICS, b"\x30\x7f\x0c")]))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"team_id": "TEAM123456"},
        {"team_id": "TEAM123456", "key_id": "KEY1234567"},
        {"certificate_file": "c", "key_file": "k"},
        {"team_id": "short", "key_id": "KEY1234567", "key_file": "k"},
        {"certificate_file": "c", "topic": "bad topic"},
        {"certificate_file": "c", "environment": "staging"},
    ],
)
def test_settings_take_one_whole_way_to_authenticate(values: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        ApnsSettings(**{"topic": "com.example.shop", **values})


def test_hosts_by_environment() -> None:
    assert provider.endpoint(SETTINGS) == "https://api.push.apple.com"
    development = SETTINGS.model_copy(update={"environment": "development"})
    assert provider.endpoint(development) == "https://api.sandbox.push.apple.com"
    assert provider.endpoint(SETTINGS.model_copy(update={"endpoint": "https://localhost:1"})) == "https://localhost:1"


# Answers


def answer(status: int, body: bytes = b"", *, message: Message | None = None) -> Outcome:
    plan = provider.compile(message or Message(title="t"), Terms(), SETTINGS, "https://x")
    return plan.outcome(status, ((b"apns-id", b"X"),), body, NOW)


def reason(word: str, **more: Any) -> bytes:
    return json.dumps({"reason": word, **more}).encode()


REJECTED = [
    (400, "BadCollapseId"), (400, "BadExpirationDate"), (400, "BadMessageId"), (400, "BadPriority"),
    (400, "DuplicateHeaders"), (400, "InvalidPushType"), (400, "PayloadEmpty"), (400, "MissingDeviceToken"),
    (400, "DeviceTokenNotForTopic"), (404, "BadPath"), (405, "MethodNotAllowed"), (413, "PayloadTooLarge"),
    (400, "SomethingNew"), (409, "Unknown"),
]  # fmt: skip
CREDENTIAL = [
    (403, "BadCertificate"), (403, "BadCertificateEnvironment"), (403, "InvalidProviderToken"),
    (403, "MissingProviderToken"), (403, "Forbidden"), (403, "BadEnvironmentKeyIdInToken"),
    (403, "BadEnvironmentKeyInToken"), (403, "SomethingNew"),
]  # fmt: skip
UNAVAILABLE = [
    (500, "InternalServerError"), (503, "ServiceUnavailable"), (503, "Shutdown"), (403, "UnrelatedKeyIdInToken"),
    (502, "SomethingNew"), (408, "Slow"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "word"), REJECTED)
def test_rejected(status: int, word: str) -> None:
    assert answer(status, reason(word)) == Outcome(Verdict.REJECTED, word)


@pytest.mark.parametrize(("status", "word"), CREDENTIAL)
def test_the_credential_is_to_blame(status: int, word: str) -> None:
    assert answer(status, reason(word)) == Outcome(Verdict.CREDENTIAL, word, scope=Scope.CREDENTIAL)


@pytest.mark.parametrize(("status", "word"), UNAVAILABLE)
def test_another_try_may_succeed(status: int, word: str) -> None:
    assert answer(status, reason(word)) == Outcome(Verdict.UNAVAILABLE, word)


@pytest.mark.parametrize("word", ["BadTopic", "MissingTopic", "TopicDisallowed"])
def test_a_refused_topic_concerns_the_app_unless_the_message_brought_it(word: str) -> None:
    assert answer(400, reason(word)) == Outcome(Verdict.CREDENTIAL, word, scope=Scope.APP)
    voip = Message(title="t", apns={"headers": {"apns-push-type": "voip"}})
    assert answer(400, reason(word), message=voip) == Outcome(Verdict.REJECTED, word)


def test_an_expired_provider_token_may_be_minted_anew() -> None:
    assert answer(403, reason("ExpiredProviderToken")) == Outcome(
        Verdict.CREDENTIAL, "ExpiredProviderToken", scope=Scope.CREDENTIAL, remint=True
    )


def test_dead_tokens_die_when_apple_says() -> None:
    """Milliseconds become seconds; without a time, and never later than, it is the answer's."""
    dead = answer(410, reason("Unregistered", timestamp=1_700_000_000_123))
    assert dead == Outcome(Verdict.UNREGISTERED, "Unregistered", dead_since=1_700_000_000.123)
    assert answer(410, reason("ExpiredToken")) == Outcome(Verdict.UNREGISTERED, "ExpiredToken", dead_since=NOW)
    assert answer(410, reason("Unregistered", timestamp=9e15)).dead_since == NOW
    assert answer(400, reason("BadDeviceToken")) == Outcome(
        Verdict.UNREGISTERED, "BadDeviceToken", dead_since=NOW, ambiguous=True
    ), "as it is for tokens of the other environment"
    for unreadable in (b"", b"<html>", b'{"reason": 5}', b"\xff", b'{"reason": "x y"}', b"[]"):
        assert answer(410, unreadable) == Outcome(Verdict.UNREGISTERED, "http_410", dead_since=NOW)


def test_throttling_says_who_has_to_wait() -> None:
    assert answer(429, reason("TooManyRequests")) == Outcome(Verdict.THROTTLED, "TooManyRequests", scope=Scope.TARGET)
    updates = answer(429, reason("TooManyProviderTokenUpdates"))
    assert (updates.verdict, updates.scope, updates.retry_after) == (Verdict.THROTTLED, Scope.CREDENTIAL, 60.0)
    assert answer(429).scope is Scope.UNNAMED


@pytest.mark.parametrize(
    ("status", "word"), [(429, "TooManyRequests"), (429, "NewWord"), (503, "ServiceUnavailable"), (500, "")]
)
@pytest.mark.parametrize("value", [b"7", b"Fri, 15 Jan 2027 08:00:07 GMT"])
def test_a_wait_that_is_asked_for_is_told(status: int, word: str, value: bytes) -> None:
    plan = provider.compile(Message(title="t"), Terms(), SETTINGS, "https://x")
    headers = ((b"date", b"Fri, 15 Jan 2027 08:00:00 GMT"), (b"retry-after", value))
    assert plan.outcome(status, headers, reason(word), NOW).retry_after == 7.0
    assert plan.outcome(410, headers, reason("Unregistered"), NOW).retry_after is None


def test_an_idle_connection_never_looked() -> None:
    assert answer(400, reason("IdleTimeout")) == Outcome(Verdict.UNSENT, "IdleTimeout")


@pytest.mark.parametrize("debug", [b"", b"graceful shutdown", reason("ServiceUnavailable"), reason("Unregistered")])
def test_a_goaway_that_blames_nobody_means_nothing(debug: bytes) -> None:
    assert provider.farewell(debug) is None


def test_a_goaway_that_blames_the_certificate_stops_the_credential() -> None:
    """Often it comes before any request was answered, and after every reconnection again."""
    assert provider.farewell(reason("BadCertificate")) == Outcome(
        Verdict.CREDENTIAL, "BadCertificate", scope=Scope.CREDENTIAL
    )


def test_accepted() -> None:
    assert answer(200) == Outcome(Verdict.ACCEPTED)
    plan = provider.compile(Message(title="t"), Terms(), SETTINGS, "https://x")
    assert plan.bare_accept
    sandbox = plan.outcome(200, ((b"apns-unique-id", b"6f1e0f65-0000-4000-8000-00000000000A"),), b"", NOW)
    assert sandbox == Outcome(Verdict.ACCEPTED, provider_id="6f1e0f65-0000-4000-8000-00000000000A")


def test_every_row_of_the_table_is_tested() -> None:
    """A row nobody tests is a row nobody has thought about."""
    tested = {*REJECTED, *CREDENTIAL, *UNAVAILABLE}
    elsewhere = {"BadTopic", "MissingTopic", "TopicDisallowed", "ExpiredProviderToken", "IdleTimeout"}
    elsewhere |= {"TooManyRequests", "TooManyProviderTokenUpdates"}
    assert {key for key in response.TABLE if key not in tested and key[1] not in elsewhere} == set()


@pytest.mark.parametrize("status", [100, 101, 204, 301, 418, 599, 0])
def test_no_answer_raises(status: int) -> None:
    assert isinstance(answer(status, b"\x00"), Outcome)


def test_golden_request() -> None:
    """The whole rendered body of a plain message, byte for byte."""
    message = Message(title="{{product}} is {{pct}}% off", data={"sku": "{{sku}}"})
    (body,) = render(message, {"product": "Running shoes", "pct": 20, "sku": "A1"}).bodies
    assert body == b'{"aps":{"alert":{"title":"Running shoes is 20% off"}},"data":{"sku":"A1"}}'
