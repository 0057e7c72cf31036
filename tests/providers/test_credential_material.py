"""Credentials of material that comes without files, and the requests that prove them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from providers import PROVIDERS
from providers.apns.settings import ApnsSettings
from providers.base import Credential, Material, Outcome, Secret, Verdict
from providers.fcm.settings import FcmSettings
from providers.stub.settings import StubSettings
from providers.webpush.settings import WebPushSettings
from tests.providers.material import EC_KEY, NOW, certificate, pem, service_account, written

APNS, FCM, WEBPUSH, STUB = (PROVIDERS[name] for name in ("apns", "fcm", "webpush", "stub"))
OF_TEAM = ApnsSettings(topic="com.example.shop", team_id="TEAM123456", key_id="KEY1234567", key_file="unread.p8")
BY_CERTIFICATE = ApnsSettings(topic="com.example.shop", certificate_file="unread.pem")
P8 = pem(EC_KEY).decode()


def material(**parts: str) -> Material:
    return {name: Secret(part.encode()) for name, part in parts.items()}


def apns(settings: ApnsSettings = OF_TEAM, **parts: str) -> Credential:
    return APNS.credential(settings, material(**parts))


def test_an_apns_key_has_names_of_its_own_or_those_of_the_settings() -> None:
    assert apns(key=P8).key_id == "KEY1234567"
    own = apns(key=P8, key_id="NEWKEY0001\n")
    assert own.key_id == "NEWKEY0001"
    assert own.fingerprint != apns(key=P8).fingerprint
    assert apns(BY_CERTIFICATE, key=P8, key_id="NEWKEY0001", team_id="TEAM123456").key_id == "NEWKEY0001"


@pytest.mark.parametrize(
    ("settings", "parts", "why"),
    [
        (OF_TEAM, {}, "key: is missing"),
        (OF_TEAM, {"key": "SECRET"}, "key: what was given is not a PEM private key"),
        (OF_TEAM, {"key": P8, "team_id": "OTHER12345"}, "is of team OTHER12345, and this app is of TEAM123456"),
        (OF_TEAM, {"key": P8, "key_id": "SECRET"}, "key_id: has to be given: 10 capitals and digits"),
        (OF_TEAM, {"key": P8, "key_id": "ÄSECRET"}, "key_id: is not ASCII text"),
        (OF_TEAM, {"key": P8, "secret": "SECRET"}, "secret: is no part of such a credential; known here: certificate"),
        (OF_TEAM, {"key": P8, "certificate": "SECRET"}, "key: is no part of such a credential"),
        (OF_TEAM, {"certificate": "SECRET"}, "what was given is not a PEM certificate"),
        (BY_CERTIFICATE, {"key": P8}, "has to be given: 10 capitals and digits"),
    ],
)
def test_what_is_wrong_with_an_apns_credential_is_named(settings: ApnsSettings, parts: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why) as raised:
        apns(settings, **parts)
    assert "SECRET" not in str(raised.value)


def test_a_certificates_whole_chain_is_read() -> None:
    """It is sent as it is: what OpenSSL cannot read must not be stored."""
    chain = certificate([]).decode()
    found = apns(BY_CERTIFICATE, certificate=chain)
    assert found.expires_at is not None
    with pytest.raises(ValueError, match="is not a PEM certificate"):
        apns(BY_CERTIFICATE, certificate=chain + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


def test_another_account_has_to_be_of_the_project(tmp_path: Path) -> None:
    """Unless the settings name one, to which several may send."""
    path = service_account(tmp_path / "a.json")
    account = json.loads(Path(path).read_text())
    own = FcmSettings(service_account_file=path)
    other = json.dumps(account | {"project_id": "other", "private_key_id": "2"})
    with pytest.raises(ValueError, match=f"is of project other, and this app sends to {account['project_id']}"):
        FCM.credential(own, material(service_account=other))
    named = FcmSettings(service_account_file=path, project_id=account["project_id"])
    assert FCM.credential(named, material(service_account=other)).key_id == "2"


def test_other_vapid_and_bearer_keys(tmp_path: Path) -> None:
    settings = WebPushSettings(vapid_key_file=written(tmp_path / "k", pem(EC_KEY)), subject="mailto:a@example.com")
    found = WEBPUSH.credential(settings, material(vapid_key=P8))
    assert found.fingerprint == WEBPUSH.credential(settings).fingerprint
    with pytest.raises(ValueError, match="vapid_key: what was given"):
        WEBPUSH.credential(settings, material(vapid_key="SECRET"))
    bearer = STUB.credential(StubSettings(key="one"), material(key="two"))
    assert bearer.headers("", NOW) == ((b"authorization", b"Bearer two"),)


# Probes


def test_apns_is_asked_with_a_token_of_nobody() -> None:
    """Signed as always, nothing that a device would show, and nothing to be stored."""
    credential = apns(key=P8)
    probe = APNS.probe(OF_TEAM, credential, NOW)
    assert probe is not None
    assert probe.url == "https://api.push.apple.com/3/device/" + "0" * 64
    fields = dict(probe.headers)
    assert fields[b"apns-push-type"] == b"background"
    assert fields[b"apns-expiration"] == b"0"
    assert (b"authorization", fields[b"authorization"]) == (credential.headers("", NOW) or ())[0]
    assert b"alert" not in probe.body


@pytest.mark.parametrize(
    ("status", "reason", "verdict"),
    [
        (400, "BadDeviceToken", Verdict.ACCEPTED),
        (410, "Unregistered", Verdict.ACCEPTED),
        (200, "", Verdict.ACCEPTED),
        (403, "InvalidProviderToken", Verdict.CREDENTIAL),
        (403, "BadCertificate", Verdict.CREDENTIAL),
        (400, "TopicDisallowed", Verdict.CREDENTIAL),
        (429, "TooManyProviderTokenUpdates", Verdict.UNAVAILABLE),
        (503, "ServiceUnavailable", Verdict.UNAVAILABLE),
        (400, "BadPriority", Verdict.UNAVAILABLE),
    ],
)
def test_what_apns_answer_proves(status: int, reason: str, verdict: Verdict) -> None:
    body = json.dumps({"reason": reason}).encode() if reason else b""
    assert APNS.proof(status, (), body, NOW).verdict is verdict


def test_fcm_is_asked_for_a_dry_run(tmp_path: Path) -> None:
    settings = FcmSettings(service_account_file=service_account(tmp_path / "a.json"))
    credential = FCM.credential(settings)
    credential.exchanged(200, (), b'{"access_token": "t", "expires_in": 3600}', NOW)
    probe = FCM.probe(settings, credential, NOW)
    assert probe is not None
    assert probe.url == f"https://fcm.googleapis.com/v1/projects/{settings.project}/messages:send"
    assert json.loads(probe.body)["validate_only"] is True
    assert (b"authorization", b"Bearer t") in probe.headers


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.ACCEPTED),
        (400, Verdict.ACCEPTED),
        (401, Verdict.CREDENTIAL),
        (403, Verdict.CREDENTIAL),
        (404, Verdict.CREDENTIAL),
        (429, Verdict.UNAVAILABLE),
        (500, Verdict.UNAVAILABLE),
    ],
)
def test_what_fcms_answer_proves(status: int, verdict: Verdict) -> None:
    outcome: Outcome = FCM.proof(status, (), b"{}", NOW)
    assert outcome.verdict is verdict


def test_others_have_no_such_request(tmp_path: Path) -> None:
    """Their own check has to do, and nothing is asked."""
    settings = WebPushSettings(vapid_key_file=written(tmp_path / "k", pem(EC_KEY)), subject="mailto:a@example.com")
    assert WEBPUSH.probe(settings, WEBPUSH.credential(settings), NOW) is None
    stub = StubSettings(key="one")
    assert STUB.probe(stub, STUB.credential(stub), NOW) is None
