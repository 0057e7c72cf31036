"""Recipients: many at a time and one by one come to the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.ingest.body import OVERLONG, Lines
from gateway.ingest.recipients import Refusals, Slice, decode_array, decode_lines
from tests.gateway.ingest.conftest import recipient

LIMIT = 300

_json = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(alphabet='a"\\,{}[]:é\U0001f600\n', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
_good = st.builds(lambda n, extra: recipient(n, vars=extra), st.integers(0, 99), st.dictionaries(st.just("v"), _json))
_bad = st.sampled_from(
    [1, None, [], [1, {}], {}, {"id": "x"}, recipient(0, nope=1), recipient(0, id=7), "},{", [{}, {}]]
)
_elements = st.lists(st.one_of(_good, _good, _good, _bad), max_size=40)


def seen(slices: Iterator[Slice]) -> tuple[list[tuple[int, str, dict[str, Any]]], int]:
    """What was decoded, with its index, and how many there were."""
    decoded, total = [], 0
    for slice_ in slices:
        total += slice_.total
        for index, each in zip(slice_.indexes, slice_.recipients, strict=True):
            decoded.append((index, each.id, {k: json.loads(bytes(v)) for k, v in each.vars.items()}))
    return decoded, total


def expected(elements: list[Any]) -> list[tuple[int, str, dict[str, Any]]]:
    keys = {"id", "provider", "token", "vars"}
    return [
        (index, each["id"], each["vars"])
        for index, each in enumerate(elements)
        if isinstance(each, dict) and each.keys() == keys
    ]


@settings(max_examples=300)
@given(_elements, st.sampled_from([None, 1]), st.booleans())
def test_an_array_is_cut_where_its_elements_end(elements: list[Any], indent: int | None, ascii_only: bool) -> None:
    """Whatever brackets and commas stand in strings and nested values, and however it is indented."""
    refusals = Refusals(1000)
    array = json.dumps(elements, indent=indent, ensure_ascii=ascii_only).encode()
    decoded, total = seen(decode_array(array, LIMIT, refusals))
    refused = {refusal.index: refusal.reason for refusal in refusals.listed()}
    long = {index for index, reason in refused.items() if reason == f"is longer than {LIMIT} bytes"}
    assert total == len(elements)
    assert decoded == [each for each in expected(elements) if each[0] not in long]
    assert sorted([each[0] for each in decoded] + list(refused)) == list(range(len(elements)))
    assert refusals.count == len(refused)


@settings(max_examples=300)
@given(_elements, st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n \t\n"]), st.booleans(), st.integers(1, 200))
def test_lines_are_recipients_however_they_arrive(elements: list[Any], ending: bytes, ended: bool, size: int) -> None:
    """Cut at any place into reads and again into texts; blank lines do not count."""
    text = ending.join([json.dumps(each).encode() for each in elements]) + (ending if ended else b"")
    lines, refusals = Lines(LIMIT), Refusals(1000)
    decoded, index = [], 0
    parts = [part for at in range(0, len(text), size) for part in lines.feed(text[at : at + size])]
    for part in [*parts, *lines.end()]:
        assert len(part) <= LIMIT
        if part == OVERLONG:
            refusals.add(index, None, "long")
            index += 1
            continue
        found, total = seen(decode_lines(part, index, LIMIT, refusals))
        decoded += found
        index += total
    refused = {refusal.index for refusal in refusals.listed()}
    long = {refusal.index for refusal in refusals.listed() if refusal.reason == "long"}
    assert index == len(elements)
    assert decoded == [each for each in expected(elements) if each[0] not in long]
    assert sorted([each[0] for each in decoded] + list(refused)) == list(range(len(elements)))


@pytest.mark.parametrize("count", [1, 499, 500, 501, 20_000])
def test_hostile_arrays_are_taken_in_slices(count: int) -> None:
    """Millions of tiny elements neither fill the memory at once nor hold the loop."""
    refusals = Refusals(10)
    slices = list(decode_array(b"[" + b"1," * (count - 1) + b"1]", 1000, refusals))
    assert max(slice_.total for slice_ in slices) <= 501
    assert sum(slice_.total for slice_ in slices) == refusals.count == count
    assert len(refusals.listed()) == min(count, 10)


@pytest.mark.parametrize("decode", [decode_lines, lambda text, *rest: decode_array(b"[" + text + b"]", *rest[1:])])
@pytest.mark.parametrize(
    "value", [b'"\\ud800"', b'"\\\\ud83d\\ude00"', b'"\\uDC00x"', b'{"a": ["\\udfff"]}', b'"\xff"', b'"\xed\xa0\x80"']
)
def test_variables_are_text(decode: Callable[..., Iterator[Slice]], value: bytes) -> None:
    """They are kept as they stand and never decoded again, so what is no Unicode is found here."""
    refusals = Refusals(10)
    text = b'{"id":"u","provider":"stub","token":"t","vars":{"a":%b}}' % value
    assert seen(decode(text, 0, LIMIT, refusals)) == ([], 1)
    assert refusals.listed()[0].index == 0


def test_pairs_of_surrogates_are_fine() -> None:
    """JSON escapes what lies beyond the Basic Multilingual Plane so (RFC 8259, section 7)."""
    refusals = Refusals(10)
    text = b'{"id":"u","provider":"stub","token":"t","vars":{"a":"\\ud83d\\ude00\\ud55c"}}'
    assert seen(decode_lines(text, 0, LIMIT, refusals)) == ([(0, "u", {"a": "\U0001f600\ud55c"})], 1)
    text = text.replace(b"\\ud55c", b"\\\\")
    assert seen(decode_lines(text, 0, LIMIT, refusals)) == ([(0, "u", {"a": "\U0001f600\\"})], 1)


def test_a_line_without_its_end_is_found() -> None:
    """What was thrown away is one line, also when the stream ends within it."""
    lines = Lines(10)
    assert list(lines.feed(b"a" * 25)) == [OVERLONG]
    assert list(lines.feed(b"a" * 5 + b"\nb\n")) == []
    assert list(lines.end()) == [b"b\n"]
    lines = Lines(10)
    assert [*lines.feed(b"x\n" + b"a" * 25), *lines.end()] == [b"x\n", OVERLONG]
