"""Answers to what cannot be done: problem+json (RFC 9457) whose `errors` carry JSON pointers (RFC 6901)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from http import HTTPStatus
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from aiohttp import web

from gateway.ingest.answers import Fault, ProblemDetails, Refusal
from providers.base import Problem

CONTENT_TYPE = "application/problem+json"

_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_PATH = re.compile(r" - at `(?:key in )?\$((?:\.\w+|\[(?:\d+|\.\.\.)\])*)`$")
_STEP = re.compile(r"\w+|\.\.\.")
_SHOWN = 64
"""Characters of a caller's own field name that an answer repeats."""


class Refused(Exception):
    """A request that is answered with a problem instead."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[Problem] = (),
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
        close: bool = False,
        refused: Sequence[Refusal] = (),
        refused_count: int = 0,
    ) -> None:
        super().__init__(status, detail)
        self._close = close
        self._headers = dict(headers or {})
        if retry_after is not None:
            self._headers["Retry-After"] = str(retry_after)
        self._document = ProblemDetails(
            title=HTTPStatus(status).phrase,
            status=status,
            detail=detail,
            errors=[Fault(*error) for error in errors],
            refused=list(refused),
            refused_count=refused_count,
        )

    @property
    def status(self) -> int:
        return self._document.status

    @property
    def sentence(self) -> str:
        """What is wrong, and where, without anything of what was sent."""
        document = self._document
        faults = [f"{fault.pointer}: {fault.detail}" for fault in document.errors]
        faults += [f"recipient {each.index}: {each.reason}" for each in document.refused[:1]]
        return "; ".join([document.detail, *faults])

    def response(self) -> web.Response:
        body = msgspec.json.encode(self._document)
        status = self._document.status
        response = web.Response(status=status, body=body, content_type=CONTENT_TYPE, headers=self._headers)
        if self._close:
            response.force_close()
        return response


def failed(*, close: bool = False) -> Refused:
    """500: a defect of ours, which the log tells of."""
    detail = "The gateway failed at this request, which may or may not have been done. Its log says more."
    return Refused(HTTPStatus.INTERNAL_SERVER_ERROR, detail, close=close)


def invalid(errors: Sequence[Problem], detail: str = "The job cannot be taken as it is.") -> Refused:
    """422: understood, and wrong."""
    return Refused(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors)


def undecoded(error: Exception, text: bytes, kind: type[msgspec.Struct]) -> Refused:
    """400 where a body is not JSON, 422 where it is not the JSON that is expected."""
    errors = [located(error, text, kind)]
    if isinstance(error, msgspec.ValidationError):
        return invalid(errors, "The body is not what is expected here.")
    return Refused(HTTPStatus.BAD_REQUEST, "The body is not JSON.", errors=errors)


def escape(key: str) -> str:
    """A key as it stands in a pointer (RFC 6901, section 3)."""
    return key.replace("~", "~0").replace("/", "~1")


def pointer(steps: Iterable[str | int]) -> str:
    return "".join(f"/{escape(str(step))}" for step in steps)


def suggestion(word: str, known: Iterable[str]) -> str:
    """A sentence's end that helps with a misspelt name."""
    known = sorted(known)
    if close := difflib.get_close_matches(word, known, 1):
        return f"did you mean `{close[0]}`?"
    return f"known here: {', '.join(known)}" if known else "none is known here"


def located(error: Exception, text: bytes | msgspec.Raw, kind: type[msgspec.Struct]) -> Problem:
    """The problem that a failed decoding of `text` as `kind` means, with a pointer relative to the text."""
    if isinstance(error, RecursionError):
        return Problem("", "is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return Problem("", "is not UTF-8")
    message = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return Problem("", message)
    path = _PATH.search(message)
    detail = message[: path.start()] if path else message
    steps = _steps(path[1], text, str if "Expected `str`" in detail else Any) if path else []
    if unknown := _UNKNOWN_FIELD.fullmatch(detail):
        name = unknown[1][:_SHOWN]
        return Problem(pointer([*steps, name]), f"is not known; {suggestion(name, _fields(_type(kind, steps)))}")
    if detail.startswith("Invalid enum value"):
        return Problem(pointer(steps), f"must be one of: {', '.join(_words(_type(kind, steps)))}")
    return Problem(pointer(steps), detail)


def _steps(path: str, text: bytes | msgspec.Raw, kind: Any) -> list[str | int]:
    """The keys and positions of msgspec's path. `[...]` is the first value of a mapping that is not of `kind`.

    They lead only to the mapping if something behind it is no JSON, which decoding did not come to.
    """
    steps: list[str | int] = [int(step) if step.isdecimal() else step for step in _STEP.findall(path)]
    level: Any
    for at, step in enumerate(steps if "..." in steps else ()):
        container = list[msgspec.Raw] if isinstance(step, int) else dict[str, msgspec.Raw]
        try:
            level = msgspec.json.decode(text, type=container)
        except (ValueError, RecursionError):
            return steps[: steps.index("...")]
        if step == "...":
            steps[at] = step = next((key for key, value in level.items() if not _decodes(value, kind)), "")
        if step not in level and not isinstance(step, int):
            break
        text = level[step]
    return steps


def _decodes(text: msgspec.Raw, kind: Any) -> bool:
    try:
        msgspec.json.decode(text, type=kind)
    except (ValueError, RecursionError):
        return False
    return True


def _type(kind: Any, steps: Sequence[str | int]) -> Any:
    """The type that `steps` lead to from a struct, through structs and lists."""
    for step in steps:
        if isinstance(step, int):
            kind = next(get_args(part)[0] for part in _parts(kind) if get_origin(part) is list)
            continue
        kind = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}[str(step)]
        kind = next((t for t in _parts(kind) if isinstance(t, type) and issubclass(t, msgspec.Struct)), kind)
    return kind


def _parts(kind: Any) -> Iterator[Any]:
    """A union's members, without annotations."""
    if get_origin(kind) in (Annotated, Union, UnionType):
        for part in get_args(kind):
            yield from _parts(part)
    else:
        yield kind


def _fields(kind: Any) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(kind)]


def _words(kind: Any) -> list[str]:
    parts = list(_parts(kind))
    literals = [word for part in parts if get_origin(part) is Literal for word in get_args(part)]
    return literals + [word for part in parts if isinstance(part, type) and issubclass(part, StrEnum) for word in part]
