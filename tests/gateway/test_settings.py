"""The configuration: a file, the environment over it, and every mistake told at once."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from gateway.settings import Settings, SettingsError, load
from providers import PROVIDERS

ROOT = Path(__file__).parents[2]


def write(folder: Path, text: str) -> Path:
    path = folder / "carillon.toml"
    path.write_text(text)
    return path


def mistakes(path: Path | None, environ: dict[str, str] | None = None) -> dict[str, str]:
    """What is wrong, by key."""
    with pytest.raises(SettingsError) as caught:
        load(path, environ or {})
    return {problem.key: problem.detail for problem in caught.value.problems}


def test_nothing_given_is_a_whole_configuration() -> None:
    """Every key has a default; only apps have to be told."""
    settings = load(None, {})
    assert (settings.http.host, settings.http.port) == ("127.0.0.1", 8080)
    assert settings.queue.path == Path.cwd() / "data/carillon.db"
    assert settings.data == Path.cwd() / "data"
    assert settings.queue.retention == 7 * 86400
    assert settings.dispatch.request_timeout == 15
    assert settings.dispatch.max_attempts == 20
    assert settings.blocks() == {}


TLS = {"certificate_file", "key_file", "client_ca_file", "client_certificates"}


def test_the_example_holds_every_key_and_is_valid() -> None:
    """The commented example loads, and no key of the sections is missing in it; its values are the defaults."""
    path = ROOT / "carillon.example.toml"
    settings = load(path, {})
    assert set(settings.blocks()) == {("shop", "apns"), ("shop", "fcm"), ("shop", "webpush")}
    written = tomllib.loads(path.read_text())
    defaults = load(None, {"CARILLON_QUEUE__PATH": str(ROOT / "data/carillon.db")})
    commented = {
        "http": TLS,
        "access": {"issuers", "certificates", "keys"},
        "kafka": {"instance", "ca_file", "certificate_file", "key_file"},
    }
    for section in ("http", "queue", "kafka", "dispatch", "observe", "access"):
        known = set(type(getattr(settings, section)).model_fields)
        assert set(written[section]) | commented.get(section, set()) == known
        assert getattr(settings, section) == getattr(defaults, section)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    """Any key, nested by two underscores; the rest of a table stays as the file has it."""
    path = write(tmp_path, '[http]\nport = 1\nhost = "0.0.0.0"\n[apps.shop.stub]\nkey = "from file"\nrate = 3\n')
    environ = {"CARILLON_HTTP__PORT": "2", "CARILLON_APPS__SHOP__STUB__KEY": "12345", "CARILLON_WORKERS": "4"}
    settings = load(path, environ)
    assert (settings.http.host, settings.http.port, settings.workers) == ("0.0.0.0", 2, 4)
    block = settings.blocks()["shop", "stub"]
    assert block.rate == 3
    assert block.key.get_secret_value() == "12345"  # type: ignore[attr-defined]


def test_an_app_can_be_configured_by_environment_alone() -> None:
    """As in a container without a file."""
    settings = load(None, {"CARILLON_APPS__MY_APP__STUB__KEY": "x"})
    assert list(settings.blocks()) == [("my_app", "stub")]


def test_the_processes_own_environment_does_not_come_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what `load` is given counts."""
    monkeypatch.setitem(os.environ, "CARILLON_HTTP__PORT", "99")
    assert load(None, {}).http.port == 8080
    assert Settings().http.port == 8080


