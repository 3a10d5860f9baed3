"""`gaplab options`: every section, entry and option of a spec."""

import json
from collections.abc import Callable

import pytest

from detectors.assigners import ASSIGNERS
from gaplab.spec.describe import SECTIONS, TABLES, everything, options_of

Gaplab = Callable[..., str]


def test_every_section_and_entry_is_listed(gaplab: Gaplab) -> None:
    text = gaplab("options")
    for key in (*TABLES, *SECTIONS):
        assert f"\n{key}: " in f"\n{text}"
    for key, table in TABLES.items():
        lines = [line for line in gaplab("options", key).splitlines() if line[:1].strip()]
        assert [line.partition(":")[0] for line in lines[:-1]] == list(table)


def test_every_option_is_listed_with_its_meaning(gaplab: Gaplab) -> None:
    found = json.loads(gaplab("options", "--json"))
    expected = [(key, each.name) for key, model in everything() for each in options_of(model)]
    assert [(each["key"], each["option"]) for each in found] == expected
    assert all(each["meaning"] and each["values"] and each["default"] for each in found)
    own = [each for each in found if each["key"].startswith("assignment.")]
    assert json.loads(gaplab("options", "assignment", "--json")) == own
    assert {each["key"] for each in own} == {f"assignment.{name}" for name in ASSIGNERS}


@pytest.mark.parametrize(
    ("key", "heads", "line"),
    [
        ("poto", ["assignment.poto"], "  alpha: number, 0 to 1; default 0.8"),
        ("assignment.poto", ["assignment.poto"], "  solver: lsa, argmax; default lsa"),
        ("fcos", ["detector.fcos", "assignment.fcos"], "  radius: number, above 0; default 1.5"),
        ("lr", ["training"], "  lr: number, above 0; default 0.003"),
        ("loss.box", ["training.loss"], "  box: giou, iou, deltas, size_offset; default giou"),
        ("detector.refine", ["detector.deformable_detr"], "  refine: true, false; default false"),
        ("resources", ["resources"], "  workers *: integer, at least 1; default 1"),
        ("gate.none", ["detector.gate.none"], "  no options"),
    ],
)
def test_a_key_is_described(gaplab: Gaplab, key: str, heads: list[str], line: str) -> None:
    lines = gaplab("options", key).splitlines()
    assert [each for each in lines if each and not each.startswith(" ")] == heads
    assert line in lines


@pytest.mark.parametrize("name", ["deta", "ms_detr"])
def test_what_a_description_refers_to_is_part_of_it(gaplab: Gaplab, name: str) -> None:
    text = " ".join(gaplab("options", name).split())
    assert "Deviations: see `SimilarRule`" in text
    assert "`SimilarRule`: Selects the `topk` points most similar to an object" in text


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("pto", 'unknown key "pto"; did you mean "poto"?'),
        ("training.weigth_decay", 'did you mean "weight_decay'),
        ("MS-DETR", "see assignment.ms_detr"),
        ("CondInst", "see detector.masks"),
        ("yolov10", "see assignment.consistent_dual"),
        ("x" * 20, "choose one of data, detector, detector.backbone, "),
        ("\x1b[31m", 'unknown key "\\u001b[31m"; choose one of'),
    ],
)
def test_an_unknown_key_is_one_line(gaplab: Gaplab, key: str, problem: str) -> None:
    [line] = gaplab("options", key, code=2).splitlines()
    assert problem in line
