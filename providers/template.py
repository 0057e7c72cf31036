"""Placeholders: from a message and each recipient's variables to JSON documents, at the price of a `%`.

Where placeholders work
    In every string value of a message and of its provider blocks, at any depth. Keys are not templated, and neither
    are the settings of a request (header values, urgency, topic), which are the same for all recipients.

Two kinds of message
    *Plain*: all its placeholders are `{{ name }}`. There is a column of values per name, in sorted order, and each
    document of a provider becomes one bytes format, so that a recipient costs one `%`.
    *Logic*: anywhere in it is a statement, a comment, a filter, a dotted or indexed name or another expression. The
    whole message goes through minijinja then, and there is one pseudo-column, `ALL_VARIABLES`, that holds each
    recipient's variables as a JSON object. `has_logic` tells which of both a message is by its columns' names.

Values
    A column holds text as it stands between the quotes of a JSON string: strings are escaped already as the caller
    wrote them, numbers and booleans stand as written. So `{"pct": 20}` and `{"pct": "20"}` read the same.
    A variable that is missing, null, an array or an object is refused for that recipient alone, in a message with
    logic only where the template uses it.

Numbers
    `number` marks a place that needs a bare number or boolean, such as APNs' `badge`. A string there that is one
    placeholder and nothing else lands without quotes; a recipient whose value is neither is rejected by `render`.

Logic is fenced in
    minijinja's fuel bounds its steps, but not its memory: `'x' * 10**9` is one step. So a template has only what
    cannot make text grow by itself: `if`, `for`, comparison, arithmetic without `*`, and the filters in `FILTERS`.
    Undefined names are errors of their recipient, and rendered text ends at `LONGEST_TEXT`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import minijinja
import msgspec
import orjson

from providers.base import Message, Problem, Recipient
from providers.memo import by_message

ALL_VARIABLES = "*"
"""The one pseudo-column of a message with logic; no placeholder can have this name."""

DEEPEST = 32
"""Levels of nesting a message may have."""
LONGEST_TEXT = 16_384
"""Characters of rendered text in one place; no service takes payloads of half that size."""
LONGEST_VARIABLES = 8_192
"""Bytes of one recipient's variables in a message with logic."""
LONGEST_SOURCE = 8_192
"""Characters of one string with logic."""
FUEL = 5_000
"""minijinja's steps for one string of one recipient; a template with two conditions takes about 30."""

RESERVED = frozenset({"true", "false", "none", "True", "False", "None", "not", "and", "or", "in", "is", "if", "else"})
"""Words of the template language: `{{ true }}` is logic, not a variable."""

STATEMENTS = frozenset({"if", "elif", "else", "endif", "for", "endfor"})
FILTERS = frozenset(
    {"abs", "capitalize", "count", "d", "default", "first", "float", "int", "last", "length", "lower", "max", "min"}
    | {"reverse", "round", "sort", "string", "title", "trim", "unique", "upper"}
)

_PLACEHOLDER = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
_EXPRESSION = re.compile(r"\{\{(?!\{)(?:(?!\}\}|\{\{).)*\}\}", re.DOTALL)
_TAG = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_LITERAL = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", re.DOTALL)
_STATEMENT = re.compile(r"\{%[-+]?\s*(\w*)")
_FILTER = re.compile(r"\|\s*(\w*)")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false")
_NOT_IN_A_COLUMN = bytes(byte for byte in range(0x20) if byte != 0x0A)

Column = list[bytes]


class Slot(NamedTuple):
    """A place in a document for a column of the provider's own, such as the token. Lands inside quotes."""

    name: str


class Number(NamedTuple):
    """A place in a document that one placeholder fills without quotes; see `number`."""

    source: str


class Texts(NamedTuple):
    """What `Template.render` made."""

    bodies: list[bytes]
    rejected: dict[int, str]
    """Position -> reason; the body at such a position means nothing."""


