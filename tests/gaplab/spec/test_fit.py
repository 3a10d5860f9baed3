"""Options that don't fit each other: each is one line, with the key that the spec has to change."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from detectors.assigners import ASSIGNERS
from detectors.options import LARGEST
from tests.gaplab.spec.specs import load, problems

QUERIES: dict[str, Any] = {
    "name": "quick",
    "data": {"name": "shapes"},
    "detector": {"name": "detr", "channels": 32},
    "assignment": {"name": "min_cost"},
}
NEEDS = "needs the positions of points, which queries do not have"
NO_COST = "no part of the cost has a weight above 0"


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        (
            {"assignment": {"name": "hybrid"}},
            [
                f"assignment.first: fcos {NEEDS}; choose min_cost_many, ms_detr or deta",
                f"assignment.then: poto {NEEDS}; set prior: global",
            ],
        ),
        (
            {"assignment": {"name": "dual", "o2o": {"name": "min_cost"}}},
            [f"assignment.o2m: fcos {NEEDS}; choose min_cost_many, ms_detr or deta"],
        ),
        ({"assignment": {"name": "o2f"}}, [f"assignment: o2f {NEEDS}; set prior: global"]),
        (
            {"assignment": {"name": "min_cost", "location": "points"}},
            [f"assignment: min_cost {NEEDS}; set location: predicted, and no level_range"],
        ),
        (
            {"assignment": {"name": "tal"}},
            [
                f"assignment: tal {NEEDS}; choose min_cost_many, ms_detr, deta, min_cost, poto "
                "with prior: global or o2f with prior: global, or hybrid or mixture or dual of "
                "these"
            ],
        ),
        (
            {"detector": {"name": "detr", "attention_heads": 5, "o2m_groups": 2}},
            [
                "detector.attention_heads: must divide channels (64), got 5",
                "detector.o2m_groups: only used with o2m_queries; set it, or leave this out",
            ],
        ),
        (
            {"detector": {"name": "retinanet"}, "assignment": {"name": "centernet"}},
            [
                "assignment: centernet needs one point per cell, but retinanet has 9; choose "
                "another assignment, or a detector with one point per cell (fcos, onenet)"
            ],
        ),
        (
            {"assignment": {"name": "min_cost", "classification": False, "l1_weight": 0}},
            [],
        ),
        (
            {
                "assignment": {
                    "name": "min_cost",
                    "classification": False,
                    "l1_weight": 0,
                    "giou_weight": 0,
                }
            },
            [f"assignment.l1_weight: {NO_COST}, so no point is better than another; set one"],
        ),
        (
            {
                "assignment": {
                    "name": "dual",
                    "o2o": {"name": "min_cost"},
                    "o2m": {"name": "deta"},
                    "lambda_o2o": 0,
                    "lambda_o2m": 0,
                }
            },
            [
                "assignment.lambda_o2o: is 0, and so is lambda_o2m: nothing would be trained; "
                "set one"
            ],
        ),
        (
            {"training": {"loss": {"cls_weight": 0, "box_weight": 0}}},
            [
                "training.loss.cls_weight: is 0, and so are box_weight and l1_weight: nothing "
                "would be trained; set one"
            ],
        ),
        (
            {"training": {"loss": {"l1_weight": 1e300}, "lr": 1e16}},
            [
                "training.loss.l1_weight: must have a size of at most 1e+30, got 1e+300",
            ],
        ),
        ({"training": {"loss": {"l1_weight": LARGEST}}}, []),
    ],
)
def test_each_problem_has_its_key(
    tmp_path: Path, changes: dict[str, Any], lines: list[str]
) -> None:
    text = yaml.safe_dump(QUERIES | changes)
    if not lines:
        assert load(tmp_path, text)
        return
    assert problems(tmp_path, text) == [f"quick.yaml: {line}" for line in lines]


def test_problems_of_rows_name_the_row(tmp_path: Path) -> None:
    rows = {
        "a": {"assignment": {"name": "poto"}},
        "b": {"detector.attention_heads": 5},
        "c": {"detector": {"name": "deformable_detr", "two_stage": True}},
        "d": {"evaluation.protocol": "centernet"},
    }
    assert problems(tmp_path, yaml.safe_dump(QUERIES | {"rows": rows})) == [
        f"quick.yaml: rows.a.assignment: poto {NEEDS}; set prior: global",
        "quick.yaml: rows.b.detector.attention_heads: must divide channels (32), got 5",
        "quick.yaml: rows.c.detector.two_stage: true needs refine: true, as published",
        "quick.yaml: rows.d.evaluation.protocol: level_range and spatial_range need the positions "
        "of points, which queries do not have; choose another protocol",
    ]


@pytest.mark.parametrize("name", ASSIGNERS)
def test_every_assignment_that_queries_refuse_has_a_remedy(tmp_path: Path, name: str) -> None:
    text = yaml.safe_dump(QUERIES | {"assignment": {"name": name}})
    if not ASSIGNERS[name]().needs_positions:
        assert load(tmp_path, text)
        return
    for line in problems(tmp_path, text):
        assert line.startswith("quick.yaml: assignment")
        assert f"{NEEDS}; " in line
        assert line.partition(f"{NEEDS}; ")[2].startswith(("set ", "choose "))
