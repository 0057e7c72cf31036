"""What every provider promises, whatever a caller sends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from providers import PROVIDERS, template
from providers.apns.payload import NUMERIC, RULES
from providers.apns.settings import ApnsSettings
from providers.base import Message, Outcome, ProviderSettings, Recipient, Subscription, Terms
from providers.fcm.settings import FcmSettings
from providers.stub.settings import StubSettings
from providers.webpush.settings import WebPushSettings
from tests.providers import material
from tests.providers.material import NOW, b64, point

WORDS = sorted(
    {*RULES, *NUMERIC, "aps", "alert", "title", "headers", "apns-priority", "apns-push-type", "apns-topic"}
    | {"android", "apns", "webpush", "notification", "data", "payload", "ttl", "priority", "fcmOptions", "link"}
    | {"topic", "urgency", "tag", "silent", "vibrate", "id", "token", "color", "analyticsLabel", "liveActivityToken"}
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5000),
    st.floats(-2, 2),
    st.sampled_from(["", "x", "{{ n }}", "{{n}} {{m}}", "5s", "high", "alert", "background", "5", "https://x", '"\\%']),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(st.one_of(st.sampled_from(WORDS), st.text(max_size=3)), inner, max_size=4),
    ),
    max_leaves=10,
)
BLOCKS = st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=4)
TERMS = st.builds(
    Terms,
    expires_at=st.none() | st.just(NOW + 60),
    collapse_key=st.none() | st.text(max_size=70),
    transactional=st.booleans(),
)


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ProviderSettings]:
    folder: Path = tmp_path_factory.mktemp("keys")
    return {
        "apns": ApnsSettings(topic="com.example.shop", team_id="TEAM123456", key_id="KEY1234567", key_file="k"),
        "fcm": FcmSettings(service_account_file=material.service_account(folder / "a.json")),
        "webpush": WebPushSettings(vapid_key_file="k", subject="mailto:ops@shop.com"),
        "stub": StubSettings(key="k"),
    }


TARGETS = {
    "apns": ([b"ab" * 32],),
    "fcm": ([b"token"],),
    "webpush": ([b"/x"], [b64(point(material.EC_KEY)).encode()], [b64(b"0123456789abcdef").encode()]),
    "stub": ([b"token"],),
}


@pytest.mark.parametrize("name", PROVIDERS)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(block=BLOCKS, title=st.none() | st.just("{{ n }}"), terms=TERMS)
def test_whatever_passes_the_check_can_be_sent(
    configured: dict[str, ProviderSettings], name: str, block: dict[str, Any], title: str | None, terms: Terms
) -> None:
    """`check` never raises, points into the job, and what it lets through renders to JSON of one line."""
    provider, mine = PROVIDERS[name], configured[name]
    message = Message(title=title, **{name: block})
    problems = provider.check(message, terms, mine)
    assert all(problem.pointer.startswith(("/message", "/collapse_key")) for problem in problems)
    if problems:
        return
    plan = provider.compile(message, terms, mine, "https://push.example.com")
    rendered = material.bodies(plan, message, TARGETS[name], dict.fromkeys(template.variables(message), 3))
    head = plan.head((), NOW)
    assert len(rendered.fields) == len(head.varying)
    for field, value in (*head.fixed, *head.literal, *((b"", column[0]) for column in rendered.fields)):
        assert not set(b"\r\n\0") & set(field + value)
    if not rendered.rejected and name != "webpush":
        assert isinstance(json.loads(rendered.bodies[0]), dict)


@pytest.mark.parametrize("name", PROVIDERS)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    status=st.integers(0, 700),
    body=st.one_of(st.binary(max_size=60), VALUES.map(lambda value: json.dumps(value).encode())),
    headers=st.lists(
        st.tuples(st.sampled_from([b"retry-after", b"location", b"x"]), st.binary(max_size=20)), max_size=3
    ),
)
def test_no_answer_raises(
    configured: dict[str, ProviderSettings], name: str, status: int, body: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    plan = PROVIDERS[name].compile(Message(title="t"), Terms(), configured[name], "https://fcm.googleapis.com")
    assert isinstance(plan.outcome(status, tuple(headers), body, NOW), Outcome)


@pytest.mark.parametrize("name", PROVIDERS)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tokens=st.lists(st.none() | st.text(max_size=12) | st.sampled_from(["ab", "00ff"]), max_size=4), endpoint=st.text()
)
def test_columns_are_whole_and_fit_into_lines(
    configured: dict[str, ProviderSettings], name: str, tokens: list[str | None], endpoint: str
) -> None:
    """A value for every recipient in every column, never with a newline, blank where refused."""
    provider = PROVIDERS[name]
    subscription = Subscription(endpoint=endpoint, keys={"p256dh": endpoint})
    people = [Recipient(id="r", provider=name, token=token, subscription=subscription) for token in tokens]
    found = provider.targets(people, configured[name])
    assert len(found.columns) == provider.target_columns
    assert all(len(column) == len(people) for column in (found.origins, *found.columns))
    for column in found.columns:
        for position, value in enumerate(column):
            assert (value == b"") == (position in found.refused)
            assert b"\n" not in value
    assert all("\n" not in reason for reason in found.refused.values())