# What a message asks for


@by_message
def variables(message: Message) -> tuple[str, ...]:
    """The names of a message's variable columns, sorted; `(ALL_VARIABLES,)` for a message with logic."""
    names: set[str] = set()
    for text in _strings(message):
        if "{" not in text:
            continue
        if _is_logic(text):
            return (ALL_VARIABLES,)
        names.update(_PLACEHOLDER.findall(text))
    return tuple(sorted(names))


def has_logic(names: Sequence[str]) -> bool:
    """Whether a message with these variable columns goes through minijinja."""
    return tuple(names) == (ALL_VARIABLES,)


def is_templated(text: str) -> bool:
    """Whether a string differs by recipient."""
    return "{" in text and (_PLACEHOLDER.search(text) is not None or _is_logic(text))


def problems(message: Message) -> list[Problem]:
    """What is wrong with a message's placeholders, whichever provider it is for."""
    found: list[Problem] = []
    environment: minijinja.Environment | None = None
    for pointer, value in _walk(message):
        if isinstance(value, _TooDeep):
            found.append(Problem(pointer, f"nested deeper than {DEEPEST} levels"))
        elif isinstance(value, _Key):
            if is_templated(value):
                found.append(Problem(pointer, "placeholders are not replaced in keys, only in values"))
        elif "{" in value and _is_logic(value):
            environment = environment or _environment()
            if detail := _fault(environment, value):
                found.append(Problem(pointer, detail))
    return found


def number(value: Any) -> Any:
    """Mark a value that has to land as a bare number or boolean: a string of one placeholder becomes a `Number`."""
    if isinstance(value, str) and _EXPRESSION.fullmatch(value.strip()):
        return Number(value.strip())
    return value


def pointer_part(key: object) -> str:
    """A key as a part of a JSON pointer (RFC 6901, section 3)."""
    return str(key).replace("~", "~0").replace("/", "~1")


class _Key(str):
    """A key of an object, as opposed to a value, in `_walk`."""


class _TooDeep(str):
    """Stands for what lies below the deepest level, in `_walk`."""


def _walk(message: Message) -> Iterator[tuple[str, str]]:
    """Pointers and strings of a message. A stack and no recursion: a hostile message may be nested 1,000 deep."""
    stack: list[tuple[str, Any, int]] = [
        (f"/message/{name}", getattr(message, name), 1) for name in reversed(message.__struct_fields__)
    ]
    while stack:
        pointer, value, depth = stack.pop()
        if isinstance(value, str):
            yield pointer, value
        elif isinstance(value, (dict, list)) and depth > DEEPEST:
            yield pointer, _TooDeep()
        elif isinstance(value, dict):
            for key, inner in value.items():
                yield f"{pointer}/{pointer_part(key)}", _Key(key)
                stack.append((f"{pointer}/{pointer_part(key)}", inner, depth + 1))
        elif isinstance(value, list):
            stack.extend((f"{pointer}/{index}", inner, depth + 1) for index, inner in enumerate(value))


def _strings(message: Message) -> Iterator[str]:
    stack: list[Any] = [getattr(message, name) for name in message.__struct_fields__]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)


def _is_logic(text: str) -> bool:
    if "{%" in text or "{#" in text:
        return True
    if "{{" not in text:
        return False
    names = _PLACEHOLDER.findall(text)
    return text.count("{{") != len(names) or not RESERVED.isdisjoint(names)


# Logic


def _printed(value: Any) -> Any:
    """What an expression prints: booleans as in JSON, and nothing that would read like a mistake."""
    if value is True or value is False:
        return "true" if value else "false"
    if value is None or isinstance(value, (dict, list)):
        raise TypeError
    return value


