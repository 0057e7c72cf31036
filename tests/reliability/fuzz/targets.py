"""What is attacked: functions from bytes to None that raise if a promise is broken, and nothing else.

Each is deterministic, quick, and free of IO.
"""

from __future__ import annotations

import atexit
import json
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.ingest import submission
from gateway.ingest.batching import Splitter
from gateway.ingest.body import Lines
from gateway.ingest.limits import Limits
from gateway.ingest.problem import Refused
from gateway.ingest.recipients import Refusals, Slice, decode_array, decode_lines
from gateway.ingest.submission import JobDocument, JobLine
from gateway.model import Job
from providers import PROVIDERS, template
from providers.apns import response as apns_answers
from providers.apns.settings import ApnsSettings
from providers.base import Headers, Message, Outcome, Problem, ProviderSettings, Recipient, Subscription, Terms, Verdict
from providers.fcm import response as fcm_answers
from providers.fcm.auth import ServiceAccount
from providers.fcm.settings import FcmSettings
from providers.retry_after import date, retry_after
from providers.stub.settings import StubSettings
from providers.webpush import auth, encryption, subscription
from providers.webpush import response as webpush_answers
from providers.webpush.settings import HOSTS, WebPushSettings
from tests.providers import material
from tests.providers.material import NOW, b64, point

