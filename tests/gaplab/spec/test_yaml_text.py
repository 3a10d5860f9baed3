"""The restricted YAML of spec files."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gaplab.spec.yaml_text import (
    MAX_BYTES,
    MAX_INTEGER,
    MAX_NODES,
    YamlError,
    dump_yaml,
    parse_yaml,
    read_text,
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
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
        ('{"<<": <<}', {"<<": "<<"}),
        (str(2**63 - 1), 2**63 - 1),
        (str(1 - 2**63), 1 - 2**63),
        ("1e" + "9" * 4000, math.inf),
        ("0." + "0" * 5000 + "1", 0.0),
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
        ("x: *x", "line 1: found undefined alias 'x'"),
        ("x: &x [*x]", "line 1: alias *x is part of what it stands for"),
        ("x: &x {y: {z: *x}}", "line 1: alias *x is part of what it stands for"),
        ("x: &x {<<: *x}", "line 1: alias *x is part of what it stands for"),
        ("x: {<<: 5}", "line 1: expected a mapping or list of mappings for merging"),
        ("x: {<<: [{a: 1}, 5]}", "line 1: expected a mapping for merging"),
        ("x: {<<: {a: 1}, <<: {b: 1}}", 'line 1: key "<<" is repeated'),
        ("x: &x {a: 1, a: 2}\ny: {<<: *x}", 'line 1: key "a" is repeated'),
        ("a:\n\tb: 1", "line 2: a tab is not allowed here; indent with spaces"),
        ('{"a": "\\ud83d"}', "line 1: text has half of a surrogate pair"),
        ('{"a": "\\u0000"}', "line 1: text has a zero character"),
        ("a: !!python/name:os.system x", "line 1: tags are not allowed; write plain values"),
        ("a: !!set {}", "line 1: tags are not allowed; write plain values"),
        ("1: 2", "line 1: a key is not text; quote it"),
        ("a:\n  [b]: 1", "line 2: a key is not text; quote it"),
        ("a: b: c", "line 1: mapping values are not allowed here"),
        ("a: [1,", "line 1: expected the node content, but found '<stream end>'"),
        ("--- 1\n--- 2", "line 2: expected a single document in the stream, but found another"),
        ("[" * 1000, "line 1: more than 40 levels inside each other"),
        ("{a: " * 1000, "line 1: more than 40 levels inside each other"),
        ("\n".join(" " * i + "a:" for i in range(1000)), "line 40: more than 40 levels"),
        ("a: &a " + "[" * 22 + "]" * 22 + "\nb: " + "[" * 20 + "*a", "line 2: more than 40"),
        ("[" + "0," * MAX_NODES + "]", "line 1: more than 20000 values"),
        ("#" * (MAX_BYTES + 1), "larger than 1048576 bytes"),
        ("9" * 5000, "line 1: an integer of 5000 digits is too large"),
        ("a: [0, -" + "9" * 5000 + "]", "line 1: an integer of 5000 digits is too large"),
        ('{"a":\n' + "9" * 20 + "}", "line 2: an integer of 20 digits is too large"),
        (str(2**63), "line 1: the integer 9223372036854775808 is too large"),
        (str(-(2**63)), "line 1: the integer -9223372036854775808 is too large"),
        ("a: \x00", "unacceptable character"),
    ],
)
def test_what_is_rejected(text: str, problem: str) -> None:
    with pytest.raises(YamlError) as caught:
        parse_yaml(text)
    assert str(caught.value).startswith(problem)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["[*{0}, *{0}]", "{{<<: [*{0}, *{0}]}}", "{{x: *{0}, y: *{0}}}"])
def test_an_expansion_bomb_is_rejected(form: str) -> None:
    lines = ["a0: &a0 {x: 1}"] + [f"a{i}: &a{i} " + form.format(f"a{i - 1}") for i in range(1, 40)]
    with pytest.raises(YamlError, match=r"line 1[1-4]: more than 20000 values, with those of"):
        parse_yaml("\n".join(lines))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: &a [1]\nb: *a", {"a": [1], "b": [1]}),
        ("- &a\n- *a\n- &b x\n- {*b : *b}", [None, None, "x", {"x": "x"}]),
        ("a: &a {x: 1, y: 1}\nb: {<<: *a, y: 2}", {"a": {"x": 1, "y": 1}, "b": {"x": 1, "y": 2}}),
        ("a: &a {x: 1}\nb: {y: 2, <<: *a}", {"a": {"x": 1}, "b": {"x": 1, "y": 2}}),
        ("{<<: [{x: 1}, {x: 2, y: 2}], z: 3}", {"x": 1, "y": 2, "z": 3}),
        ("a: &a {x: &x {p: 1}}\nb: {<<: *a, q: *x}", {"a": {"x": {"p": 1}}}),
        ("a: &a {p: 1}\nb: &b {<<: *a, p: 2}\nc: {<<: *b}", {"a": {"p": 1}}),
    ],
)
def test_aliases_and_merge_keys(text: str, value: Any) -> None:
    """As PyYAML's safe loader reads them."""
    read = parse_yaml(text)
    assert read == yaml.safe_load(text)
    assert {**read, **value} == read if isinstance(read, dict) else read == value


@pytest.mark.parametrize("indent", ["\t", "  ", None])
def test_json_may_be_indented_with_tabs(indent: str | None) -> None:
    value = {"name": "a\tb", "grid": {"seed": [0, 1]}, "question": "größe 😀", "x": {}}
    for ascii_only in (True, False):
        assert parse_yaml(json.dumps(value, indent=indent, ensure_ascii=ascii_only)) == value


class TestFiles:
    """Bytes that people's editors write."""

    TEXT = "name: größe ☃\na: [1]\n"

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
    @pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
    def test_encodings_and_ends_of_lines(self, tmp_path: Path, encoding: str, newline: str) -> None:
        path = tmp_path / "a.yaml"
        path.write_bytes(self.TEXT.replace("\n", newline).encode(encoding))
        assert parse_yaml(read_text(path)) == {"name": "größe ☃", "a": [1]}

    @pytest.mark.parametrize("mark", ["utf-16-be", "utf-32-be"])
    def test_big_endian_with_a_mark(self, tmp_path: Path, mark: str) -> None:
        path = tmp_path / "a.yaml"
        path.write_bytes(("\ufeff" + self.TEXT).encode(mark))
        assert parse_yaml(read_text(path)) == {"name": "größe ☃", "a": [1]}

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (TEXT.encode("latin-1", "replace"), "is not UTF-8 text; save it as UTF-8"),
            ("a: b".encode("utf-16-le"), "is not text, it has zero bytes; save it as UTF-8"),
            (b"\xff\xfea", "is not UTF-8 text; save it as UTF-8"),
            (b"\x89PNG\r\n\x1a\n\0\0", "is not UTF-8 text; save it as UTF-8"),
            (b"a: \0", "is not text, it has zero bytes; save it as UTF-8"),
            ("ü".encode() * MAX_BYTES, "larger than 1048576 bytes"),
        ],
    )
    def test_other_bytes(self, tmp_path: Path, content: bytes, problem: str) -> None:
        path = tmp_path / "a.yaml"
        path.write_bytes(content)
        with pytest.raises(YamlError) as caught:
            read_text(path)
        assert str(caught.value) == problem
