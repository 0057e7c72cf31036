"""What is logged, at which level, and what never is.

========  =====================================================================================================
level     events
========  =====================================================================================================
error     someone has to act: `workers.give_up`, `gateway.reload_refused`, `gateway.reload_failed`, `route.stopped`,
          `credential.refused`, `credential.unusable`, `webhook.disabled`, `webhook.exhausted`; a defect of ours:
          `http.failed` (the caller got 500), `worker.failed`, `process.failed`, `batch.set_aside`,
          `batch.dead_lettered`, `kafka.job_failed`, `kafka.mirror_failed`, `shared.failed`, `webhook.failed`
warning   it goes on, but look: `worker.died`, `worker.killed`, `loop.stalled`, `queue.lease_failed`,
          `queue.lease_lost`, `queue.maintenance_failed`, `batch.crashed`, `credential.exchange_failed`,
          `credential.expires`, `credential.not_rotated`, `credentials.not_followed`, `route.held`, `access.open`,
          `audit.not_written`, `jwks.not_fetched`, `keys.not_followed`, `kafka.dead_letter`, `kafka.job_waits`,
          `kafka.key_not_settled`, `kafka.left_untold`, `kafka.member_unknown`, `kafka.mirror_failed`,
          `kafka.reader_failed`, `shared.lost`, `webhook.not_stored`
info      lifecycle: `worker.started`, `worker.ready`, `http.listening`, `gateway.draining`, `gateway.reloaded`,
          `worker.draining`, `worker.stopped`, `route.released`, `kafka.assigned`, `kafka.commit_refused`,
          `shared.reached`
debug     expected failures: `queue.failed`, `http.malformed` (bytes that are no request)
========  =====================================================================================================

Nothing is logged per notification at any level: what happened to one is its receipt. Device tokens, endpoints,
payloads and secrets are not logged: `redaction` sees to it, for our own and for libraries' records. Of those there are
none below WARNING at any level, as they are about single requests, header fields and messages.
A line is one JSON object on standard error (or, with `log_format = "console"`, text for a terminal).
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, BinaryIO, cast

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from gateway.observe.redaction import redact, tell_exceptions, unquoted

_LOG = structlog.get_logger()


def _shared(fields: Mapping[str, Any]) -> list[Processor]:
    """What our own and the libraries' records go through before they are rendered."""

    def add_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {**event, **fields}

    return [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        tell_exceptions,
        add_fields,
        redact,
    ]


def _renderer(form: str) -> Processor:
    if form == "console":
        return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    return structlog.processors.JSONRenderer(serializer=orjson.dumps)


def _encode(_logger: WrappedLogger, _method: str, line: Any) -> bytes:
    return line if isinstance(line, bytes) else str(line).encode("utf-8", "backslashreplace")


def _decode(_logger: WrappedLogger, _method: str, line: Any) -> str:
    return line.decode() if isinstance(line, bytes) else str(line)


def configure(level: str, form: str, stream: BinaryIO | None = None, **fields: Any) -> None:
    """Set up logging for this process: structlog's and the standard library's loggers, to one place in one form.

    Args:
        level: debug, info, warning or error.
        form: json or console.
        stream: standard error if None.
        fields: in every line, such as `worker=0`.
    """
    out = _Lossy(stream or sys.stderr.buffer)
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*_shared(fields), _renderer(form), _encode],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.BytesLoggerFactory(cast(BinaryIO, out)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(_Text(out))
    handler.setFormatter(
        _Unquoting(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _renderer(form),
                _decode,
            ],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *_shared(fields)],
        )
    )
    handler.setLevel(max(threshold, logging.WARNING))  # whatever levels loggers have of their own
    logging.basicConfig(handlers=[handler], level=handler.level, force=True)
    sys.excepthook = _crashed
    threading.excepthook = lambda crash: _crashed(crash.exc_type, crash.exc_value, crash.exc_traceback)
    sys.unraisablehook = lambda crash: _crashed(crash.exc_type, crash.exc_value, crash.exc_traceback)


def _crashed(_kind: type[BaseException], error: BaseException | None, _trace: TracebackType | None) -> None:
    """What nobody has caught is told like everything else: without what it says."""
    if not isinstance(error, KeyboardInterrupt | SystemExit):
        _LOG.error("process.failed", exc_info=error)


def watch(loop: asyncio.AbstractEventLoop) -> None:
    """Have a loop tell of what fails in its callbacks and forgotten tasks without quoting it."""

    def tell(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        reason = None if error is not None else unquoted(context.get("message", ""), ())
        _LOG.error("process.failed", exc_info=error, reason=reason)

    loop.set_exception_handler(tell)


class _Unquoting(structlog.stdlib.ProcessorFormatter):
    """Formats libraries' records without what they quote."""

    def format(self, record: logging.LogRecord) -> str:
        record = logging.makeLogRecord(record.__dict__)
        record.msg, record.args = unquoted(record.msg, record.args), ()
        return super().format(record)


class _Lossy:
    """What a full disk or a closed pipe does not take is lost, and nobody's work fails for it."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    def write(self, line: bytes) -> None:
        with suppress(OSError):
            self._out.write(line)

    def flush(self) -> None:
        with suppress(OSError):
            self._out.flush()


class _Text:
    """What `logging.StreamHandler` needs of a text stream, over the bytes stream that structlog writes to."""

    def __init__(self, out: _Lossy) -> None:
        self._out = out

    def write(self, text: str) -> None:
        self._out.write(text.encode("utf-8", "backslashreplace"))

    def flush(self) -> None:
        self._out.flush()
