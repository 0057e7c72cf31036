"""Placeholders: what a column may hold, and that a rendered document says what its parts say."""

from __future__ import annotations

import json
import re
import string
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from providers import template
from providers.base import Message, Recipient
from providers.template import ALL_VARIABLES, Number, Slot


def recipient(variables: bytes) -> Recipient:
    return Recipient(id="r", provider="stub", vars=msgspec.json.decode(variables, type=dict[str, msgspec.Raw]))


def recipients(*variables: Any) -> list[Recipient]:
    return [recipient(json.dumps(each, ensure_ascii=False).encode()) for each in variables]


def render(document: Any, *variables: dict[str, Any], names: tuple[str, ...] | None = None) -> template.Texts:
    """What becomes of a document for recipients with these variables."""
    names = template.variables(Message(stub={"document": document})) if names is None else names
    columns, refused = template.variable_columns(recipients(*variables), names)
    assert not refused
    return template.compile(document, names).render(columns, (), len(variables))


# Which variables a message asks for


def test_variables_are_the_sorted_names_over_all_fields_and_blocks() -> None:
    """Names are found in every string value at any depth, each once, in sorted order."""
    message = Message(
        title="{{ b }} and {{a}}",
        body="{{b}}",
        image="{{i}}",
        link="{{l}}",
        data={"k": "{{d}}"},
        apns={"aps": {"alert": {"loc-args": ["{{deep}}"]}}},
        fcm={"android": {"notification": {"tag": "{{f}}"}}},
        webpush={"icon": "{{w}}"},
        stub={"x": "{{s}}"},
    )
    assert template.variables(message) == ("a", "b", "d", "deep", "f", "i", "l", "s", "w")


@pytest.mark.parametrize(
    "text",
    [
        "{% if a %}x{% endif %}",
        "{# note #}",
        "{{ a.b }}",
        "{{ a[0] }}",
        "{{ a|upper }}",
        "{{ a + 1 }}",
        "{{- a -}}",
        "{{ true }}",
        "{{ unfinished",
        "{{}}",
        "{{ 'a' }}",
    ],
)
def test_anything_but_a_plain_name_is_logic(text: str) -> None:
    """A message with anything but plain names has one pseudo-column for the whole variables object."""
    names = template.variables(Message(title="{{ plain }}", body=text))
    assert names == (ALL_VARIABLES,)
    assert template.has_logic(names)


@pytest.mark.parametrize("text", ["100 % {wool}", "a } b }}", "{ {a} }", "", "{", "%s %(x)s %%"])
def test_other_braces_are_text(text: str) -> None:
    """Single braces and percent signs are constants."""
    assert template.variables(Message(title=text)) == ()
    assert json.loads(render({"t": text}, {}).bodies[0]) == {"t": text}


def test_hostile_nesting_is_a_problem_and_no_crash() -> None:
    """A message nested deeper than allowed is reported, whatever its depth."""
    deep: Any = "{{x}}"
    for _ in range(5000):
        deep = {"a": deep}
    message = Message(stub=deep)
    assert template.variables(message) == ("x",)
    (problem,) = [each for each in template.problems(message) if "deeper" in each.detail]
    assert problem.pointer.startswith("/message/stub/a")


def test_placeholders_in_keys_are_a_problem() -> None:
    """Keys are not templated, and a caller who thinks so is told; the pointer is escaped by RFC 6901."""
    (problem,) = template.problems(Message(stub={"a/b": {"{{x}}": 1}}))
    assert problem.pointer == "/message/stub/a~1b/{{x}}"


# Columns


def test_columns_hold_text_between_quotes() -> None:
    """Strings stand without quotes and as escaped by the caller, numbers and booleans as written."""
    people = [
        recipient(b'{"s": "a\\n\\"\\u00e9", "n": 1.50, "b": true, "m": "x"}'),
        recipient(b'{"s": "", "n": -2e3, "b": false, "m": 7}'),
        recipient('{"s": "ü", "n": 0, "b": true, "m": ""}'.encode()),
    ]
    columns, refused = template.variable_columns(people, ("b", "m", "n", "s"))
    assert not refused
    assert columns == [
        [b"true", b"false", b"true"],
        [b"x", b"7", b""],
        [b"1.50", b"-2e3", b"0"],
        [b'a\\n\\"\\u00e9', b"", "ü".encode()],
    ]