def _environment() -> minijinja.Environment:
    environment = minijinja.Environment(
        undefined_behavior="strict",
        fuel=FUEL,
        pycompat=False,  # no methods: `text.replace(...)` can multiply
        keep_trailing_newline=True,
        debug=False,  # its errors would quote the recipient's variables
        finalizer=_printed,
    )
    for name in list(environment.globals):
        environment.remove_global(name)
    return environment


def _fault(environment: minijinja.Environment, source: str) -> str | None:
    """What is wrong with a string that has logic."""
    if len(source) > LONGEST_SOURCE:
        return f"a template of more than {LONGEST_SOURCE} characters"
    for tag in _TAG.findall(source):
        if tag.startswith("{#"):
            continue
        if tag.startswith("{%") and (statement := _STATEMENT.match(tag)) and statement[1] not in STATEMENTS:
            return f"the statement `{statement[1]}` is not available in templates, only if and for"
        code = _LITERAL.sub("''", tag)
        if "*" in code:
            return "`*` is not available in templates, because it also repeats strings"
        for name in _FILTER.findall(code):
            if name not in FILTERS:
                return f"the filter `{name}` is not available in templates; these are: {', '.join(sorted(FILTERS))}"
    try:
        environment.add_template("checked", source)
    except minijinja.TemplateError as error:
        return f"the template does not compile: {error.message or error.kind}"
    return None


class _Expressions:
    """The strings with logic of one document, compiled; they make its columns."""

    def __init__(self, sources: Sequence[str]) -> None:
        self._environment = _environment()
        self._names = [str(index) for index in range(len(sources))]
        for name, source in zip(self._names, sources, strict=True):
            self._environment.add_template(name, source)

    def columns(self, variables: Column) -> tuple[list[Column], dict[int, str]]:
        columns: list[Column] = [[] for _ in self._names]
        rejected: dict[int, str] = {}
        for position, encoded in enumerate(variables):
            try:
                texts = self._texts(orjson.loads(encoded))
            except (ValueError, TypeError, minijinja.TemplateError) as error:
                rejected[position] = _failure(error)
                texts = [b""] * len(self._names)
            for column, text in zip(columns, texts, strict=True):
                column.append(text)
        return columns, rejected

    def _texts(self, values: dict[str, Any]) -> list[bytes]:
        texts = []
        for name in self._names:
            text = self._environment.render_template(name, **values)
            if len(text) > LONGEST_TEXT:
                raise ValueError("too long")
            texts.append(orjson.dumps(text)[1:-1])
        return texts


def _failure(error: Exception) -> str:
    """Why a template failed for a recipient, without any of its values."""
    if isinstance(error, minijinja.TemplateError):
        if error.kind == "UndefinedError":
            return "the template uses a variable that the recipient does not have"
        return f"the template failed: {error.kind}"
    if isinstance(error, TypeError):
        return "the template prints a variable that is null, an array or an object"
    return "the template made no text that fits into JSON"


# Documents


class Template:
    """A JSON document with holes, compiled; see `compile`."""

    def __init__(self, segments: Sequence[bytes | int], numbers: Sequence[int], logic: _Expressions | None) -> None:
        self._segments = tuple(segments)
        self._numbers = tuple(numbers)
        self._logic = logic
        self._order = tuple(segment for segment in segments if isinstance(segment, int))
        self._format = b"".join(
            b"%b" if isinstance(segment, int) else segment.replace(b"%", b"%%") for segment in segments
        )
        self.least = sum(len(segment) for segment in segments if isinstance(segment, bytes))
        """Bytes of the document when all holes are empty."""

    def fill(self, values: dict[int, bytes]) -> Template:
        """The same template with some holes filled for good; for what changes by the second, not by the recipient."""
        segments = [values.get(part, part) if isinstance(part, int) else part for part in self._segments]
        return Template(segments, self._numbers, self._logic)

    def render(self, variables: Sequence[Column], slots: Sequence[Column], count: int) -> Texts:
        """A document per recipient.

        Args:
            variables: columns in the order of `variables(message)`.
            slots: columns in the order of the `slots` that `compile` was given; that of a filled one may be empty.
            count: the length of each column.
        """
        rejected: dict[int, str] = {}
        if self._logic is not None:
            variables, rejected = self._logic.columns(variables[0])
        columns = (*slots, *variables)
        for index in self._numbers:
            for position, value in enumerate(columns[index]):
                if not _NUMBER.fullmatch(value):
                    rejected.setdefault(position, "a variable has to be a number or a boolean where it is used")
        template = self._format
        if not self._order:
            return Texts([template % ()] * count, rejected)
        # 0.22 us a recipient for three variables in 270 bytes; both calls run in C.
        return Texts([template % row for row in zip(*[columns[index] for index in self._order], strict=True)], rejected)


