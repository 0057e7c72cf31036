"""FCM HTTP v1: the envelope, its limits, the OAuth exchange and the answers."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
from pydantic import ValidationError

from providers.base import Alike, Credential, Exchange, Message, Outcome, Plan, Recipient, Scope, Secret, Terms, Verdict
from providers.fcm import provider, response
from providers.fcm.settings import FcmSettings
from tests.providers import material
from tests.providers.material import NOW, RSA_KEY, delivery_id, service_account

TOKEN = b"dXyz_1-2:APA91bHun4"


@pytest.fixture
def settings(tmp_path: Path) -> FcmSettings:
    return FcmSettings(service_account_file=service_account(tmp_path / "account.json"))


@pytest.fixture
def plan(settings: FcmSettings) -> Plan:
    return provider.compile(Message(title="t"), Terms(), settings, "https://fcm.googleapis.com")


def envelope(
    settings: FcmSettings, message: Message, terms: Terms = Terms(), now: float = NOW, **variables: Any
) -> dict[str, Any]:
    """The decoded `message` of a rendered body."""
    compiled = provider.compile(message, terms, settings, "https://fcm.googleapis.com")
    rendered = material.bodies(compiled, message, ([TOKEN],), *([variables] if variables else []), now=now)
    assert not rendered.rejected
    body: dict[str, Any] = json.loads(rendered.bodies[0])
    assert body.keys() == {"message"}
    return dict(body["message"])


def check(settings: FcmSettings, message: Message, terms: Terms = Terms()) -> list[str]:
    return [problem.pointer for problem in provider.check(message, terms, settings)]


# Targets and head


def test_tokens_are_opaque_but_need_no_escape(settings: FcmSettings) -> None:
    tokens = ["a:b-c_d.e%f=", None, 'a"b', "a\\b", "a b", "", "x" * 4096, "x" * 4097, "ü", "a\nb"]
    found = provider.targets([Recipient(id="r", provider="fcm", token=token) for token in tokens], settings)
    assert sorted(found.refused) == [1, 2, 3, 4, 5, 7, 8, 9]
    assert found.columns[0][0] == b"a:b-c_d.e%f="
    assert found.columns[0][6] == b"x" * 4096


def test_head_is_the_same_for_every_request(plan: Plan) -> None:
    head = plan.head(((b"authorization", b"Bearer t"),), NOW)
    assert dict(head.fixed) == {
        b":method": b"POST",
        b":scheme": b"https",
        b":authority": b"fcm.googleapis.com",
        b":path": b"/v1/projects/shop-1/messages:send?prettyPrint=false",
        b"content-type": b"application/json; charset=utf-8",
        b"x-goog-api-format-version": b"2",
        b"authorization": b"Bearer t",
    }
    assert (head.literal, head.varying) == ((), ())
    assert not plan.bare_accept


def test_the_project_may_differ_from_the_accounts(tmp_path: Path) -> None:
    path = service_account(tmp_path / "a.json")
    other = FcmSettings(service_account_file=path, project_id="other-2")
    head = provider.compile(Message(title="t"), Terms(), other, "https://x").head((), NOW)
    assert dict(head.fixed)[b":path"].startswith(b"/v1/projects/other-2/")


# The envelope


def test_a_notification(settings: FcmSettings) -> None:
    """Title, body and image are the notification; link goes to data and to the web; ids collapse resends."""
    message = Message(title="{{t}}", body="B", image="https://i", link="https://l/{{t}}", data={"k": "{{t}}"})
    assert check(settings, message) == []
    mine = delivery_id(0).decode()
    assert envelope(settings, message, t='"') == {
        "token": TOKEN.decode(),
        "notification": {"title": '"', "body": "B", "image": "https://i"},
        "data": {"link": 'https://l/"', "k": '"'},
        "webpush": {"fcm_options": {"link": 'https://l/"'}},
        "android": {"notification": {"tag": mine}},
        "apns": {"headers": {"apns-collapse-id": mine}, "payload": {"aps": {"mutable-content": 1}}},
    }


def test_a_data_message_is_a_background_push_on_ios(settings: FcmSettings) -> None:
    """Priority 5 as FCM asks, and no android.notification, which would make it a notification."""
    assert envelope(settings, Message(data={"k": "v"})) == {
        "token": TOKEN.decode(),
        "data": {"k": "v"},
        "apns": {
            "headers": {
                "apns-push-type": "background",
                "apns-priority": "5",
                "apns-collapse-id": delivery_id(0).decode(),
            },
            "payload": {"aps": {"content-available": 1}},
        },
    }


@pytest.mark.parametrize("block", [{"notification": {"title": "t"}}, {"apns": {"payload": {"aps": {"alert": "a"}}}}])
def test_a_block_that_shows_something_is_no_data_message(settings: FcmSettings, block: dict[str, Any]) -> None:
    made = envelope(settings, Message(data={"k": "v"}, fcm=block))
    assert "apns-priority" not in made["apns"]["headers"]
    assert "content-available" not in made["apns"].get("payload", {}).get("aps", {})


def test_the_jobs_terms_reach_every_platform(settings: FcmSettings) -> None:
    """What is left of the time, rounded down; the collapse key for Android, iOS and the web."""
    terms = Terms(expires_at=NOW + 100.9, collapse_key="sale", transactional=True)
    made = envelope(settings, Message(title="t"), terms)
    assert made["android"] == {
        "priority": "HIGH",
        "ttl": "100s",
        "collapse_key": "sale",
        "notification": {"tag": "sale"},
    }
    assert made["apns"]["headers"] == {"apns-collapse-id": "sale", "apns-expiration": "1800000100"}
    assert made["webpush"]["headers"]["TTL"] == "100"
    assert len(made["webpush"]["headers"]["Topic"]) == 32


@pytest.mark.parametrize(
    ("expires_at", "now", "ttl"),
    [
        (NOW + 10, NOW, "10s"),
        (NOW + 10, NOW + 0.1, "9s"),
        (NOW + 10, NOW + 9.99, "0s"),
        (NOW, NOW + 5, "0s"),
        (NOW + 10**8, NOW, "2419200s"),
    ],
)
def test_the_ttl_shrinks_while_the_job_waits(settings: FcmSettings, expires_at: float, now: float, ttl: str) -> None:
    assert envelope(settings, Message(title="t"), Terms(expires_at=expires_at), now=now)["android"]["ttl"] == ttl


def test_one_plan_renders_a_new_ttl_each_second(settings: FcmSettings) -> None:
    """The same plan, later: the ttl follows, in both directions of the clock."""
    message = Message(title="{{v}}")
    compiled = provider.compile(message, Terms(expires_at=NOW + 10), settings, "https://x")
    seen = []
    for now in (NOW, NOW + 0.5, NOW + 3, NOW + 1):
        (body,) = material.bodies(compiled, message, ([TOKEN],), {"v": "100%"}, now=now).bodies
        seen.append(json.loads(body)["message"]["android"]["ttl"])
        assert json.loads(body)["message"]["notification"] == {"title": "100%"}
    assert seen == ["10s", "9s", "7s", "9s"]


def test_the_block_is_merged_last_in_either_spelling(settings: FcmSettings) -> None:
    """camelCase names merge with ours; the caller's own names and a browser's options stay as they are."""
    message = Message(
        title="t",
        link="https://l",
        fcm={
            "fcmOptions": {"analyticsLabel": "l"},
            "data": {"camelCase": "1"},
            "android": {"collapseKey": "mine", "ttl": "5s", "notification": {"tag": "T", "channelId": "c"}},
            "apns": {"payload": {"aps": {"badge": "{{n}}"}, "customKey": 1}, "headers": {"apns-collapse-id": "mine"}},
            "webpush": {"notification": {"requireInteraction": True}, "fcmOptions": {"link": "https://other"}},
        },
    )
    terms = Terms(collapse_key="job's", expires_at=NOW + 60)
    assert check(settings, message, terms) == []
    made = envelope(settings, message, terms, n=7)
    assert made["fcm_options"] == {"analytics_label": "l"}
    assert made["data"] == {"link": "https://l", "camelCase": "1"}
    assert made["android"] == {"ttl": "5s", "collapse_key": "mine", "notification": {"tag": "T", "channel_id": "c"}}
    assert made["apns"]["payload"] == {"aps": {"badge": 7}, "customKey": 1}
    assert made["apns"]["headers"]["apns-collapse-id"] == "mine"
    assert made["webpush"]["notification"] == {"requireInteraction": True}
    assert made["webpush"]["fcm_options"] == {"link": "https://other"}


def test_no_collapse_key_of_its_own(settings: FcmSettings) -> None:
    """FCM keeps only four collapse keys for a device, so a delivery has none."""
    assert "collapse_key" not in envelope(settings, Message(title="t"))["android"]


@pytest.mark.parametrize(
    ("message", "pointer"),
    [
        (Message(), "/message"),
        (Message(title="t", data={"from": "x"}), "/message/data/from"),
        (Message(title="t", data={"message_type": "x"}), "/message/data/message_type"),
        (Message(title="t", data={"google.x": "x"}), "/message/data/google.x"),
        (Message(title="t", data={"gcm.notification.x": "x"}), "/message/data/gcm.notification.x"),
        (Message(title="t", fcm={"data": {"n": 1}}), "/message/fcm/data/n"),
        (Message(title="t", fcm={"token": "x"}), "/message/fcm/token"),
        (Message(title="t", fcm={"topic": "x"}), "/message/fcm/topic"),
        (Message(title="t", fcm={"android": []}), "/message/fcm/android"),
        (Message(title="t", fcm={"android": {"ttl": "2419201s"}}), "/message/fcm/android/ttl"),
        (Message(title="t", fcm={"android": {"ttl": "-1s"}}), "/message/fcm/android/ttl"),
        (Message(title="t", fcm={"android": {"ttl": 60}}), "/message/fcm/android/ttl"),
        (Message(title="t", fcm={"android": {"priority": "urgent"}}), "/message/fcm/android/priority"),
        (Message(title="t", fcm={"android": {"data": {"a/b": None}}}), "/message/fcm/android/data/a~1b"),
        (
            Message(title="t", fcm={"android": {"notification": {"color": "red"}}}),
            "/message/fcm/android/notification/color",
        ),
        (Message(title="t", fcm={"android": {"notification": 1}}), "/message/fcm/android/notification"),
        (Message(title="t", fcm={"apns": {"headers": {"apns-priority": 5}}}), "/message/fcm/apns/headers"),
        (Message(title="t", fcm={"apns": {"payload": 1}}), "/message/fcm/apns/payload"),
        (Message(title="t", fcm={"apns": {"payload": {"aps": 1}}}), "/message/fcm/apns/payload/aps"),
        (Message(title="t", fcm={"apns": {"payload": {"aps": {"badge": "1"}}}}), "/message/fcm/apns/payload/aps/badge"),
        (Message(title="t", fcm={"webpush": {"headers": {"TTL": 5}}}), "/message/fcm/webpush/headers"),
        (
            Message(title="t", fcm={"webpush": {"fcm_options": {"link": "http://x"}}}),
            "/message/fcm/webpush/fcm_options/link",
        ),
        (Message(title="t", fcm={"fcmOptions": {"analyticsLabel": "a b"}}), "/message/fcm/fcm_options/analytics_label"),
        (Message(title="{{ a"), "/message/title"),
    ],
)
def test_what_fcm_would_refuse_is_a_problem(settings: FcmSettings, message: Message, pointer: str) -> None:
    assert check(settings, message) == [pointer]


@pytest.mark.parametrize(
    "message",
    [
        Message(title="t", data={"collapse_key": "x", "googles": "x"}),
        Message(
            title="t", fcm={"android": {"ttl": "3.000000001s", "priority": "high", "bandwidth_constrained_ok": True}}
        ),
        Message(title="t", fcm={"android": {"ttl": "2419200s", "notification": {"color": "#aAbB09"}}}),
        Message(title="t", fcm={"something_new": {"x": 1}}),
        Message(fcm={"notification": {"title": "t"}}),
    ],
)
def test_good_messages_have_no_problems(settings: FcmSettings, message: Message) -> None:
    assert check(settings, message) == []


def test_collapse_keys_have_64_bytes_at_most(settings: FcmSettings) -> None:
    assert check(settings, Message(title="t"), Terms(collapse_key="é" * 32)) == []
    assert check(settings, Message(title="t"), Terms(collapse_key="é" * 32 + "x")) == ["/collapse_key"]
    assert check(settings, Message(title="t"), Terms(collapse_key="{{x}}")) == ["/collapse_key"]


@pytest.mark.parametrize("over", [0, 1])
def test_the_payload_limit_at_the_edge(settings: FcmSettings, over: int) -> None:
    """4,096 bytes of keys and values of data and notification; the envelope around them does not count."""
    text = "é" + "x" * (4096 - len("title") - len("k") - 2 + over)
    message = Message(title="", data={"k": "{{v}}"})
    compiled = provider.compile(message, Terms(), settings, "https://x")
    rendered = material.bodies(compiled, message, ([TOKEN] * 2,), {"v": text}, {"v": "short"})
    assert list(rendered.rejected) == ([0] if over else [])
    assert check(settings, Message(title="", data={"k": text})) == (["/message"] if over else [])


# The service account


def test_the_exchange_is_an_rs256_assertion(settings: FcmSettings) -> None:
    """Claims, header and form as Google documents them, dated 30 s back."""
    credential = provider.credential(settings)
    assert credential.headers("https://x", NOW) is None
    due = credential.exchange(NOW)
    assert due is not None
    assert due.url == "https://oauth2.googleapis.com/token"
    assert dict(due.headers)[b"content-type"] == b"application/x-www-form-urlencoded"
    form = parse_qs(due.body.decode(), strict_parsing=True)
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    (assertion,) = form["assertion"]
    assert jwt.get_unverified_header(assertion) == {"alg": "RS256", "typ": "JWT", "kid": "key-id-1"}
    assert claims(due) == {
        "iss": "push@shop-1.iam.gserviceaccount.com",
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "aud": "https://oauth2.googleapis.com/token",
        "iat": int(NOW) - 30,
        "exp": int(NOW) - 30 + 3600,
    }


def claims(due: Exchange | None) -> dict[str, Any]:
    assert due is not None
    (assertion,) = parse_qs(due.body.decode())["assertion"]
    options = {"verify_exp": False, "verify_iat": False, "verify_aud": False}
    return jwt.decode(assertion, RSA_KEY.public_key(), algorithms=["RS256"], options=options)


def test_whoever_adds_an_account_does_not_choose_where_requests_go(tmp_path: Path) -> None:
    """SSRF: a key file names its token endpoint. Google's are taken, and what the operator's settings name."""
    inside = "https://10.0.0.7/token"
    configured = FcmSettings(service_account_file=service_account(tmp_path / "own.json"))

    def added(settings: FcmSettings, token_uri: str) -> str:
        path = Path(service_account(tmp_path / "added.json", token_uri=token_uri))
        due = provider.credential(settings, {"service_account": Secret(path.read_bytes())}).exchange(NOW)
        assert due is not None
        return due.url

    for uri in ("https://oauth2.googleapis.com/token", "https://accounts.google.com/o/oauth2/token"):
        assert added(configured, uri) == uri
    for uri in (
        inside,
        "http://oauth2.googleapis.com/token",
        "https://oauth2.googleapis.com@10.0.0.7/token",
        "file:///x",
    ):
        with pytest.raises(ValueError, match="token_uri") as wrong:
            added(configured, uri)
        assert "10.0.0.7" not in str(wrong.value)
    own = FcmSettings(service_account_file=service_account(tmp_path / "inside.json", token_uri=inside))
    assert added(own, inside) == inside
    assert added(configured.model_copy(update={"token_uri": inside}), "https://x/token") == inside


def test_token_uri_may_point_elsewhere_while_the_audience_stays(tmp_path: Path) -> None:
    path = service_account(tmp_path / "a.json")
    due = provider.credential(FcmSettings(service_account_file=path, token_uri="https://localhost:1/token")).exchange(
        NOW
    )
    assert due is not None
    assert due.url == "https://localhost:1/token"
    assert claims(due)["aud"] == "https://oauth2.googleapis.com/token"


def grant(lifetime: object = 3600, token: str = "ya29.t") -> bytes:
    return json.dumps({"access_token": token, "expires_in": lifetime, "token_type": "Bearer"}).encode()


@pytest.mark.parametrize("lifetime", [3600, "3600"])
def test_an_access_token_is_refreshed_early_while_the_old_one_works(settings: FcmSettings, lifetime: object) -> None:
    credential = provider.credential(settings)
    assert credential.exchanged(200, (), grant(lifetime), NOW) == Outcome(Verdict.ACCEPTED)
    assert credential.headers("https://x", NOW) == ((b"authorization", b"Bearer ya29.t"),)
    assert credential.exchange(NOW + 2999) is None
    assert credential.exchange(NOW + 3000) is not None
    assert credential.headers("https://x", NOW + 3599) is not None
    assert credential.headers("https://x", NOW + 3600) is None


def test_a_short_lived_token_is_not_refreshed_all_the_time(settings: FcmSettings) -> None:
    credential = provider.credential(settings)
    credential.exchanged(200, (), grant(6), NOW)
    assert credential.exchange(NOW + 4.9) is None
    assert credential.exchange(NOW + 5) is not None


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b'{"access_token": 5}', grant("soon"), grant(0), grant("9" * 400)]
    + [grant(token=token) for token in ("", "a ", "a\r\nb")],
)
def test_an_unreadable_grant_is_tried_again(settings: FcmSettings, body: bytes) -> None:
    credential = provider.credential(settings)
    assert credential.exchanged(200, (), body, NOW).verdict is Verdict.UNAVAILABLE
    assert credential.headers("https://x", NOW) is None


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (408, b""),
        (429, b""),
        (500, b"<html>"),
        (503, b""),
        (504, b""),
        (400, b'{"error": "temporarily_unavailable"}'),
        (400, b'{"error": "internal_failure"}'),
        (403, b'{"error": "server_error"}'),
    ],
)
def test_the_token_endpoint_may_fail_for_a_while(settings: FcmSettings, status: int, body: bytes) -> None:
    """A valid old token keeps working meanwhile, and Retry-After is passed on."""
    credential = provider.credential(settings)
    credential.exchanged(200, (), grant(), NOW)
    outcome = credential.exchanged(status, ((b"retry-after", b"9"),), body, NOW + 3100)
    assert (outcome.verdict, outcome.retry_after) == (Verdict.UNAVAILABLE, 9.0)
    assert credential.headers("https://x", NOW + 3100) is not None
    assert credential.exchange(NOW + 3100) is not None


@pytest.mark.parametrize("error", ["invalid_grant", "invalid_client", "unauthorized_client", ""])
def test_a_refused_account_is_for_an_operator(settings: FcmSettings, error: str) -> None:
    body = json.dumps({"error": error}).encode() if error else b"<html>"
    outcome = provider.credential(settings).exchanged(400, (), body, NOW)
    assert outcome == Outcome(Verdict.CREDENTIAL, error or "http_400", scope=Scope.CREDENTIAL)


def http_date(instant: float) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"date", time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(instant)).encode()),)


@pytest.mark.parametrize("skew", [-7200, 7200])
def test_a_wrong_clock_is_corrected_once_from_the_date_field(settings: FcmSettings, skew: int) -> None:
    """`invalid_grant` with a Date far from ours: the next assertion has the service's time, and only one."""
    credential = provider.credential(settings)
    refusal = b'{"error": "invalid_grant"}'
    outcome = credential.exchanged(400, http_date(NOW + skew), refusal, NOW)
    assert (outcome.verdict, outcome.reason, outcome.retry_after) == (Verdict.UNAVAILABLE, "clock_skew", 0.0)
    assert claims(credential.exchange(NOW))["iat"] == NOW + skew - 30
    assert credential.exchanged(400, http_date(NOW + skew), refusal, NOW).verdict is Verdict.CREDENTIAL
    assert credential.exchanged(400, http_date(NOW + 3 * skew), refusal, NOW).verdict is Verdict.CREDENTIAL