@pytest.mark.parametrize(
    ("text", "seconds"), [("15s", 15), ("1h30m", 5400), ("7d", 604800), ("250ms", 0.25), ("12", 12), ("1.5m", 90)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    """Seconds, or numbers with units."""
    assert load(None, {"CARILLON_QUEUE__RETENTION": text}).queue.retention == seconds


@pytest.mark.parametrize("text", ["7 days", "s", "", "1h30", "-5s", "0", "nan", "inf"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """Nothing is guessed."""
    assert "queue.retention" in mistakes(None, {"CARILLON_QUEUE__RETENTION": text})


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Each with its dotted path and what is expected; a misspelt key with the one that was meant."""
    path = write(
        tmp_path,
        """
        workers = "many"
        [http]
        prt = 80
        port = 70000
        [queue]
        retention = "7 days"
        path = 3
        [apps."Bad Name".stub]
        key = "a"
        [apps.shop.stub]
        kee = "b"
        [apps.shop.apsn]
        [dispatch]
        max_attempts = 0
        """,
    )
    found = mistakes(path, {"CARILLON_HTTPP__PORT": "1"})
    assert found.keys() == {
        "workers",
        "http.prt",
        "http.port",
        "queue.retention",
        "queue.path",
        "apps.Bad Name",
        "apps.shop.stub.key",
        "apps.shop.stub.kee",
        "apps.shop.apsn",
        "dispatch.max_attempts",
        "CARILLON_HTTPP__PORT",
    }
    assert "is port meant?" in found["http.prt"]
    assert "65535" in found["http.port"]
    assert "15s" in found["queue.retention"]
    assert "missing" in found["apps.shop.stub.key"]
    assert "is key meant?" in found["apps.shop.stub.kee"]
    assert "is apns meant?" in found["apps.shop.apsn"]
    assert "is http meant?" in found["CARILLON_HTTPP__PORT"]


def test_the_error_is_readable_and_shows_no_value(tmp_path: Path) -> None:
    """One line a mistake, and not what was given: it may be a secret in the wrong place."""
    path = write(tmp_path, '[apps.shop.stub]\nkey = ["sekrit"]\nkee = "sekrit"\n')
    with pytest.raises(SettingsError) as caught:
        load(path, {})
    lines = str(caught.value).splitlines()
    assert lines[0] == f"The configuration ({path}) cannot be used:"
    assert len(lines) == 3
    assert "sekrit" not in str(caught.value) + repr(caught.value)


def test_a_section_that_is_no_table_is_named(tmp_path: Path) -> None:
    """A value where a table belongs is told as that."""
    assert mistakes(write(tmp_path, "http = 3\n")) == {"http": "expected a table, [http]"}


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """The same file works from any working directory; absolute paths and ~ stay what they are."""
    path = write(
        tmp_path,
        '[queue]\npath = "var/q.db"\n[apps.shop.stub]\nkey = "k"\nca_file = "ca.pem"\n'
        '[apps.other.stub]\nkey = "k"\nca_file = "/etc/ca.pem"\n',
    )
    settings = load(path, {})
    assert settings.queue.path == tmp_path / "var/q.db"
    assert settings.blocks()["shop", "stub"].ca_file == str(tmp_path / "ca.pem")
    assert settings.blocks()["other", "stub"].ca_file == "/etc/ca.pem"


def test_without_a_file_paths_are_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As everywhere on a command line."""
    monkeypatch.chdir(tmp_path)
    assert load(None, {"CARILLON_QUEUE__PATH": "q.db"}).queue.path == tmp_path / "q.db"


def test_a_missing_or_broken_file_is_told(tmp_path: Path) -> None:
    """With what to do, and where in the file."""
    assert "carillon.example.toml" in mistakes(tmp_path / "nowhere.toml")["file"]
    assert "line 2" in mistakes(write(tmp_path, "[http]\nport = = 3"))["file"]


def test_a_list_or_table_by_environment_has_to_be_json() -> None:
    """What cannot be decoded is told, not raised as something else."""
    block = "CARILLON_APPS__SHOP__WEBPUSH__"
    keys = {f"{block}VAPID_KEY_FILE": "v.pem", f"{block}SUBJECT": "mailto:a@example.com"}
    settings = load(None, {**keys, f"{block}ENDPOINTS": '["https://127.0.0.1:9443"]'})
    assert settings.blocks()["shop", "webpush"].endpoints == ("https://127.0.0.1:9443",)  # type: ignore[attr-defined]
    assert "JSON" in mistakes(None, {"CARILLON_APPS": "shop"})["CARILLON_*"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_each_providers_block_is_its_own_class(provider: str) -> None:
    """A block is checked by the provider that it names: unknown keys in it are mistakes."""
    found = mistakes(None, {f"CARILLON_APPS__SHOP__{provider.upper()}__NONSENSE": "1"})
    assert f"apps.shop.{provider}.nonsense" in found


def test_settings_cannot_be_changed() -> None:
    """What was checked is what runs."""
    settings = load(None, {})
    with pytest.raises(ValueError, match="frozen"):
        settings.workers = 2  # type: ignore[misc]


TENANTS = """
[apps.shop.stub]
key = "k"
[tenants.acme]
weight = 3
[tenants.acme.apps.shop]
weight = 2
[tenants.acme.apps.shop.stub]
key = "k"
ca_file = "ca.pem"
[tenants.acme.apps.news.stub]
key = "k"
"""


def test_a_tenants_apps_have_full_names(tmp_path: Path) -> None:
    """Beside those of the default tenant; their files are found as those are."""
    settings = load(write(tmp_path, TENANTS), {})
    assert set(settings.blocks()) == {("shop", "stub"), ("acme/shop", "stub"), ("acme/news", "stub")}
    assert settings.blocks()["acme/shop", "stub"].ca_file == str(tmp_path / "ca.pem")
    assert settings.tenant_names() == {"default", "acme"}


def test_a_tenants_weight_is_divided_among_its_apps(tmp_path: Path) -> None:
    """Tenants get their parts whatever number of apps they have; alone, an app's weight is its own."""
    weights = load(write(tmp_path, TENANTS), {}).weights()
    assert weights["acme/shop"] == pytest.approx(2 * weights["acme/news"])
    assert weights["acme/shop"] + weights["acme/news"] == pytest.approx(3 * weights["shop"])
    alone = load(write(tmp_path, '[apps.a]\nweight = 2\n[apps.b.stub]\nkey = "k"\n'), {})
    assert alone.weights() == {"a": 2, "b": 1}


@pytest.mark.parametrize(
    ("text", "key", "told"),
    [
        ("[tenants.Acme]\n", "tenants.Acme", "a tenant's name is"),
        ('[tenants."a/b"]\n', "tenants.a/b", "a tenant's name is"),
        ('[tenants.acme.apps."a/b"]\n', "tenants.acme.apps.a/b", "an app's name is"),
        ("[tenants.acme]\nqueud = 1\n", "tenants.acme.queud", "is queued meant"),
        ("[tenants.acme]\nqueued = 0\n", "tenants.acme.queued", "greater than 0"),
        ("[tenants.acme.apps.shop.stub]\nkee = 1\n", "tenants.acme.apps.shop.stub.kee", "is key meant"),
        ('[tenants.default.apps.shop.stub]\nkey = "k"\n', "tenants", "are [apps.NAME]"),
        ("[access]\nopn = true\n", "access.opn", "is open meant"),
        ('[[access.certificates]]\nsan = "acme.example"\n', "access.certificates.0.san", "pattern"),
        ('[[access.certificates]]\nsan = "DNS:a"\ntenant = "acme"\n', "settings", "tenants that there are not: acme"),
        ('[[access.keys]]\nname = "a"\nsha256 = "ab"\n', "access.keys.0.sha256", "pattern"),
        (
            f'[[access.keys]]\nname = "a"\nsha256 = "{"ab" * 32}"\nscope = []\n',
            "access.keys.0.scope",
            "is scopes meant",
        ),
        (f'[[access.keys]]\nname = "a"\nsha256 = "{"ab" * 32}"\ntenant = "acme"\n', "settings", "there are not: acme"),
        ("[http]\nkey_file = 'k.pem'\n", "http", "certificate_file"),
    ],
)
def test_mistakes_about_tenants_and_access_are_named(tmp_path: Path, text: str, key: str, told: str) -> None:
    found = mistakes(write(tmp_path, text))
    assert [where for where, detail in found.items() if told in detail] == [key], found


ISSUER = {
    "issuer": '"https://login.example/"',
    "audience": '"carillon"',
    "jwks_url": '"https://login.example/keys"',
    "algorithm": '"ES256"',
    "tenant": '"default"',
}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"jwks_url": '"http://login.example/keys"'}, "pattern"),
        ({"jwks_url": '"file:///etc/passwd"'}, "pattern"),
        ({"jwks_url": '"https://user:secret@login.example/keys"'}, "pattern"),
        ({"algorithm": '"HS256"'}, "EdDSA"),
        ({"algorithm": '"none"'}, "EdDSA"),
        ({"tenant_claim": '"tenant"'}, "either tenant"),
        ({"audience": '""'}, "at least 1 character"),
        ({}, ""),
    ],
)
def test_an_issuer_is_checked_at_start(tmp_path: Path, change: dict[str, str], told: str) -> None:
    rows = "".join(f"{key} = {value}\n" for key, value in {**ISSUER, **change}.items())
    path = write(tmp_path, f"[access.issuers.corporate]\n{rows}")
    if not change:
        assert set(load(path, {}).access.issuers) == {"corporate"}
        return
    ((where, detail),) = mistakes(path).items()
    assert where.startswith("access.issuers.corporate")
    assert told in detail
    assert "secret" not in detail


def test_kafka_needs_what_its_gateways_share() -> None:
    """Without Redis, or with sessions that end before leases do, there is no group."""
    kafka = {"CARILLON_KAFKA__SERVERS": '["kafka:9092"]'}
    assert "redis.url" in mistakes(None, kafka)["settings"]
    redis = {"CARILLON_REDIS__URL": "redis://redis"}
    assert load(None, kafka | redis).kafka.servers == ("kafka:9092",)
    short = {"CARILLON_KAFKA__SESSION_TIMEOUT": "10"}
    assert "session_timeout" in mistakes(None, kafka | redis | short)["settings"]