def compile(document: Any, names: Sequence[str], slots: Sequence[str] = ()) -> Template:
    """Compile a JSON document: dicts, lists, strings, numbers, booleans, None, `Slot` and `Number`.

    Its strings may hold placeholders of `names`, which are `variables(message)`; `problems(message)` found nothing
    wrong with them. Holes are numbered: the slots come first, in the order of `slots`, then the variables.
    """
    return _Compiler(names, slots).compile(document)


class _Compiler:
    def __init__(self, names: Sequence[str], slots: Sequence[str]) -> None:
        self._slots = {name: index for index, name in enumerate(slots)}
        self._logic = has_logic(names)
        self._holes = {} if self._logic else {name: len(slots) + index for index, name in enumerate(names)}
        self._segments: list[bytes | int] = []
        self._numbers: set[int] = set()

    def compile(self, document: Any) -> Template:
        self._value(document)
        logic = _Expressions(list(self._holes)) if self._logic and self._holes else None
        return Template(tuple(_joined(self._segments)), sorted(self._numbers), logic)

    def _value(self, value: Any) -> None:
        if isinstance(value, Slot):
            self._segments += [b'"', self._slots[value.name], b'"']
        elif isinstance(value, Number):
            hole = self._number(value.source)
            self._numbers.add(hole)
            self._segments.append(hole)
        elif isinstance(value, str):
            self._segments += [b'"', *self._text(value), b'"']
        elif isinstance(value, dict):
            self._items(b"{", b"}", [(_encode(str(key)) + b":", inner) for key, inner in value.items()])
        elif isinstance(value, (list, tuple)):
            self._items(b"[", b"]", [(b"", inner) for inner in value])
        else:
            self._segments.append(_encode(value))

    def _items(self, opening: bytes, closing: bytes, items: list[tuple[bytes, Any]]) -> None:
        self._segments.append(opening)
        for index, (prefix, inner) in enumerate(items):
            self._segments.append(b"," + prefix if index else prefix)
            self._value(inner)
        self._segments.append(closing)

    def _text(self, text: str) -> Iterator[bytes | int]:
        if self._logic:
            # Every string with braces, also a plain `{{ name }}`: all of them see the same variables object.
            yield self._expression(text) if is_templated(text) else _encode(text)[1:-1]
            return
        for index, part in enumerate(_PLACEHOLDER.split(text)):
            yield self._holes[part] if index % 2 else _encode(part)[1:-1]

    def _number(self, source: str) -> int:
        if self._logic:
            return self._expression(source)
        match = _PLACEHOLDER.fullmatch(source)
        assert match is not None  # a `Number` is one placeholder, and in a plain message a plain one
        return self._holes[match[1]]

    def _expression(self, source: str) -> int:
        return self._holes.setdefault(source, len(self._slots) + len(self._holes))


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


def _joined(segments: Sequence[bytes | int]) -> Iterator[bytes | int]:
    """The same with neighbouring constants made one."""
    constant = b""
    for segment in segments:
        if isinstance(segment, bytes):
            constant += segment
            continue
        yield constant
        yield segment
        constant = b""
    yield constant