def test_an_invalid_grant_with_the_right_clock_is_no_skew(settings: FcmSettings) -> None:
    outcome = provider.credential(settings).exchanged(400, http_date(NOW + 20), b'{"error": "invalid_grant"}', NOW)
    assert outcome.verdict is Verdict.CREDENTIAL


def test_renewing_drops_the_token_once(settings: FcmSettings) -> None:
    """Late refusals of requests that were signed with the old token do not drop the new one."""
    credential = provider.credential(settings)
    credential.exchanged(200, (), grant(token="old"), NOW)
    credential.renew(NOW + 600)
    assert credential.headers("https://x", NOW + 600) is None
    assert credential.exchange(NOW + 600) is not None
    credential.exchanged(200, (), grant(token="new"), NOW + 601)
    credential.renew(NOW + 610)
    assert credential.headers("https://x", NOW + 610) == ((b"authorization", b"Bearer new"),)


def test_secrets_show_nowhere(settings: FcmSettings) -> None:
    credential: Credential = provider.credential(settings)
    credential.exchanged(200, (), grant(token="ya29.secret"), NOW)
    assert repr(credential) == f"<ServiceAccount {credential.fingerprint}>"
    assert "PRIVATE" not in repr(settings) + str(settings)
    assert "PRIVATE" not in str(settings.model_dump())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"type": "authorized_user"}, "not a service account"),
        ({"private_key": None}, "lacks `private_key`"),
        ({"project_id": None}, "lacks `project_id`"),
        ({"private_key": "SECRET"}, "not a PEM private key"),
        ({"private_key": material.pem(material.EC_KEY).decode()}, "not an RSA key"),
    ],
)
def test_the_key_file_is_checked(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    wrong = FcmSettings(service_account_file=service_account(tmp_path / "a.json", **changes))
    with pytest.raises(ValueError, match=f"service_account_file: .*{why}") as raised:
        provider.credential(wrong)
    assert "SECRET" not in str(raised.value)


def test_a_missing_or_broken_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"service_account_file: cannot read .*gone\.json"):
        provider.credential(FcmSettings(service_account_file=str(tmp_path / "gone.json")))
    broken = material.written(tmp_path / "b.json", b"{")
    with pytest.raises(ValueError, match="is not JSON"):
        provider.credential(FcmSettings(service_account_file=broken))
    with pytest.raises(ValidationError):
        FcmSettings(service_account_file=broken, token_uri="http://x")


