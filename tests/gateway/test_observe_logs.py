"""Lines of logs: their form, their levels, and what never gets into them."""

from __future__ import annotations

import ast
import errno
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from gateway.observe import logs

TOKEN = "a1" * 32
JWT = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJURUFNIn0.c2lnbmF0dXJl"
FCM_TOKEN = "cFz3Xy12abcdef_-:APA91bHun4MxP5egoKMwt2KZFBaFUH-1RYqx"
ENDPOINT = "https://updates.push.services.mozilla.com/wpush/v2/gAAAAABcanaryCANARYcanary"
PEM = "-----BEGIN PRIVATE KEY-----\nMIGHcanaryCANARY\n-----END PRIVATE KEY-----"
CANARIES = (TOKEN, JWT, FCM_TOKEN, "gAAAAABcanary", "canaryCANARY", "sekrit")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Logging is the process's: each test leaves it as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level


def configured(level: str = "info", form: str = "json") -> io.BytesIO:
    out = io.BytesIO()
    logs.configure(level, form, out, worker=3)
    return out


def lines(out: io.BytesIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_is_one_json_object() -> None:
    """Level, time, the process's own fields, the event and what was said with it."""
    out = configured()
    structlog.get_logger().info("worker.ready", count=3, origin="https://api.push.apple.com")
    (line,) = lines(out)
    assert line.pop("timestamp")
    assert line == {
        "event": "worker.ready",
        "level": "info",
        "worker": 3,
        "count": 3,
        "origin": "https://api.push.apple.com",
    }


def test_levels_are_kept() -> None:
    """What is below the level costs nothing and is not there; libraries that chatter are held at warning."""
    out = configured("info")
    structlog.get_logger().debug("batch.completed")
    logging.getLogger("hpack.hpack").debug("Encoding header authorization: bearer sekrit")
    logging.getLogger("somewhere").info("a library speaks")
    assert [line["event"] for line in lines(out)] == ["a library speaks"]
    debug = configured("debug")
    logging.getLogger("hpack.hpack").debug("Encoding header authorization: bearer sekrit")
    assert lines(debug) == []


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_canary_gets_through(form: str) -> None:
    """Secrets, targets and payloads are hidden by their field's name and by their own shape, also in exceptions."""
    out = configured("debug", form)
    log = structlog.get_logger()
    log.info("a", token=TOKEN, endpoint=ENDPOINT, payload=b"sekrit", authorization="x sekrit", api_key="sekrit")
    log.info("b", nested={"keys": {"auth": "sekrit", "p256dh": "sekrit"}}, many=[{"device_token": TOKEN}], at=ENDPOINT)
    log.info(f"GET /3/device/{TOKEN} Bearer {JWT} and {FCM_TOKEN} to {ENDPOINT}", raw=PEM, fixed=TOKEN.encode())
    logging.getLogger("library").warning("refused %s for %s", JWT, ENDPOINT)
    try:
        raise ValueError(f"bad {TOKEN} with {PEM}")
    except ValueError:
        log.exception("c")
        logging.getLogger("library").exception("d")
    text = out.getvalue().decode()
    for canary in CANARIES:
        assert canary not in text
    assert "Traceback" in text
    assert "updates.push.services.mozilla.com" in text


def test_what_operators_need_is_shown() -> None:
    """Names, counts and fingerprints are not secrets."""
    out = configured()
    shown = {"app": "shop", "key_id": "ABC1234567", "fingerprint": "3f2a", "invalid_tokens": 3, "status": 410}
    structlog.get_logger().info("route.held", **shown)
    (line,) = lines(out)
    assert shown.items() <= line.items()


def test_console_form_is_for_people() -> None:
    """Text instead of JSON, with the same fields."""
    out = configured(form="console")
    structlog.get_logger().warning("worker.died", after_seconds=1.5)
    assert b"worker.died" in out.getvalue()
    assert not out.getvalue().startswith(b"{")


def logged() -> Iterator[tuple[str, str]]:
    """(level, event) of every call of a logger in the gateway's source."""
    for path in (Path(__file__).parents[2] / "gateway").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                receiver, event = node.func.value, node.args[0]
                named = isinstance(receiver, ast.Name) and receiver.id.lower() in ("log", "_log")
                if named and isinstance(event, ast.Constant):
                    yield {"exception": "error"}.get(node.func.attr, node.func.attr), str(event.value)


def test_the_published_table_is_what_is_logged() -> None:
    """Every event stands in the table of `gateway.observe.logs` at its level, and nothing else does."""
    published = set()
    level = ""
    for line in str(logs.__doc__).splitlines():
        level = match[0] if (match := re.match(r"(error|warning|info|debug)\b", line)) else level
        published |= {(level, event) for event in re.findall(r"`([a-z0-9_]+\.[a-z0-9_]+)`", line)}
    assert published == set(logged())


def test_a_log_that_cannot_be_written_fails_nobody() -> None:
    """The disk of the log may be full, or whoever read it gone: the work goes on, and so does the log afterwards."""

    class Full(io.BytesIO):
        full = True

        def write(self, line: Any) -> int:
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(line)

    out = Full()
    logs.configure("info", "json", out)
    structlog.get_logger().info("worker.ready")
    logging.getLogger("library").warning("something")
    out.full = False
    structlog.get_logger().info("worker.stopped")
    assert b"worker.stopped" in out.getvalue()