@pytest.mark.parametrize("values", [("",), ("", ""), ("", "", ""), ("a", "", "b"), (1, 2), (1, "2"), ("1", 2, "3"), ()])
def test_a_column_has_a_value_for_everyone(values: tuple[Any, ...]) -> None:
    """Empty strings and mixtures keep their places."""
    columns, refused = template.variable_columns(recipients(*({"v": value} for value in values)), ("v",))
    assert not refused
    assert columns == [[str(value).encode() for value in values]]


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        (b"{}", "is missing"),
        (b'{"v": null}', "is null"),
        (b'{"v": {"a": 1}}', "object or an array"),
        (b'{"v": [1]}', "object or an array"),
        (b'{"v": "\xff"}', "UTF-8"),
        (b'{"v": "\xed\xa0\x80"}', "UTF-8"),
    ],
)
def test_a_value_that_cannot_land_refuses_its_recipient_alone(variables: bytes, why: str) -> None:
    """The reason names the variable; the others keep their values, the refused one has blanks in all columns."""
    people = [
        recipient(b'{"u": 1, "v": "one"}'),
        recipient(variables[:-1] + (b', "u": 2}' if len(variables) > 2 else b'"u": 2}')),
        recipient(b'{"u": 3, "v": "three"}'),
    ]
    columns, refused = template.variable_columns(people, ("u", "v"))
    assert list(refused) == [1]
    assert "`v`" in refused[1]
    assert why in refused[1]
    assert columns == [[b"1", b"", b"3"], [b"one", b"", b"three"]]


def test_raw_values_with_control_characters_are_refused() -> None:
    """A column never holds a newline or another control character, even where the decoder was not msgspec's."""
    people = [
        Recipient(id="r", provider="stub", vars={"v": msgspec.Raw(raw)}) for raw in (b'"a\nb"', b'"a\tb"', b'"ok"')
    ]
    columns, refused = template.variable_columns(people, ("v",))
    assert sorted(refused) == [0, 1]
    assert columns == [[b"", b"", b"ok"]]


def test_logic_gets_the_whole_object_in_one_line() -> None:
    """Line breaks between the values of an object do not break the column."""
    columns, refused = template.variable_columns(
        [recipient(b'{"a": {"b":\r\n [1,\n2]}, "c": "x\\ny"}')], (ALL_VARIABLES,)
    )
    assert not refused
    assert b"\n" not in columns[0][0]
    assert json.loads(columns[0][0]) == {"a": {"b": [1, 2]}, "c": "x\ny"}


def test_logic_refuses_what_is_too_large_or_no_text() -> None:
    """Variables for logic are bounded, because a template may print them many times."""
    people = [recipient(b'{"a": "\xff"}'), recipient(b'{"a": "%s"}' % (b"x" * 9000)), recipient(b'{"a": null}')]
    columns, refused = template.variable_columns(people, (ALL_VARIABLES,))
    assert sorted(refused) == [0, 1]
    assert columns == [[b"", b"", b'{"a":null}']]


# Documents

