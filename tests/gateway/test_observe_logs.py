"""Lines of logs: their form, their levels, and what never gets into them."""

from __future__ import annotations

import ast
import asyncio
import errno
import io
import json
import logging
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from gateway.observe import logs
from gateway.observe.redaction import Mask

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
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    yield
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
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
    """What is below the level costs nothing and is not there; libraries are held at warning, whatever they think."""
    out = configured("info")
    structlog.get_logger().debug("batch.completed")
    logging.getLogger("hpack.hpack").debug("Encoding header authorization: bearer sekrit")
    logging.getLogger("somewhere").info("a library speaks")
    assert lines(out) == []
    debug = configured("debug")
    for name in ("hpack.hpack", "h2", "aiohttp.server", "aiokafka.consumer", "redis", "asyncio"):
        chatty = logging.getLogger(name)
        chatty.setLevel(logging.DEBUG)
        chatty.debug("Encoding header authorization: bearer sekrit")
        chatty.info("and so on")
        chatty.setLevel(logging.NOTSET)
    assert lines(debug) == []
    logging.getLogger("somewhere").warning("a library speaks")
    assert [line["event"] for line in lines(debug)] == ["a library speaks"]


def test_of_a_library_only_what_is_fixed_and_numbers_are_shown() -> None:
    """Whatever else it wanted to say may be anything that passed through it."""
    out = configured()
    library = logging.getLogger("library")
    library.warning("%d of %s failed after %.1f s at %s%%: %r", 3, "sekrit", 1.5, 20, ValueError("sekrit"))
    library.error(ValueError("sekrit"))
    library.error("Task exception was never retrieved\nfuture: <Task exception=ValueError('sekrit')>")
    library.error("%(name)s is %(age)d", {"name": "sekrit", "age": 4})
    library.error("broken %s %s", "sekrit")
    assert [line["event"] for line in lines(out)] == [
        "3 of [hidden] failed after 1.5 s at 20%: [hidden]",
        "ValueError",
        "Task exception was never retrieved",
        "[hidden] is [hidden]",
        "broken [hidden] [hidden]",
    ]


def test_of_exceptions_types_and_places_are_shown_and_no_words() -> None:
    """They quote what they stumbled over; where that was is enough to find it."""
    out = configured()
    try:
        try:
            {}["sekrit"]
        except KeyError as error:
            raise ExceptionGroup("sekrit", [ValueError("sekrit"), OSError("sekrit")]) from error
    except ExceptionGroup:
        structlog.get_logger().exception("worker.failed", stack_info=True)
        logging.getLogger("library").exception("failed")
    structlog.get_logger().error("told", reason=ValueError("sekrit"))
    for line in lines(out)[:2]:
        assert "sekrit" not in json.dumps(line)
        told = str(line["exception"])
        for name in ("KeyError", "ExceptionGroup", "ValueError", "OSError"):
            assert f"builtins.{name}" in told
        assert f'File "{__file__}", line' in told
        assert "in test_of_exceptions_types" in told
    assert lines(out)[2]["reason"] == "ValueError"


def test_what_nobody_caught_is_told_in_the_same_way(capfd: pytest.CaptureFixture[str]) -> None:
    """In the main thread, in others, in destructors and on the loop."""
    out = configured()

    class Broken:
        def __del__(self) -> None:
            raise ValueError("sekrit")

    def fail() -> None:
        raise ValueError("sekrit")

    async def forget() -> None:
        loop = asyncio.get_running_loop()
        logs.watch(loop)
        loop.call_soon(fail)
        loop.call_exception_handler({"message": "Task was destroyed but it is pending!"})
        await asyncio.sleep(0)

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    del (broken := [Broken()])[0]
    asyncio.run(forget())
    try:
        fail()
    except ValueError as error:
        sys.excepthook(ValueError, error, error.__traceback__)
        sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert broken == []
    said = out.getvalue().decode() + "".join(capfd.readouterr())
    assert "sekrit" not in said
    told = lines(out)
    assert [line["event"] for line in told] == ["process.failed"] * 5
    assert sum("builtins.ValueError" in str(line.get("exception")) for line in told) == 4


def test_a_mask_tells_tokens_apart_and_gives_none_away(tmp_path: Path) -> None:
    """Six characters and a hash that nobody can compute who has not the key, the same in all processes."""
    mask = Mask.of(tmp_path / "mask.key")
    assert (tmp_path / "mask.key").stat().st_mode & 0o777 == 0o600
    assert len((tmp_path / "mask.key").read_bytes()) == 32
    assert [path.name for path in tmp_path.iterdir()] == ["mask.key"]
    shown = mask(TOKEN)
    assert shown == Mask.of(tmp_path / "mask.key")(TOKEN)
    assert re.fullmatch(r"a1a1a1…[0-9a-f]{12}", shown)
    assert mask(TOKEN[:-1] + "0") != shown
    assert Mask(bytes(32))(TOKEN) != shown
    assert re.fullmatch(r"…[0-9a-f]{12}", mask("short-enough-to-be-guessed"[:23]))


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
