"""`carillon keys` and `carillon audit`, on the queue's file itself; and where the first key is found."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import apsw
import pytest
from click.testing import Result
from typer.testing import CliRunner

from gateway.access import first, keys
from gateway.access.keyring import Keyring
from gateway.access.principal import Scope
from gateway.cli import app
from gateway.commands import access as access_commands
from gateway.commands import terminal
from gateway.commands.access import SettingsLog, changes, first_key
from gateway.queue.database import Database
from gateway.settings import load

CONFIG = """
[apps.shop.stub]
key = "k"
[tenants.acme.apps.news.stub]
key = "k"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "carillon.toml"
    path.write_text(CONFIG)
    return path


def run(config: Path, *arguments: str, code: int = 0, **environ: str) -> Result:
    environment = {"COLUMNS": "250", "TERM": "dumb", "CARILLON_CONFIG": str(config), **environ}
    result = CliRunner().invoke(app, list(arguments), env=environment)
    assert result.exit_code == code, result.output
    return result


def told(config: Path, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    """The command's JSON, a line each."""
    return [json.loads(line) for line in run(config, *arguments, "--json", code=code).stdout.splitlines()]


def test_a_key_from_its_making_to_its_end(config: Path) -> None:
    """Shown once, listed without what opens the gateway, refused when it is over."""
    limits = ("--tenant", "acme", "--app", "news", "--scope", "send", "--expires", "1d")
    made = told(config, "keys", "create", "codes", *limits)
    assert made[0]["secret"].startswith("carillon_acme_")
    assert (made[0]["scopes"], made[0]["apps"]) == (["send"], ["news"])
    assert made[0]["expires"] == pytest.approx(time.time() + 86400, abs=60)
    (listed,) = told(config, "keys", "list")
    assert listed == {name: value for name, value in made[0].items() if name != "secret"}
    shown = run(config, "keys", "list").output
    assert all(part in shown for part in (listed["id"], "acme", "codes", "send", "news", "never", "until"))
    (ended,) = told(config, "keys", "revoke", listed["id"])
    assert ended["revoked"] is not None
    assert "revoked" in run(config, "keys", "list", "--tenant", "acme").output
    assert told(config, "keys", "list", "--tenant", "default") == []
    assert "no such key" in run(config, "keys", "revoke", "key_0", code=2).output


async def test_a_declared_key_is_good_wherever_its_table_is(config: Path, tmp_path: Path) -> None:
    """The command stores nothing; with the table that it prints any gateway knows the key, and what it is good for."""
    limits = ("--tenant", "acme", "--app", "news", "--scope", "send")
    (drawn,) = told(config, "keys", "create", "codes", *limits, "--declare")
    assert told(config, "keys", "list") == []
    assert drawn["secret"] not in drawn["configuration"]
    elsewhere = tmp_path / "elsewhere.toml"
    elsewhere.write_text(f"{CONFIG}\n{drawn['configuration']}\n")
    database = Database(tmp_path / "elsewhere.db")
    await database.open()
    ring = Keyring(database, declared=map(keys.declared, load(elsewhere, {}).access.keys))
    principal = await ring.holder(drawn["secret"])
    assert principal is not None
    assert (principal.tenant, principal.scopes, principal.apps) == ("acme", {Scope.SEND}, {"news"})
    assert await Keyring(database).holder(drawn["secret"]) is None
    await database.close()


def test_a_declared_key_has_no_end_of_its_own(config: Path) -> None:
    assert "taken out" in run(config, "keys", "create", "codes", "--declare", "--expires", "1d", code=2).output


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--tenant", "globex"), "[tenants.globex]"),
        (("--app", "news"), "'news' is no app of default"),
        (("--expires", "soon"), "duration"),
        (("--scope", "admin"), "send"),
    ],
)
def test_a_key_that_would_open_nothing_is_not_made(config: Path, arguments: tuple[str, ...], named: str) -> None:
    assert named in run(config, "keys", "create", "x", *arguments, code=2).output
    assert told(config, "keys", "list") == []


def test_a_third_key_of_a_name_is_refused(config: Path) -> None:
    for _ in range(2):
        run(config, "keys", "create", "campaigns")
    assert "revoke the one that nobody uses" in run(config, "keys", "create", "campaigns", code=2).output