FOLDER = Path(tempfile.mkdtemp(prefix="carillon-fuzz-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
SETTINGS: dict[str, ProviderSettings] = {
    "apns": ApnsSettings(topic="com.example.shop", team_id="TEAM123456", key_id="KEY1234567", key_file="k"),
    "fcm": FcmSettings(service_account_file=material.service_account(FOLDER / "account.json")),
    "webpush": WebPushSettings(vapid_key_file=str(FOLDER / "vapid"), subject="mailto:ops@shop.com"),
    "stub": StubSettings(key="k"),
}
assert isinstance(SETTINGS["fcm"], FcmSettings)
ACCOUNT = ServiceAccount(SETTINGS["fcm"])
P256DH, AUTH = b64(point(material.EC_KEY)), b64(b"0123456789abcdef")
TARGETS: dict[str, tuple[list[bytes], ...]] = {
    "apns": ([b"ab" * 32],),
    "fcm": ([b"token"],),
    "webpush": ([b"/x"], [P256DH.encode()], [AUTH.encode()]),
    "stub": ([b"token"],),
}
ORIGIN = "https://push.example.com"
LIMITS = Limits(line=2048)
"""A line of 2 KiB, so that inputs of a few KiB are cut."""


# Jobs


def job(data: bytes) -> None:
    """Any body is a job, or is refused in words; no recipient is lost between the two, and columns stay columns."""
    _refused_or_taken(_document, data)
    _refused_or_taken(_stream, data)


def _refused_or_taken(take: Callable[[bytes], None], data: bytes) -> None:
    try:
        take(data)
    except Refused as refused:
        answer = refused.response()
        assert 400 <= answer.status < 500
        assert isinstance(answer.body, bytes)
        assert json.loads(answer.body)["detail"]


def _document(data: bytes) -> None:
    document = submission.read(data, JobDocument)
    array = bytes(document.recipients)
    if array.startswith(b"["):
        # Leniently: what of the recipients is no UTF-8, or too large a number, is found one by one.
        count = len(json.loads(array.decode("utf-8", "replace"), parse_int=str, parse_float=str))
        _split(document, lambda refusals: decode_array(array, LIMITS.line, refusals), count)


def _stream(data: bytes) -> None:
    head, _, rest = data.partition(b"\n")
    line = submission.read(head, JobLine)
    texts = list(_texts(rest))
    cut = [text for text in texts if text]
    _split(line, lambda refusals: _decoded(cut, refusals), None)
    assert len(b"".join(cut)) <= len(rest)


def _texts(rest: bytes) -> Iterable[bytes]:
    """As they come off a socket, in two pieces."""
    lines = Lines(LIMITS.line)
    for piece in (rest[: len(rest) // 2], rest[len(rest) // 2 :]):
        yield from lines.feed(piece)
    yield from lines.end()


def _decoded(texts: Sequence[bytes], refusals: Refusals) -> Iterable[Slice]:
    first = 0
    for text in texts:
        for slice_ in decode_lines(text, first, LIMITS.line, refusals):
            first += slice_.total
            yield slice_


def _split(line: JobLine, slices: Callable[[Refusals], Iterable[Slice]], recipients: int | None) -> None:
    made, problems = submission.job(line, line.app, NOW)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=Job) == made
    _judge(problems)
    if problems:
        return
    refusals = Refusals(1000)
    splitter = Splitter(made, PROVIDERS, SETTINGS, refusals, LIMITS)
    total, batches = 0, []
    for slice_ in slices(refusals):
        total += slice_.total
        batches += splitter.add(slice_)
    batches += splitter.rest()
    assert recipients in (None, total)
    assert splitter.accepted.total() + refusals.count == total
    assert sum(batch.count for batch in batches) == splitter.accepted.total()
    for batch in batches:
        assert {column.count(b"\n") + 1 for column in (batch.recipients, *batch.columns)} == {batch.count}
        batch.recipients.decode()
    for refusal in refusals.listed():
        assert refusal.reason
        msgspec.json.encode(refusal)


def _judge(problems: Sequence[Problem]) -> None:
    for problem in problems:
        assert problem.pointer == "" or problem.pointer.startswith("/")
        assert problem.detail
        msgspec.json.encode(problem)


# Targets


def token(data: bytes) -> None:
    """A token goes into a path or a body as it is, so what is taken has nothing in it that ends either; a token is
    judged alike among others and alone, and no refusal repeats it."""
    text = data.decode("utf-8", "replace")
    for name, column in (("apns", "ab" * 32), ("fcm", "f" * 100), ("stub", "here")):
        alone = PROVIDERS[name].targets([_recipient(name, text)], SETTINGS[name])
        among = PROVIDERS[name].targets([_recipient(name, value) for value in (column, text, column)], SETTINGS[name])
        ((value,),) = alone.columns
        assert [value] == among.columns[0][1:2]
        assert alone.refused.get(0) == among.refused.get(1)
        assert set(among.refused) <= {1}
        if 0 in alone.refused:
            assert value == b""
            assert len(text) < 12 or text not in alone.refused[0]
        else:
            assert re.fullmatch(rb"[!-~]{1,4096}", value)
            assert value.decode().lower() == text.lower()
            assert name != "apns" or re.fullmatch(rb"(?:[0-9a-f]{2})+", value)


def _recipient(name: str, token: str) -> Recipient:
    return Recipient(id="r", provider=name, token=token)


def endpoint(data: bytes) -> None:
    """Whatever is taken leads to a push service that is allowed, to its port 443, and to the path that was given; to
    the mind of another parser as well."""
    text = data.decode("utf-8", "replace")
    found = _subscribed(text, P256DH, AUTH)
    ((origin,), (paths, *_), refused) = found
    if refused:
        assert (origin, paths) == ("", [b""])
        assert len(text) < 16 or text not in refused[0]
        return
    parts = urlsplit(text)
    host = (parts.hostname or "").removesuffix(".")
    assert origin == f"https://{host}"
    assert any(host == allowed or host.endswith("." + allowed) for allowed in HOSTS)
    assert (parts.scheme, parts.port, parts.username, parts.fragment) == ("https", parts.port and 443, None, "")
    assert re.fullmatch(rb"/[!-~]*", paths[0])
    assert text.endswith(paths[0].decode())
    assert paths[0].decode() == parts.path + ("?" * ("?" in text) + parts.query)


def keys(data: bytes) -> None:
    """`p256dh`, `auth` or a file of a VAPID key: exactly the points that OpenSSL takes are taken, and what is taken
    can be encrypted for or signed with."""
    text = data.decode("utf-8", "replace")
    found = _subscribed("https://fcm.googleapis.com/x", text, AUTH)
    assert (0 in found.refused) == (not _is_point(text))
    if not found.refused:
        _encrypted(found.columns)
    found = _subscribed("https://fcm.googleapis.com/x", P256DH, text)
    if not found.refused:
        _encrypted(found.columns)
    _vapid(data)


def _is_point(text: str) -> bool:
    value = text.rstrip("=").translate(str.maketrans("+/", "-_"))
    if not re.fullmatch(r"[A-Za-z0-9_-]{87}", value):
        return False
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), material.unb64(value))
    except ValueError:
        return False
    return material.unb64(value)[0] == 4


def _encrypted(columns: Sequence[Sequence[bytes]]) -> None:
    _, points, secrets = columns
    (body,) = encryption.encrypt([b"{}"], subscription.decode(points, 65), subscription.decode(secrets, 16))
    assert len(body) == 86 + 2 + 1 + 16  # RFC 8188: header with key, text with delimiter, tag


def _vapid(data: bytes) -> None:
    settings = SETTINGS["webpush"]
    assert isinstance(settings, WebPushSettings)
    Path(settings.vapid_key_file).write_bytes(data)
    try:
        vapid = auth.credential(settings)
    except ValueError as error:
        said = str(error)
    else:
        ((_, value),) = vapid.headers(ORIGIN, NOW) or ()
        assert _fit_for_a_field(value)
        return
    assert "vapid_key_file" in said
    assert len(data) < 16 or data.decode("latin-1") not in said


def _subscribed(address: str, p256dh: str, secret: str) -> Any:
    subscribed = Subscription(address, {"p256dh": p256dh, "auth": secret})
    return PROVIDERS["webpush"].targets(
        [Recipient(id="r", provider="webpush", subscription=subscribed)], SETTINGS["webpush"]
    )


# Header fields


def header(data: bytes) -> None:
    """A text in every place of a job that becomes a header field: refused, or a value that HTTP/2 allows."""
    text = data.decode("utf-8", "replace")
    for terms in (Terms(), Terms(collapse_key=text or None)):
        for name in PROVIDERS:
            _sendable(name, Message(title="x"), terms)
    for field in ("apns-push-type", "apns-topic", "apns-priority", "apns-expiration", "apns-collapse-id"):
        _sendable("apns", Message(title="x", apns={"headers": {field: text}}), Terms())
        _sendable("fcm", Message(title="x", fcm={"apns": {"headers": {field: text}}}), Terms())
    for field in ("topic", "urgency", "ttl"):
        _sendable("webpush", Message(title="x", webpush={field: text}), Terms())
        _sendable("fcm", Message(title="x", fcm={"webpush": {"headers": {field: text}}}), Terms())
    for field in ("collapse_key", "ttl", "priority"):
        _sendable("fcm", Message(title="x", fcm={"android": {field: text}}), Terms())


def _sendable(name: str, message: Message, terms: Terms) -> None:
    provider = PROVIDERS[name]
    problems = provider.check(message, terms, SETTINGS[name])
    _judge(problems)
    if problems:
        return
    plan = provider.compile(message, terms, SETTINGS[name], ORIGIN)
    given = dict.fromkeys(template.variables(message), 3)
    head, rendered = plan.head((), NOW), material.bodies(plan, message, TARGETS[name], given)
    assert len(head.varying) == len(rendered.fields)
    varying = ((field, column[0]) for field, column in zip(head.varying, rendered.fields, strict=True))
    for field, value in (*head.fixed, *head.literal, *varying):
        assert re.fullmatch(rb":?[a-z0-9-]+", field), field
        assert _fit_for_a_field(value), (field, value)
    if name != "webpush" and not rendered.rejected:
        json.loads(rendered.bodies[0])


def _fit_for_a_field(value: bytes) -> bool:
    """RFC 9113, section 8.2.1."""
    return not set(b"\r\n\0") & set(value) and value == value.strip(b" \t")


# Templates


def message(data: bytes) -> None:
    """A template, and after a line `---` the variables as JSON: refused, or rendered to one line of JSON that holds no
    more than it may. A plain one says what substitution says."""
    text, _, given = data.decode("utf-8", "replace").partition("\n---\n")
    said = Message(title=text, data={"k": text}, apns={"x": [text], "aps": {"badge": text}})
    try:
        values = msgspec.json.decode(given or "{}", type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError):
        values = {}
    recipient = Recipient(id="r", provider="stub", vars=values)
    for name in PROVIDERS:
        problems = PROVIDERS[name].check(said, Terms(), SETTINGS[name])
        _judge(problems)
        if not problems:
            _rendered(name, said, recipient)


def _rendered(name: str, said: Message, recipient: Recipient) -> None:
    names = template.variables(said)
    columns, refused = template.variable_columns([recipient], names)
    if refused:
        return
    plan = PROVIDERS[name].compile(said, Terms(), SETTINGS[name], ORIGIN)
    row = material.Rows([material.delivery_id(0)], TARGETS[name], tuple(columns) if names else ())
    done = plan.render(row, NOW)
    if done.rejected or name == "webpush":
        return
    assert b"\n" not in done.bodies[0]
    title = next(_titles(json.loads(done.bodies[0])))
    assert len(title) <= template.LONGEST_TEXT
    if not template.has_logic(names):
        assert title == _substituted(said.title or "", recipient)


def _titles(document: Any) -> Iterable[str]:
    if isinstance(document, dict):
        yield from (value for key, value in document.items() if key == "title")
        for value in document.values():
            yield from _titles(value)


def _substituted(text: str, recipient: Recipient) -> str:
    def value(match: re.Match[str]) -> str:
        raw = bytes(recipient.vars[match[1]])
        return str(json.loads(raw)) if raw.startswith(b'"') else raw.decode()

    return re.sub(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}", value, text)


# Answers


def error_body(data: bytes) -> None:
    """A body with any status, from any service, is an outcome with a short word and a finite wait."""
    for status in (200, 201, 400, 401, 403, 404, 410, 429, 500, 503):
        _understood(fcm_answers.outcome(status, (), data, NOW))
        _understood(apns_answers.outcome(status, (), data, NOW, own_topic=True))
        for service in webpush_answers.Service:
            _understood(webpush_answers.outcome(service, status, (), data, NOW))
        ACCOUNT.renew(NOW + 3600.0)
        _understood(ACCOUNT.exchanged(status, (), data, NOW))
        for _, value in ACCOUNT.headers(ORIGIN, NOW) or ():
            assert _fit_for_a_field(value)
    for provider in PROVIDERS.values():
        if (farewell := provider.farewell(data)) is not None:
            _understood(farewell)


def _understood(outcome: Outcome) -> None:
    assert outcome.verdict in Verdict
    assert re.fullmatch(r"[ -~]{0,64}", outcome.reason), outcome.reason
    assert (outcome.dead_since is not None) == (outcome.verdict is Verdict.UNREGISTERED)
    assert outcome.dead_since is None or (math.isfinite(outcome.dead_since) and outcome.dead_since <= NOW)
    assert outcome.retry_after is None or 0.0 <= outcome.retry_after <= 86_400.0
    msgspec.json.encode(outcome.provider_id)


def wait(data: bytes) -> None:
    """Any Retry-After, with any Date: nothing, or seconds within the bounds."""
    asked, _, dated = data.partition(b"\n")
    headers: Headers = ((b"retry-after", asked), (b"date", dated or asked))
    for fields in (headers, headers[:1], headers[1:]):
        seconds = retry_after(fields, NOW, 10.0, 3600.0)
        assert seconds is None or 10.0 <= seconds <= 3600.0
        instant = date(fields)
        assert instant is None or math.isfinite(instant)


ALL: dict[str, Callable[[bytes], None]] = {
    "job": job,
    "token": token,
    "endpoint": endpoint,
    "keys": keys,
    "header": header,
    "template": message,
    "error-body": error_body,
    "retry-after": wait,
}