def reject_oversized(texts: Texts, limit: int) -> None:
    """Reject the documents of more than `limit` bytes."""
    if max(map(len, texts.bodies), default=0) <= limit:
        return
    for position, body in enumerate(texts.bodies):
        if len(body) > limit:
            texts.rejected.setdefault(position, f"the payload has {len(body)} bytes of at most {limit}")


# Columns, at ingest


def variable_columns(recipients: Sequence[Recipient], names: Sequence[str]) -> tuple[list[Column], dict[int, str]]:
    """The recipients' variables as columns for `names`, and who is refused why.

    Values come from a decoder that leaves them as `msgspec.Raw`. That checks everything of JSON's grammar except the
    encoding: bytes that are no UTF-8 get through it (msgspec 0.22) and are refused here. A refused recipient has b""
    in all columns.
    """
    if has_logic(names):
        return _object_column(recipients)
    refused: dict[int, str] = {}
    columns = [_value_column(recipients, name, refused) for name in names]
    for position in refused:
        for column in columns:
            column[position] = b""
    return columns, refused


def _value_column(recipients: Sequence[Recipient], name: str, refused: dict[int, str]) -> Column:
    try:
        joined = b"\n".join([recipient.vars[name] for recipient in recipients])
        joined.decode()
    except (KeyError, UnicodeDecodeError):
        return _checked_column(recipients, name, refused)
    # All strings or all numbers, the common cases: 0.1 us a value, where a look at each is 0.6.
    breaks = joined.count(b"\n")
    if breaks != len(recipients) - 1 or len(joined.translate(None, _NOT_IN_A_COLUMN)) != len(joined):
        return _checked_column(recipients, name, refused)
    if joined[:1] == b'"' == joined[-1:] and joined.count(b'"\n"') == breaks:
        return joined[1:-1].replace(b'"\n"', b"\n").split(b"\n")
    if not joined.translate(None, b"0123456789.-\n"):
        return joined.split(b"\n")
    return _checked_column(recipients, name, refused)


def _checked_column(recipients: Sequence[Recipient], name: str, refused: dict[int, str]) -> Column:
    column = []
    for position, recipient in enumerate(recipients):
        raw = recipient.vars.get(name)
        fault = "is missing" if raw is None else _fault_of_value(bytes(raw))
        if raw is None or fault:
            refused.setdefault(position, f"variable `{name}` {fault}")
            column.append(b"")
        else:
            column.append(_unquoted(bytes(raw)))
    return column


def _unquoted(raw: bytes) -> bytes:
    return raw[1:-1] if raw.startswith(b'"') else raw


def _fault_of_value(raw: bytes) -> str | None:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return "is not valid UTF-8 text"
    if value is None:
        return "is null"
    if isinstance(value, (dict, list)):
        return "is an object or an array; only templates with logic can look into one"
    return None


def _object_column(recipients: Sequence[Recipient]) -> tuple[list[Column], dict[int, str]]:
    column: Column = []
    refused: dict[int, str] = {}
    for position, recipient in enumerate(recipients):
        # Between values line breaks are white space; inside of strings they are escaped.
        encoded = msgspec.json.encode(recipient.vars).replace(b"\n", b" ").replace(b"\r", b" ")
        fault = _fault_of_object(encoded)
        if fault:
            refused[position] = fault
        column.append(b"" if fault else encoded)
    return [column], refused


def _fault_of_object(encoded: bytes) -> str | None:
    if len(encoded) > LONGEST_VARIABLES:
        return f"the variables have more than {LONGEST_VARIABLES} bytes"
    try:
        variables = orjson.loads(encoded)
    except orjson.JSONDecodeError:
        return "the variables are not valid UTF-8 text"
    return f"the variables are nested deeper than {DEEPEST} levels" if _is_too_deep(variables) else None


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [each for each in level if isinstance(each, (dict, list))]
        if not level:
            return False
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return True