# Answers


def error(code: int, status: str, *details: dict[str, Any]) -> bytes:
    return json.dumps({"error": {"code": code, "message": "never read", "status": status, "details": details}}).encode()


def fcm(code: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}


VIOLATION = {
    "@type": "type.googleapis.com/google.rpc.BadRequest",
    "fieldViolations": [{"field": "message.data[0].value", "description": "Invalid value"}],
}
INFO = {
    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
    "reason": "ACCESS_TOKEN_EXPIRED",
    "domain": "googleapis.com",
}


def quota(**violation: Any) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]}


def limits(**metadata: str) -> dict[str, Any]:
    reason = {"reason": "RATE_LIMIT_EXCEEDED", "domain": "googleapis.com", "metadata": metadata}
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", **reason}


QUOTA = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": []}

ROWS = [
    # the numbers are those of fcm.md, section 4
    (1, 400, error(400, "INVALID_ARGUMENT", VIOLATION), Outcome(Verdict.REJECTED, "BAD_REQUEST")),
    (
        1,
        400,
        error(400, "INVALID_ARGUMENT", fcm("INVALID_ARGUMENT"), VIOLATION),
        Outcome(Verdict.REJECTED, "BAD_REQUEST"),
    ),
    (2, 400, error(400, "INVALID_ARGUMENT", fcm("INVALID_ARGUMENT")), Outcome(Verdict.REJECTED, "INVALID_ARGUMENT")),
    (
        3,
        401,
        error(401, "UNAUTHENTICATED", fcm("THIRD_PARTY_AUTH_ERROR")),
        response.DOWNSTREAM,
    ),
    (
        3,
        401,
        error(401, "UNAUTHENTICATED", fcm("APNS_AUTH_ERROR")),
        response.DOWNSTREAM,
    ),
    (
        4,
        401,
        error(401, "UNAUTHENTICATED", INFO),
        Outcome(Verdict.CREDENTIAL, "ACCESS_TOKEN_EXPIRED", scope=Scope.CREDENTIAL, remint=True),
    ),
    (4, 401, b"", Outcome(Verdict.CREDENTIAL, "http_401", scope=Scope.CREDENTIAL, remint=True)),
    (
        5,
        403,
        error(403, "PERMISSION_DENIED", fcm("SENDER_ID_MISMATCH")),
        Outcome(Verdict.REJECTED, "SENDER_ID_MISMATCH"),
    ),
    (6, 403, error(403, "PERMISSION_DENIED"), Outcome(Verdict.CREDENTIAL, "PERMISSION_DENIED", scope=Scope.CREDENTIAL)),
    (
        7,
        404,
        error(404, "NOT_FOUND", QUOTA, fcm("UNREGISTERED")),
        Outcome(Verdict.UNREGISTERED, "UNREGISTERED", dead_since=NOW),
    ),
    (8, 404, error(404, "NOT_FOUND"), Outcome(Verdict.CREDENTIAL, "NOT_FOUND", scope=Scope.APP)),
    (8, 404, b"<html>404", Outcome(Verdict.CREDENTIAL, "NOT_FOUND", scope=Scope.APP)),
    (
        9,
        429,
        error(429, "RESOURCE_EXHAUSTED", QUOTA, fcm("QUOTA_EXCEEDED")),
        Outcome(Verdict.THROTTLED, "QUOTA_EXCEEDED", retry_after=60.0, scope=Scope.UNNAMED),
    ),
    (9, 429, b"", Outcome(Verdict.THROTTLED, "http_429", retry_after=60.0, scope=Scope.UNNAMED)),
    (10, 500, error(500, "INTERNAL", fcm("INTERNAL")), Outcome(Verdict.UNAVAILABLE, "INTERNAL", retry_after=10.0)),
    (
        11,
        503,
        error(503, "UNAVAILABLE", fcm("UNAVAILABLE")),
        Outcome(Verdict.UNAVAILABLE, "UNAVAILABLE", retry_after=10.0),
    ),
    (12, 502, b"<html>Bad Gateway", Outcome(Verdict.UNAVAILABLE, "http_502", retry_after=10.0)),
    (12, 504, b"", Outcome(Verdict.UNAVAILABLE, "http_504", retry_after=10.0)),
    (13, 501, error(501, "UNIMPLEMENTED"), Outcome(Verdict.REJECTED, "UNIMPLEMENTED")),
    (
        14,
        400,
        error(400, "FAILED_PRECONDITION", fcm("UNSPECIFIED_ERROR")),
        Outcome(Verdict.REJECTED, "UNSPECIFIED_ERROR"),
    ),
    (14, 500, error(500, "INTERNAL", fcm("BRAND_NEW")), Outcome(Verdict.UNAVAILABLE, "BRAND_NEW", retry_after=10.0)),
    (14, 302, b"", Outcome(Verdict.REJECTED, "http_302")),
]


