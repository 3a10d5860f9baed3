"""Conditions in text: what is parsed, and what is refused with its position."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaplab.errors import UserError
from gaplab.ledger.expression import Comparison, Json, Junction, Name, Negation, names, parse
from tests.examples import examples


def flat(condition: object) -> object:
    """Return a condition without positions."""
    match condition:
        case Comparison(name, operator, value):
            return (name.key, operator, flat(value))
        case Junction(all, parts):
            return ("and" if all else "or", *map(flat, parts))
        case Negation(part):
            return ("not", flat(part))
        case Name():
            return condition.key
    return condition


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("ap > 35", ("ap", ">", 35)),
        ("  35 < ap ", ("ap", ">", 35)),
        ("-1.5 <= gap", ("gap", ">=", -1.5)),
        ('a.b == "x y"', ("a.b", "==", "x y")),
        ("a.b != null", ("a.b", "!=", None)),
        ("a == true", ("a", "==", True)),
        ("a == False", ("a", "==", False)),
        ("a in (0, 1)", ("a", "in", (0, 1))),
        ("a not in ['x']", ("a", "not in", ("x",))),
        ("a == [1, 2]", ("a", "==", Json("[1, 2]"))),
        ("ap > ap_nms", ("ap", ">", "ap_nms")),
        ("0 < a < 1", ("and", ("a", ">", 0), ("a", "<", 1))),
        (
            "a == 1 or not (b == 2 and c == 3)",
            ("or", ("a", "==", 1), ("not", ("and", ("b", "==", 2), ("c", "==", 3)))),
        ),
        ("a\n==\t1", ("a", "==", 1)),
        ("k=v", ("k", "in", ("v",))),
        (" k = 0.5 ", ("k", "in", ("0.5", 0.5))),
        ("k=a=b", ("k", "in", ("a=b",))),
        ("k=", ("k", "in", ("",))),
        ("k=[1,2]", ("k", "in", ("[1,2]", Json("[1, 2]")))),
        ("k=cats and dogs", ("k", "in", ("cats and dogs",))),
        ("ar@1=2", ("ar@1", "in", ("2", 2))),
    ],
)
def test_conditions(text: str, parsed: object) -> None:
    assert flat(parse(text)) == parsed


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "'': not a condition"),
        ("seed", "-->seed<--: compare it with a value, as in NAME == true"),
        ("ap > 3 and seed", "ap > 3 and -->seed<--: compare it with a value"),
        ("ap >", "not a condition; write KEY=VALUE"),
        ("ap > 3 and and b", "ap > 3 and -->and<-- b: not a condition"),
        ("  größe > 3 and and b", "größe > 3 and -->and<-- b: not a condition"),
        ("größe == 'é' and -->", "not a condition"),
        ("ap > 3 or len(a) > 3", "ap > 3 or -->len(a)<-- > 3: compares no name"),
        ("a == b'x'", "a == -->b'x'<--: not a name, number"),
        ("a is 3", "-->a<-- is 3: is and is not are not supported"),
        ("1 in (1, 2)", "-->1<-- in (1, 2): only a name can be in a list"),
        ("a in 3", "a in -->3<--: in needs a list"),
        ("a == 1 + 1", "-->1 + 1<--"),
        ("a == __import__('os').system('x')", "-->__import__('os').system('x')<--"),
        ("[x for x in a] == 1", "-->[x for x in a]<-- == 1"),
        ("(lambda: 1) == 1", "compares no name"),
        ("assignment.name = poto and ap > 3", "assignment.name -->=<-- poto and ap > 3: a longer"),
        ("a == 'x\\0'", "has a character that can't be part of a condition"),
        ("a == 'x\ud800'", "has a character"),
        ("k=\0", "has a character"),
        ("(" * 500 + "a" + ")" * 500, "not a condition"),
        ("not " * 400 + "a", "compare it with a value"),
        ("a == " + "9" * 1900 + "j", "not a name"),
        ("a == 1 or " * 300 + "a == 1", "at most 2000 are allowed"),
    ],
)
def test_what_is_refused(text: str, problem: str) -> None:
    with pytest.raises(UserError) as error:
        parse(text)
    assert problem in str(error.value)
    assert len(error.value.problems) == 1


def test_names_and_their_positions() -> None:
    text = '  größe.ß == "é" and ap > ap_nms'
    found = list(names(parse(text)))
    assert [name.key for name in found] == ["größe.ß", "ap", "ap_nms"]
    assert [text[name.start : name.end] for name in found] == ["größe.ß", "ap", "ap_nms"]
    assert found[1].marked() == 'größe.ß == "é" and -->ap<-- > ap_nms'
    assert [name.marked() for name in names(parse("ap=3"))] == [""]


@given(st.text(max_size=40))
@examples(200)
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with suppress(UserError):
        parse(text)
