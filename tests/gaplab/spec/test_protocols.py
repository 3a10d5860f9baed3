"""Protocols by name and from a command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.evaluation.protocol import PROTOCOLS, Protocol
from gaplab.errors import UserError
from gaplab.spec.protocols import parse_protocol, protocol_key, rule_of, with_key
from gaplab.spec.yaml_text import MAX_BYTES, dump_yaml

RULES = st.fixed_dictionaries(
    {},
    optional={
        "score_floor": st.floats(0, 0.999),
        "pre_nms_topk": st.integers(1, 10**6),
        "nms_iou": st.floats(0.001, 1),
        "class_wise": st.booleans(),
        "level_range": st.none() | st.integers(0, 5),
        "spatial_range": st.none() | st.integers(0, 5).map(lambda n: 2 * n + 1),
        "order": st.sampled_from(["nms_then_cut", "cut_then_nms"]),
        "clip": st.sampled_from(["before", "after"]),
        "cap_at_points": st.booleans(),
        "max_dets": st.integers(1, 500),
    },
)


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(UserError) as error:
        parse_protocol(text)
    assert all("\n" not in line for line in error.value.problems)
    return error.value.problems


class TestRule:
    @given(RULES)
    def test_it_is_json_that_rebuilds_the_protocol(self, values: dict[str, Any]) -> None:
        protocol = Protocol(**values)
        rule = rule_of(protocol)
        assert "preset" not in rule
        assert json.loads(json.dumps(rule, allow_nan=False)) == rule
        assert Protocol.model_validate(rule | {"preset": protocol.preset}) == protocol

    @given(RULES, RULES)
    def test_two_keys_differ_if_and_only_if_the_rules_do(
        self, one: dict[str, Any], other: dict[str, Any]
    ) -> None:
        first, second = with_key(Protocol(**one)), with_key(Protocol(**other))
        assert (rule_of(first) == rule_of(second)) == (protocol_key(first) == protocol_key(second))

    @pytest.mark.parametrize("name", list(PROTOCOLS))
    def test_the_name_of_a_preset_is_not_part_of_it(self, name: str) -> None:
        renamed = PROTOCOLS[name].model_copy(update={"preset": "other"})
        assert rule_of(renamed) == rule_of(PROTOCOLS[name])


class TestForms:
    @pytest.mark.parametrize("name", list(PROTOCOLS))
    def test_a_preset(self, name: str, tmp_path: Path) -> None:
        assert parse_protocol(name) == PROTOCOLS[name]
        assert parse_protocol(f"{{preset: {name}}}") == PROTOCOLS[name]

    @given(RULES, st.sampled_from([n for n, p in PROTOCOLS.items() if p.suppression == "nms"]))
    def test_a_mapping(self, values: dict[str, Any], preset: str) -> None:
        made = parse_protocol(json.dumps({"preset": preset, **values}))
        assert rule_of(made) == rule_of(PROTOCOLS[preset]) | values
        assert made.preset == protocol_key(made)

    def test_a_mapping_with_and_without_braces(self) -> None:
        made = parse_protocol("{preset: defcn, nms_iou: 0.5}")
        assert rule_of(made) == rule_of(PROTOCOLS["defcn"]) | {"nms_iou": 0.5}
        assert parse_protocol("nms_iou: 0.5") == parse_protocol(" {nms_iou: 5e-1}")
        assert parse_protocol("{}") == PROTOCOLS["default"]
        assert parse_protocol("{nms_iou: 0.6, level_range: null}").preset == "default"

    @pytest.mark.parametrize("name", ["p.yaml", "p.yml", "defcn.YAML.yaml", "./p", "in/p.txt"])
    def test_a_file(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "in").mkdir()
        values = {"preset": "onenet", "suppression": "max_filter", "spatial_range": 3}
        Path(name).write_text("# as in Table 2\n" + dump_yaml(values))
        wanted = rule_of(PROTOCOLS["onenet"]) | {"suppression": "max_filter", "spatial_range": 3}
        assert rule_of(parse_protocol(name)) == wanted
        assert parse_protocol(str(tmp_path / name)) == parse_protocol(name)

    @given(RULES)
    def test_a_dumped_protocol_is_parsed_to_the_same(self, values: dict[str, Any]) -> None:
        made = with_key(Protocol(**values))
        assert parse_protocol(json.dumps(made.model_dump(mode="json"))) == made


class TestProblems:
    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("defcnn", 'protocol: unknown preset "defcnn"; did you mean "defcn"?'),
            ("xyz", 'protocol: unknown preset "xyz"; choose one of default, defcn, o2f'),
            ("", 'protocol: unknown preset ""; choose one of default'),
            ("{preset: onenets}", 'protocol: preset: unknown preset "onenets"; did you mean "onen'),
            ("{preset: [1]}", 'protocol: preset: unknown preset "[1]"; choose one of default'),
            ("{nms_iu: 0.5}", 'protocol: nms_iu: unknown key; did you mean "nms_iou"?'),
            ("{nms_iou: 2}", "protocol: nms_iou: must be at most 1, got 2"),
            ("{nms_iou: .nan}", "protocol: nms_iou: must be "),
            ("{nms_iou: '0.5'}", 'protocol: nms_iou: must be a number, got "0.5"'),
            ("{spatial_range: 2}", "protocol: spatial_range: must be odd (1, 3, 5, ...), got 2"),
            ("{suppression: max_filter}", "protocol: spatial_range: max_filter needs one"),
            ("{suppression: softnms}", 'protocol: suppression: unknown "softnms"; '),
            ("{nms_iou: 0.5", "protocol: line 1: "),
            ("{nms_iou: 0.5, nms_iou: 0.6}", 'key "nms_iou" is repeated'),
            ("{nms_iou: !!python/name:os.system x}", "tags are not allowed"),
            ("{1: 2}", "a key is not text"),
            ("nowhere.yaml", "nowhere.yaml: No such file or directory; give the path"),
            ("/nowhere/p", "/nowhere/p: No such file or directory; give the path"),
            ("/", "/: Is a directory; give the path"),
            ("a\0.yaml", "embedded null byte; give the path"),
            ("x" * 5000 + ".yaml", "File name too long; give the path"),
        ],
    )
    def test_one_line(self, text: str, line: str) -> None:
        [found] = problems(text)
        assert line in found

    def test_the_message_about_a_preset_names_the_other_forms(self) -> None:
        [found] = problems("mine")
        assert "{preset: defcn, nms_iou: 0.5}" in found
        assert ".yaml" in found

    def test_all_problems_are_reported_at_once(self) -> None:
        text = "{preset: defcnn, nms_iou: 3, sco: 1, order: nms_then_cutt, max_dets: 1.5}"
        assert [line.split(": ")[1] for line in problems(text)] == [
            *("preset", "nms_iou", "order", "max_dets", "sco")
        ]

    @pytest.mark.parametrize(
        ("content", "line"),
        [
            (b"", "must be a mapping such as {nms_iou: 0.5}, got null"),
            (b"- defcn\n", 'must be a mapping such as {nms_iou: 0.5}, got ["defcn"]'),
            (b"defcn\n", 'must be a mapping such as {nms_iou: 0.5}, got "defcn"'),
            (b"a: 1\n\tb: 2\n", "line 2: "),
            (b"preset: defcn\nmax_det: 10\n", 'max_det: unknown key; did you mean "max_dets"?'),
            (b"\xff\xff", "is not UTF-8 text"),
            (b"#" * (MAX_BYTES + 1), "larger than"),
        ],
    )
    def test_problems_of_a_file_start_with_its_path(
        self, tmp_path: Path, content: bytes, line: str
    ) -> None:
        path = tmp_path / "p.yaml"
        path.write_bytes(content)
        [found] = problems(str(path))
        assert found.startswith(f"{path}: ")
        assert line in found
