"""The smallest whole provider: everything a provider has to do, once."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from providers import PROVIDERS
from providers.base import Message, Outcome, Recipient, Scope, Terms, Verdict
from providers.stub.settings import StubSettings
from tests.providers.material import NOW, bodies, delivery_id

STUB = PROVIDERS["stub"]
SETTINGS = StubSettings(key="s3cret-key")


def test_every_provider_is_in_the_table_under_its_own_name() -> None:
    assert {name: provider.name for name, provider in PROVIDERS.items()} == {name: name for name in PROVIDERS}


def test_targets_are_checked_one_by_one_where_one_is_wrong() -> None:
    """A token goes into a path, so everything but harmless characters is refused; the others stay."""
    tokens = ["good-1", None, "a/../b", "", "x" * 200, "x" * 201, "ü", "two\nlines"]
    found = STUB.targets([Recipient(id="r", provider="stub", token=token) for token in tokens], SETTINGS)
    assert sorted(found.refused) == [1, 2, 3, 5, 6, 7]
    assert found.columns == ([b"good-1", b"", b"", b"", b"x" * 200, b"", b"", b""],)
    assert found.origins == [""] * 8
    assert STUB.registered_keys("", found.columns) == found.columns[0]


def test_a_request_has_path_key_id_and_payload() -> None:
    """`POST /push/{token}` with a bearer key and the delivery's id."""
    message = Message(title="Hi {{name}}", body="B", link="https://l", data={"k": "{{name}}"}, stub={"extra": 1})
    assert STUB.check(message, Terms(), SETTINGS) == []
    plan = STUB.compile(message, Terms(), SETTINGS, "https://localhost:7001")
    auth = STUB.credential(SETTINGS).headers("https://localhost:7001", NOW)
    assert auth is not None
    head = plan.head(auth, NOW)
    assert dict(head.fixed) == {
        b":method": b"POST",
        b":scheme": b"https",
        b":authority": b"localhost:7001",
        b"content-type": b"application/json",
        b"authorization": b"Bearer s3cret-key",
    }
    assert (head.literal, head.varying) == ((), (b":path",))
    rendered = bodies(plan, message, ([b"t0", b"t1"],), {"name": "A"}, {"name": 'B"'})
    assert rendered.fields == ([b"/push/t0", b"/push/t1"],)
    assert json.loads(rendered.bodies[1]) == {
        "id": delivery_id(1).decode(),
        "title": 'Hi B"',
        "body": "B",
        "data": {"link": "https://l", "k": 'B"'},
        "extra": 1,
    }


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (1, False)])
def test_the_limit_holds_per_recipient_and_for_the_message(spare: int, fits: bool) -> None:
    """4,096 bytes of rendered body go, one more is rejected; what is too large for everyone is a problem at once."""
    message = Message(body="{{v}}")
    plan = STUB.compile(message, Terms(), SETTINGS, "https://x")
    frame = len(bodies(plan, message, ([b"t"],), {"v": ""}).bodies[0])
    rendered = bodies(plan, message, ([b"t"],), {"v": "x" * (4096 - frame + spare)})
    assert (rendered.rejected == {}) is fits
    constant = Message(body="x" * (4096 - frame + 36 + spare))  # the id's 36 bytes are the recipient's
    assert (STUB.check(constant, Terms(), SETTINGS) == []) is fits


ANSWERS = [
    (200, (), b"", Outcome(Verdict.ACCEPTED)),
    (400, (), b"", Outcome(Verdict.REJECTED, "bad_request")),
    (401, (), b"", Outcome(Verdict.CREDENTIAL, "unauthorized", scope=Scope.CREDENTIAL)),
    (413, (), b"", Outcome(Verdict.REJECTED, "too_large")),
    (410, (), b'{"reason": "gone", "since": 1700000000}', Outcome(Verdict.UNREGISTERED, "gone", dead_since=1.7e9)),
    (410, (), b"<html>", Outcome(Verdict.UNREGISTERED, "gone", dead_since=NOW)),
    (429, ((b"retry-after", b"7"),), b"", Outcome(Verdict.THROTTLED, "throttled", retry_after=7.0, scope=Scope.APP)),
    (503, (), b"", Outcome(Verdict.UNAVAILABLE, "http_503")),
    (302, (), b"", Outcome(Verdict.REJECTED, "http_302")),
    (404, (), b"", Outcome(Verdict.REJECTED, "http_404")),
]


@pytest.mark.parametrize(("status", "headers", "body", "meaning"), ANSWERS)
def test_answers(status: int, headers: tuple[tuple[bytes, bytes], ...], body: bytes, meaning: Outcome) -> None:
    plan = STUB.compile(Message(title="t"), Terms(), SETTINGS, "https://x")
    assert plan.outcome(status, headers, body, NOW) == meaning


def test_the_key_shows_nowhere() -> None:
    """Neither settings nor credential print it, and a bad one is not quoted."""
    credential = STUB.credential(SETTINGS)
    assert "s3cret" not in repr(credential) + repr(SETTINGS) + str(SETTINGS)
    assert credential.fingerprint in repr(credential)
    with pytest.raises(ValueError, match="key: ") as raised:
        STUB.credential(StubSettings(key="s3cret\r\nx: y"))
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("endpoint", ["http://x", "https://x/path", "https://", "https://u@x", "x"])
def test_an_endpoint_is_an_https_origin(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="endpoint"):
        StubSettings(key="k", endpoint=endpoint)