@pytest.mark.parametrize(("row", "status", "body", "meaning"), ROWS)
def test_answers(plan: Plan, row: int, status: int, body: bytes, meaning: Outcome) -> None:
    """The error code decides wherever it stands in the details; then the status; the message text never."""
    assert plan.outcome(status, (), body, NOW) == meaning


def test_every_row_of_the_table_is_tested() -> None:
    spoken = {body for _, _, body, _ in ROWS}
    assert all(any(code.encode() in body for body in spoken) for code in response.TABLE)
    assert {row for row, *_ in ROWS} == set(range(1, 15))


@pytest.mark.parametrize(
    ("value", "wait"),
    [(b"30", 30.0), (b"1", 10.0), (b"99999", 3600.0), (b"Fri, 15 Jan 2027 08:02:00 GMT", 120.0), (b"soon", None)],
)
@pytest.mark.parametrize(("status", "default"), [(429, 60.0), (503, 10.0)])
def test_retry_after(plan: Plan, status: int, default: float, value: bytes, wait: float | None) -> None:
    """Both forms, clamped to 10 s and an hour; without a readable one, what the documentation asks for."""
    assert plan.outcome(status, ((b"retry-after", value),), b"", NOW).retry_after == (default if wait is None else wait)


@pytest.mark.parametrize(
    ("details", "scope"),
    [
        ([quota(subject="project:shop-1")], Scope.APP),
        ([quota(quotaId="SendRequestsPerMinutePerProject")], Scope.APP),
        ([limits(quota_limit="defaultPerMinutePerProject", consumer="projects/1")], Scope.APP),
        ([quota(subject="device:abc")], Scope.TARGET),
        ([quota(quotaMetric="fcm.googleapis.com/registration_sends")], Scope.TARGET),
        ([limits(quota_metric="fcm.googleapis.com/device_messages")], Scope.TARGET),
        ([quota(subject="project:1"), quota(subject="device:abc")], Scope.TARGET),
        ([quota(description="the device of this project")], Scope.UNNAMED),
        ([limits(consumer="projects/1")], Scope.UNNAMED),
        ([quota(subject=5), {"@type": "x", "violations": [7], "metadata": "device"}], Scope.UNNAMED),
        ([], Scope.UNNAMED),
    ],
)
def test_whose_quota_ran_out(plan: Plan, details: list[dict[str, Any]], scope: Scope) -> None:
    """What is named for machines decides; one device among violations means that the others are not concerned."""
    body = error(429, "RESOURCE_EXHAUSTED", fcm("QUOTA_EXCEEDED"), *details)
    assert plan.outcome(429, (), body, NOW).scope is scope


