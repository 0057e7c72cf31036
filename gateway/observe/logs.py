"""What is logged, at which level, and what never is.

========  =====================================================================================================
level     events
========  =====================================================================================================
error     someone has to act: `workers.give_up`, `gateway.reload_refused`, `gateway.reload_failed`, `route.stopped`; a
          defect of ours: `http.failed` (the caller got 500), `worker.failed`, `batch.set_aside`, `batch.dead_lettered`
warning   it goes on, but look: `worker.died`, `worker.killed`, `loop.stalled`, `queue.lease_failed`,
          `queue.lease_lost`, `queue.maintenance_failed`, `batch.crashed`, `credential.exchange_failed`, `route.held`
info      lifecycle: `worker.started`, `worker.ready`, `http.listening`, `gateway.draining`, `gateway.reloaded`,
          `worker.draining`, `worker.stopped`, `route.released`
debug     expected failures: `queue.failed`
========  =====================================================================================================

Nothing is logged per notification at any level: what happened to one is its receipt. Device tokens, endpoints,
payloads and secrets are not logged; `redact` is the one step that sees to it, for our own and for libraries' records.
A line is one JSON object on standard error (or, with `log_format = "console"`, text for a terminal).
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, BinaryIO, cast

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_HIDDEN = "[hidden]"

_SECRET_KEY = re.compile(
    r"token|secret|password|authori[sz]ation|payload|endpoint|subscription|assertion|jwt|p256dh|cookie|private"
    r"|(^|[_-])(auth|keys?|body|headers|targets?|vars)$",
    re.IGNORECASE,
)
"""Names whose values are not shown. `key_id`, `fingerprint` and `origin` are, and so are numbers under any name."""

_SECRET_TEXT = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)"
    r"|\b(?:bearer|basic|vapid|webpush)\s+[\w.=,~+/-]{8,}"  # authorization schemes
    r"|\beyJ[\w-]+\.[\w-]+(?:\.[\w-]*)?"  # a JWT
    r"|\bya29\.[\w.-]+"  # a Google access token
    r"|(?<![0-9A-Fa-f])[0-9A-Fa-f]{64,}(?![0-9A-Fa-f])"  # an APNs device token
    r"|\b[\w-]{8,}:APA91[\w-]+"  # an FCM registration token
    r"|(?<=://)([^\s/\"']+)/[^\s\"']{20,}",  # the path of a push endpoint; its host stays
    re.IGNORECASE | re.DOTALL,
)
"""What gives itself away in free text, such as a library's exception."""

_QUIET = ("aiohttp.access", "h2", "hpack", "hyperframe", "asyncio")
"""Libraries that write about single requests or header fields below WARNING."""


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The one redaction step: by name of the field, and by shape of the text."""
    return {key: _shown(key, value) for key, value in event.items()}


def _shown(key: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET_KEY.search(key):
        return _HIDDEN
    if isinstance(value, Mapping):
        return {str(inner): _shown(str(inner), below) for inner, below in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_shown("", below) for below in value]
    return _SECRET_TEXT.sub(_cover, value if isinstance(value, str) else repr(value))


def _cover(match: re.Match[str]) -> str:
    return f"{match[1]}/{_HIDDEN}" if match[1] else _HIDDEN


def _shared(fields: Mapping[str, Any]) -> list[Processor]:
    """What our own and the libraries' records go through before they are rendered."""

    def add_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {**event, **fields}

    return [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
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
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _renderer(form),
                _decode,
            ],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *_shared(fields)],
        )
    )
    logging.basicConfig(handlers=[handler], level=threshold, force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))


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
