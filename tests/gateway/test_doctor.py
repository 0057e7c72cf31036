"""`carillon doctor`: each finding says what is wrong and what to do."""

from __future__ import annotations

import socket
import time
from email.utils import formatdate
from pathlib import Path

import msgspec
import pytest
import trustme
from cryptography import x509

from gateway import doctor
from gateway.credentials.records import Record
from gateway.doctor import Finding, Level, examine
from gateway.settings import load
from providers.base import ClientCertificate, Secret
from tests.gateway.test_probe import answer, context, server
from tests.redis_server import RedisServer


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def environ(tmp_path: Path, port: int, ca_file: Path | None = None) -> dict[str, str]:
    found = {
        "CARILLON_QUEUE__PATH": str(tmp_path / "data/carillon.db"),
        "CARILLON_HTTP__PORT": "0",
        "CARILLON_APPS__SHOP__STUB__KEY": "sekrit",
        "CARILLON_APPS__SHOP__STUB__ENDPOINT": f"https://localhost:{port}",
    }
    return found | ({} if ca_file is None else {"CARILLON_APPS__SHOP__STUB__CA_FILE": str(ca_file)})


def test_a_healthy_configuration_has_no_failure(tmp_path: Path) -> None:
    """Every area is looked at, the endpoint is reached, and no secret is shown."""
    authority = trustme.CA()
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    with server(context(authority, "h2"), answer(formatdate(time.time(), usegmt=True))) as port:
        findings = list(examine(None, environ(tmp_path, port, ca_file)))
    assert [finding for finding in findings if finding.level is Level.FAILED] == []
    checks = by_check(findings)
    expected = {
        "sqlite",
        "file descriptors",
        "configuration",
        "data folder",
        "listener",
        "access",
        "credential",
        "endpoint",
    }
    assert expected | {"clock"} <= checks.keys()
    assert checks["clock"].level is Level.OK
    assert f"https://localhost:{port}" in checks["endpoint"].detail
    assert "sekrit" not in repr(findings)