def test_what_was_done_is_listed_and_verified(config: Path, tmp_path: Path) -> None:
    """And any change of it is found, with exit status 1."""
    made = told(config, "keys", "create", "codes")[0]
    told(config, "keys", "revoke", made["id"])
    entries = told(config, "audit", "list")
    assert [(entry["action"], entry["subject"]) for entry in entries] == [
        (action, made["id"]) for action in ("key.create", "key.revoke")
    ]
    assert all(entry["actor"].endswith("at the command line") for entry in entries)
    assert made["secret"] not in json.dumps(entries)
    assert made["id"] in run(config, "audit", "list", "--limit", "1").output
    (whole,) = told(config, "audit", "verify", "--head", entries[0]["hash"])
    assert (whole["ok"], whole["entries"], whole["head"]) == (True, 2, entries[1]["hash"])
    db = apsw.Connection(str(tmp_path / "data/carillon.db"))
    db.execute("DROP TRIGGER audit_stays; UPDATE audit SET actor = 'somebody else' WHERE number = 1")
    db.close()
    (broken,) = told(config, "audit", "verify", code=1)
    assert broken["fault"] == "row 1 is not what was written"
    assert "broken" in run(config, "audit", "verify", code=1).output


def test_the_first_start_makes_a_key_and_the_commands_find_it(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On this machine, unless another is named; a key does not go to another host by itself, and no log has it."""
    monkeypatch.setenv("CARILLON_CONFIG", str(config))
    monkeypatch.delenv("CARILLON_KEY", raising=False)
    first_key(settings := load(config, {}))
    secret = first.read(settings.data)
    assert secret is not None
    said = capsys.readouterr().err
    assert str(first.path(settings.data)) in said
    assert secret not in said  # standard error is no terminal here
    for url, expected in (
        ("http://127.0.0.1:8080", secret),
        ("http://localhost:8080", secret),
        ("http://[::1]:8080", secret),
        ("https://push.example.com", None),
        ("http://127.0.0.1.example.com", None),
    ):
        header = terminal.client(url)._credential
        assert header == ({} if expected is None else {"Authorization": f"Bearer {expected}"}), url
    monkeypatch.setenv("CARILLON_KEY", "carillon_acme_x")
    assert terminal.client("https://push.example.com")._credential == {"Authorization": "Bearer carillon_acme_x"}
    first_key(settings)
    assert capsys.readouterr().err == ""


def test_an_open_gateway_needs_no_key(config: Path) -> None:
    settings = load(config, {"CARILLON_ACCESS__OPEN": "true"})
    first_key(settings)
    assert first.read(settings.data) is None


def test_changed_settings_are_kept_by_name(config: Path) -> None:
    """Which keys of them, and never what they are set to."""
    noted = SettingsLog(load(config, {}))
    noted.reloaded(load(config, {"CARILLON_DISPATCH__MAX_ATTEMPTS": "7", "CARILLON_APPS__SHOP__STUB__KEY": "hush"}))
    loaded, reloaded = told(config, "audit", "list")
    assert (loaded["action"], loaded["actor"], loaded["detail"]) == (
        "settings.load", "gateway", {"apps": ["acme/news", "shop"]},
    )  # fmt: skip
    assert reloaded["detail"] == {"changed": ["apps.shop.stub.key", "dispatch.max_attempts"]}
    assert "hush" not in json.dumps(reloaded)


def test_changes_are_found_at_their_depth() -> None:
    former = {"a": {"b": 1, "c": {"d": 2}}, "e": 3, "f": None}
    assert changes(former, former) == []
    assert changes(former, {"a": {"b": 1, "c": {"d": 4}}, "f": {"g": 1}}) == ["a.c.d", "e", "f"]


def test_settings_that_cannot_be_noted_keep_nobody_from_starting(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk: the gateway runs, and its log says so."""
    from gateway.queue.base import QueueFull

    def full(*_: object) -> None:
        raise QueueFull("the disk is full")

    monkeypatch.setattr(access_commands, "_transaction", full)
    SettingsLog(load(config, {}))
    assert "audit.not_written" in "".join(capsys.readouterr())


def test_keys_are_made_beside_a_gateway_that_runs(config: Path) -> None:
    """The file is shared: whoever has it open sees the new key."""
    told(config, "keys", "create", "before")
    db = apsw.Connection(str(load(config, {}).queue.path))
    before = keys.revision(db)
    told(config, "keys", "create", "after")
    assert keys.revision(db) == before + 1
    db.close()
