"""The restricted YAML of spec files."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaplab.spec.yaml_text import MAX_BYTES, MAX_NODES, YamlError, dump_yaml, parse_yaml

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=8)
    | st.sampled_from(
        ["1e3", "3e-3", "010", "on", "1:30", "~", "null", "2020-01-01", "a: b", "- x"]
    )
)
DATA = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("ab.1<", max_size=3), inner)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(DATA)
def test_dumped_values_are_parsed_to_the_same(value: Any) -> None:
    read = parse_yaml(dump_yaml(value))
    assert read == value
    assert repr(read) == repr(value)


def test_shared_values_are_written_twice_without_aliases() -> None:
    shared = [1, 2]
    assert parse_yaml(dump_yaml({"a": shared, "b": shared})) == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-3", 0.003),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-2", -2),
        ("+.inf", math.inf),
        ("true", True),
        ("", None),
        ("~", None),
        ("yes", "yes"),
        ("010", "010"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("{<<: 1}", {"<<": 1}),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    read = parse_yaml(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3", 'line 3: key "a" is repeated'),
        ("x: {a: 1, a: 1}", 'line 1: key "a" is repeated'),
        ("x: &x [1]\ny: *x", "line 2: alias *x is not allowed; write the value out"),
        ("a: !!python/name:os.system x", "line 1: tags are not allowed; write plain values"),
        ("a: !!set {}", "line 1: tags are not allowed; write plain values"),
        ("1: 2", "line 1: a key is not text; quote it"),
        ("a:\n  [b]: 1", "line 2: a key is not text; quote it"),
        ("a: b: c", "line 1: mapping values are not allowed here"),
        ("a: [1,", "line 1: expected the node content, but found '<stream end>'"),
        ("--- 1\n--- 2", "line 2: expected a single document in the stream, but found another"),
        ("[" * 1000, "line 1: more than"),
        ("[" + "0," * MAX_NODES + "]", "line 1: more than 20000 values"),
        ("#" * (MAX_BYTES + 1), "larger than 1048576 bytes"),
        ("9" * 5000, "Exceeds the limit"),
        ("a: \x00", "unacceptable character"),
    ],
)
def test_what_is_rejected(text: str, problem: str) -> None:
    with pytest.raises(YamlError) as caught:
        parse_yaml(text)
    assert str(caught.value).startswith(problem)
    assert "\n" not in str(caught.value)


def test_an_expansion_bomb_is_rejected_at_its_first_alias() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    with pytest.raises(YamlError, match=r"line 2: alias \*a0 is not allowed"):
        parse_yaml("\n".join(lines))