def test_an_endpoint_that_cannot_be_reached_fails(tmp_path: Path) -> None:
    """With the endpoint and the step at which it failed; the other checks are made all the same."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    checks = by_check(list(examine(None, environ(tmp_path, port))))
    assert checks["endpoint"].level is Level.FAILED
    assert checks["endpoint"].remedy
    assert checks["credential"].level is Level.OK


def test_a_wrong_configuration_is_all_that_is_told_of_the_apps(tmp_path: Path) -> None:
    """Each mistake is a finding; what depends on the configuration is not guessed."""
    findings = list(examine(None, {"CARILLON_HTTP__PORT": "x", "CARILLON_APPS__SHOP__STUB__KEY": ""}))
    failed = [finding for finding in findings if finding.level is Level.FAILED]
    assert {finding.detail.partition(":")[0] for finding in failed} == {"http.port", "apps.shop.stub.key"}
    assert "data folder" not in by_check(findings)


def test_an_unusable_credential_fails_and_hides_no_other(tmp_path: Path) -> None:
    """Each credential is judged alone."""
    found = environ(tmp_path, 1)
    found["CARILLON_APPS__NEWS__STUB__KEY"] = "with spaces"
    settings = load(None, found)
    findings = list(doctor._CredentialCheck(settings).findings(time.time()))
    assert [(f.level, f.detail.split(":")[0]) for f in findings] == [
        (Level.OK, "shop/stub"),
        (Level.FAILED, "apps.news.stub"),
    ]


def test_no_app_is_a_warning(tmp_path: Path) -> None:
    """It can run, and do nothing."""
    path = str(tmp_path / "q.db")
    checks = by_check(list(examine(None, {"CARILLON_QUEUE__PATH": path, "CARILLON_HTTP__PORT": "0"})))
    assert checks["configuration"].level is Level.WARNING
    assert "[apps." in checks["configuration"].remedy


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("3.54.1", Level.OK),
        ("3.51.3", Level.OK),
        ("3.51.2", Level.FAILED),
        ("3.50.7", Level.OK),
        ("3.50.6", Level.FAILED),
        ("3.44.6", Level.OK),
        ("3.45.9", Level.FAILED),
        ("3.40.1", Level.FAILED),
    ],
)
def test_sqlite_with_the_log_reset_bug_is_refused(version: str, level: Level) -> None:
    """3.7.0 to 3.51.2 can lose committed pages, but for the versions it was back-ported to."""
    assert doctor.sqlite(version).level is level


@pytest.mark.parametrize(
    ("skew", "level"), [(0, Level.OK), (-29, Level.OK), (90, Level.WARNING), (-400, Level.FAILED), (4000, Level.FAILED)]
)
def test_a_clock_is_compared_with_the_services(skew: float, level: Level) -> None:
    """A little is tolerated; what gets signatures refused is a failure."""
    finding = doctor.clock(skew)
    assert finding.level is level
    assert ("NTP" in finding.remedy) == (level is not Level.OK)


def test_a_redis_that_would_forget_is_told(tmp_path: Path) -> None:
    """It is asked how it is kept; and one that is gone is a failure, without its password."""
    server = RedisServer(tmp_path)
    url = server.url.replace("redis://", "redis://:sekrit@")
    settings = load(None, {"CARILLON_REDIS__URL": server.url, "CARILLON_QUEUE__PATH": str(tmp_path / "q.db")})
    try:
        (forgets, answers) = doctor.group(settings)
    finally:
        server.kill()
    assert (forgets.level, forgets.remedy) == (Level.WARNING, "CONFIG SET appendonly yes")
    assert (answers.check, answers.level) == ("redis", Level.OK)
    settings = load(None, {"CARILLON_REDIS__URL": url, "CARILLON_QUEUE__PATH": str(tmp_path / "q.db")})
    (gone,) = doctor.group(settings)
    assert (gone.check, gone.level) == ("redis", Level.FAILED)
    assert "sekrit" not in repr(gone)


@pytest.mark.parametrize(
    ("about", "levels"),
    [
        ({"redis_version": "7.2.4", "maxmemory_policy": "noeviction", "aof_enabled": "1"}, [Level.OK]),
        ({"redis_version": "7.0.0", "maxmemory_policy": "allkeys-lru", "aof_enabled": "1"}, [Level.WARNING, Level.OK]),
        ({"redis_version": "6.2.14", "maxmemory_policy": "noeviction", "aof_enabled": "1"}, [Level.FAILED]),
    ],
)
def test_redis_has_to_keep_what_it_is_told(about: dict[str, str], levels: list[Level]) -> None:
    assert [finding.level for finding in doctor.redis(about)] == levels


def test_a_folder_that_cannot_be_written_fails(tmp_path: Path) -> None:
    """The gateway accepts nothing that it cannot store."""
    (tmp_path / "file").touch()
    (finding,) = doctor.storage(load(None, {"CARILLON_QUEUE__PATH": str(tmp_path / "file/sub/q.db")}))
    assert finding.level is Level.FAILED
    assert "queue.path" in finding.remedy


def test_little_space_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First as a warning, then as a failure."""
    settings = load(None, {"CARILLON_QUEUE__PATH": str(tmp_path / "q.db")})
    levels = []
    for free in (doctor.NO_SPACE - 1, doctor.LITTLE_SPACE - 1, doctor.LITTLE_SPACE):
        monkeypatch.setattr("shutil.disk_usage", lambda _folder, free=free: type("Usage", (), {"free": free}))
        (finding,) = doctor.storage(settings)
        levels.append(finding.level)
    assert levels == [Level.FAILED, Level.WARNING, Level.OK]