VALUES = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.integers(-(10**20), 10**20),
    st.booleans(),
)
NAMES = ("a", "b_1", "C")
TEXT = st.lists(
    st.one_of(
        st.text(st.characters(codec="utf-8", exclude_characters="{}"), max_size=8),
        st.sampled_from(NAMES).map(lambda name: "{{ " + name + "}}"),
    ),
    max_size=5,
).map("".join)
DOCUMENTS = st.recursive(
    st.one_of(
        TEXT, st.integers(-(2**60), 2**60), st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(string.printable, max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)


def substituted(document: Any, values: dict[str, Any]) -> Any:
    """The rule itself: decoded values put into the decoded document."""
    if isinstance(document, str):
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
        return re.sub(r"\{\{ (\w+)\}\}", lambda match: texts[match[1]], document)
    if isinstance(document, list):
        return [substituted(inner, values) for inner in document]
    if isinstance(document, dict):
        return {key: substituted(inner, values) for key, inner in document.items()}
    return document


@given(DOCUMENTS, st.lists(st.fixed_dictionaries(dict.fromkeys(NAMES, VALUES)), min_size=1, max_size=3))
@example({"p": "100%{{ a}}%s"}, [{"a": '"\\', "b_1": 1, "C": True}])
def test_rendering_is_substitution(document: Any, people: list[dict[str, Any]]) -> None:
    """A rendered document is JSON, and equals the decoded document with the decoded values in their places."""
    texts = render(document, *people, names=tuple(sorted(NAMES)))
    assert not texts.rejected
    assert [json.loads(body) for body in texts.bodies] == [substituted(document, values) for values in people]


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_logic_escapes_what_it_prints(value: str) -> None:
    """Text from logic lands as escaped as text from a plain placeholder."""
    texts = render({"t": "<{% if v %}{{ v }}{% endif %}>"}, {"v": value})
    assert json.loads(texts.bodies[0]) == {"t": f"<{value}>"}


def test_constants_are_compact_and_not_ascii_escaped() -> None:
    """Bytes count: no spaces, no escapes that UTF-8 does not need."""
    assert render({"é": ["ü", 1, None, True, 1.5]}, {}).bodies == ['{"é":["ü",1,null,true,1.5]}'.encode()]


def test_slots_land_inside_quotes_and_can_be_filled_for_good() -> None:
    """A provider's own columns have their places, and a filled one needs no column any more."""
    compiled = template.compile({"id": Slot("id"), "ttl": Slot("ttl"), "t": "{{v}}"}, ("v",), ("id", "ttl"))
    assert compiled.render(([b"x"],), ([b"1"], [b"5s"]), 1).bodies == [b'{"id":"1","ttl":"5s","t":"x"}']
    filled = compiled.fill({1: b"7%"})
    assert filled.render(([b"x"],), ([b"1"], []), 1).bodies == [b'{"id":"1","ttl":"7%","t":"x"}']


def test_a_number_is_one_placeholder_and_nothing_else() -> None:
    """Only a string that is a placeholder as a whole becomes a number."""
    assert template.number(" {{ n }} ") == Number("{{ n }}")
    for value in ("{{a}}{{b}}", "1{{a}}", "a", 3, None, True):
        assert template.number(value) is value


@pytest.mark.parametrize("source", ["{{ n }}", "{{ n|int }}", "{{ n + 0 }}"])
def test_a_number_lands_bare(source: str) -> None:
    """With and without logic, numbers land without quotes."""
    texts = render(
        {"badge": template.number(source)}, {"n": 3}, {"n": 0}, names=template.variables(Message(title=source))
    )
    assert texts.bodies == [b'{"badge":3}', b'{"badge":0}']


def test_what_is_no_number_rejects_its_recipient() -> None:
    """A value that would break the document is rejected with a reason that does not quote it."""
    texts = render(
        {"badge": Number("{{ n }}")},
        {"n": 3},
        {"n": "four"},
        {"n": True},
        {"n": "05"},
        {"n": ""},
        {"n": '1,"x":2'},
        names=("n",),
    )
    assert sorted(texts.rejected) == [1, 3, 4, 5]
    assert "four" not in texts.rejected[1]
    assert texts.bodies[0] == b'{"badge":3}'
    assert texts.bodies[2] == b'{"badge":true}'


def test_oversized_documents_are_rejected_at_the_exact_edge() -> None:
    """`limit` bytes go, one more does not."""
    texts = render({"t": "{{v}}"}, {"v": "é" * 10}, {"v": "é" * 10 + "x"})
    template.reject_oversized(texts, 28)
    assert [len(body) for body in texts.bodies] == [28, 29]
    assert list(texts.rejected) == [1]


# Logic


def test_logic_sees_nested_values_booleans_and_conditions() -> None:
    """Dotted names, conditions, loops and filters work; booleans print as in JSON."""
    source = (
        "{{ user.name|upper }}{% if n > 3 %}!{% else %}.{% endif %}{% for i in items %}[{{ i }}]{% endfor %}{{ ok }}"
    )
    texts = render({"t": source, "u": "{{ n }}"}, {"user": {"name": "ada"}, "n": 4, "items": [1, 2], "ok": True})
    assert json.loads(texts.bodies[0]) == {"t": "ADA![1][2]true", "u": "4"}


@pytest.mark.parametrize("variables", [{}, {"a": None}, {"a": [1]}, {"a": {"b": 1}}])
def test_logic_rejects_what_cannot_be_printed(variables: dict[str, Any]) -> None:
    """An undefined name, null, or a container where text should be rejects that recipient alone."""
    texts = render({"t": "{# #}{{ a }}"}, variables, {"a": "ok"})
    assert list(texts.rejected) == [0]
    assert json.loads(texts.bodies[1]) == {"t": "ok"}


@pytest.mark.parametrize(
    "source",
    [
        "{% if %}",
        "{{ a",
        "{{ a|replace('', a) }}",
        "{{ a|indent(9) }}",
        "{{ 'x' * 1000000000 }}",
        "{{ a ** 9 }}",
        "{% set a = a ~ a %}",
        "{% with a = a ~ a %}{% endwith %}",
        "{% macro m() %}{% endmacro %}",
        "{% include 'x' %}",
        "{%- set x = 1 %}",
        "{{ a | \n join(a) }}",
        "{% for x in a %}{{ x|tojson }}{% endfor %}",
        "{#" + "x" * 9000 + "#}",
    ],
)
def test_logic_that_does_not_compile_or_could_explode_is_a_problem(source: str) -> None:
    """Found before anything is stored, with a pointer."""
    (problem,) = template.problems(Message(data={"k": source}))
    assert problem.pointer == "/message/data/k"


def test_harmless_logic_has_no_problems() -> None:
    """Stars and bars inside of string literals are text."""
    source = "{% if a == '*' %}{{ a|default('x|y*') }}{% elif a is defined %}{{ a|upper|trim }}{% endif %}"
    assert template.problems(Message(title=source)) == []


def test_endless_logic_ends() -> None:
    """Fuel bounds the steps, and text the output; both reject the recipient."""
    numbers = list(range(300))
    source = "{% for a in n %}{% for b in n %}{% for c in n %}x{% endfor %}{% endfor %}{% endfor %}"
    assert list(render({"t": source}, {"n": numbers}).rejected) == [0]
    long = "{% for a in n %}{{ t }}{% endfor %}"
    assert list(render({"t": long}, {"n": numbers, "t": "x" * 100}).rejected) == [0]


def test_variables_may_have_any_name_in_logic() -> None:
    """Names that are words of Python or of the template engine do no harm."""
    variables = {"self": 1, "name": "n", "template_name": 2, "not a name": 3, "": 4, "a": "ok"}
    assert json.loads(render({"t": "{# #}{{ a }}{{ name }}"}, variables).bodies[0]) == {"t": "okn"}