def test_an_accepted_message_has_an_id(plan: Plan) -> None:
    body = b'{\n  "name": "projects/shop-1/messages/0:1470046298701173%108c2029108c2029"\n}'
    assert plan.outcome(200, (), body, NOW) == Outcome(
        Verdict.ACCEPTED, provider_id="0:1470046298701173%108c2029108c2029"
    )
    for unreadable in (b"", b"{}", b"\xff", b'{"name": 5}', b"<html>"):
        assert plan.outcome(200, (), unreadable, NOW) == Outcome(Verdict.ACCEPTED)


def test_names_of_answers_that_are_alike_are_read_together(plan: Plan) -> None:
    """As `outcome` reads each; what is not plain is left to it."""
    bodies = [b'{"name":"projects/p/messages/0:%d"}' % number for number in range(3)]

    def ids(status: int, bodies: list[bytes]) -> Sequence[str] | None:
        return plan.provider_ids(Alike(status, (), -1, [b""] * len(bodies), bodies))

    assert ids(200, bodies) == ["0:0", "0:1", "0:2"]
    assert ids(200, bodies) == [plan.outcome(200, (), body, NOW).provider_id for body in bodies]
    assert ids(201, bodies) is None
    for unreadable in (
        b"",
        b"{}",
        b'{"name":1}',
        b"\xff",
        b'{"name":"a"},{"name":"b"}',
        b'{"name":"a\\nb"}',
        b'{"name":"x"}',
    ):
        assert ids(200, [bodies[0], unreadable, bodies[1]]) is None


@pytest.mark.parametrize(
    "body",
    [
        b"\xff",
        b"[]",
        b'{"error": "text"}',
        b'{"error": {"details": {}}}',
        b'{"error": {"details": [1]}}',
        b'{"error": {"status": 5, "details": [{"@type": 1, "errorCode": 2, "reason": null, "fieldViolations": 3}]}}',
        b'{"error": {"status": "lower case", "details": []}}',
    ],
)
def test_no_body_raises(plan: Plan, body: bytes) -> None:
    assert plan.outcome(403, (), body, NOW) == Outcome(Verdict.CREDENTIAL, "http_403", scope=Scope.CREDENTIAL)