def test_a_taken_port_is_a_warning() -> None:
    """It may well be the gateway itself that listens there."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = load(None, {"CARILLON_HTTP__PORT": str(taken.getsockname()[1])})
        (finding,) = doctor.listener(settings)
    assert finding.level is Level.WARNING


def test_a_key_that_others_can_read_is_a_warning(tmp_path: Path) -> None:
    """With the command that cures it. A CA file is public."""
    key, ca = tmp_path / "vapid.pem", tmp_path / "ca.pem"
    for path in (key, ca):
        path.write_text("x")
        path.chmod(0o644)
    block = "CARILLON_APPS__SHOP__WEBPUSH__"
    found = {
        f"{block}VAPID_KEY_FILE": str(key),
        f"{block}SUBJECT": "mailto:a@example.com",
        f"{block}CA_FILE": str(ca),
    }
    warnings = [f for f in doctor.configuration(load(None, found), None) if f.level is Level.WARNING]
    assert [f.remedy for f in warnings] == [f"chmod 600 {key}"]
    key.chmod(0o600)
    assert all(f.level is Level.OK for f in doctor.configuration(load(None, found), None))


@pytest.mark.parametrize(
    ("more", "levels"),
    [
        ({}, [Level.OK]),
        ({"CARILLON_ACCESS__OPEN": "true"}, [Level.WARNING]),
        ({"CARILLON_HTTP__HOST": "0.0.0.0"}, [Level.OK, Level.WARNING]),
        ({"CARILLON_HTTP__HOST": "0.0.0.0", "CARILLON_HTTP__CERTIFICATE_FILE": "listener.pem"}, [Level.OK, Level.OK]),
        ({"CARILLON_HTTP__CERTIFICATE_FILE": "gone.pem"}, [Level.OK, Level.FAILED]),
    ],
)
def test_who_may_call_and_who_may_overhear(tmp_path: Path, more: dict[str, str], levels: list[Level]) -> None:
    """An open door and keys in clear text are warned of, each with what to do."""
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "listener.pem"))
    config = tmp_path / "carillon.toml"
    config.write_text("")
    findings = list(doctor.access(load(config, more), time.time()))
    assert [finding.level for finding in findings] == levels
    assert all(finding.remedy for finding in findings if finding.level is not Level.OK)


def test_a_certificates_dates_are_looked_at() -> None:
    """Before, during, in its last weeks, and after."""
    pem = Secret(trustme.CA().issue_cert("shop").cert_chain_pems[0].bytes())
    certificate = x509.load_pem_x509_certificate(pem.reveal())
    begins, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    moments = [begins - 1, begins + 1, ends - doctor.DAY, ends + 1]
    levels = [doctor.validity("shop/apns", ClientCertificate(pem, pem), moment).level for moment in moments]
    assert levels == [Level.FAILED, Level.OK, Level.WARNING, Level.FAILED]


def test_the_key_of_stored_credentials_is_looked_at(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("SECRET")
    key.chmod(0o600)
    found = doctor.sealing(load(None, {"CARILLON_CREDENTIALS__KEY_FILE": str(key)}), {})
    assert found.level is Level.FAILED
    assert "has to hold 32 bytes" in found.detail
    assert "SECRET" not in f"{found}"
    assert doctor.sealing(load(None, {}), {}).level is Level.OK


def test_credentials_at_work_are_told_of() -> None:
    """Refused, ending soon, ended, and well."""
    now = 1_800_000_000.0
    row = Record(
        100_000, "shop", "apns", "upload", "f00", "k", None, "active", 0.0, "", now, now, now, None, now, "alice",
    )  # fmt: skip
    rows = [
        msgspec.structs.replace(row, trouble="InvalidProviderToken"),
        msgspec.structs.replace(row, expires=now + doctor.DAY),
        msgspec.structs.replace(row, expires=now - doctor.DAY),
        msgspec.structs.replace(row, expires=now + 100 * doctor.DAY),
        msgspec.structs.replace(row, state="canary", share=0.1),
    ]
    found = list(doctor.rotated(rows, now))
    assert [each.level for each in found] == [Level.FAILED, Level.WARNING, Level.FAILED, Level.OK, Level.OK]
    assert "is refused by its service: InvalidProviderToken" in found[0].detail
    assert found[4].detail.endswith("is canary, signing 10%")
