"""`training.init_from: row:NAME`, compared with ids that are written by hand."""

from pathlib import Path
from typing import Any

import pytest

from gaplab.errors import UserError
from gaplab.records import TrialRecord
from gaplab.spec.files import load_spec
from gaplab.spec.resolve import ResolvedSpec, resolve
from gaplab.spec.sweep import changed_trials, expand, outline, row_records
from gaplab.spec.yaml_text import dump_yaml
from tests.builders import SECTIONS, make_spec
from tests.gaplab.spec.specs import coco, problems

START = "training.init_from"


def resolved(rows: dict[str, Any], **keys: Any) -> ResolvedSpec:
    return resolve(make_spec(SECTIONS, rows=rows, **keys))


def start(trial: TrialRecord) -> str:
    return str(trial.config["training"]["init_from"])


def wrong(folder: Path, **keys: Any) -> list[str]:
    return problems(folder, dump_yaml({"name": "quick", **SECTIONS, **keys}))


def test_a_row_starts_from_the_trial_with_its_own_seed() -> None:
    rows = {"child": {START: "row:parent"}, "parent": {"assignment": {"name": "fcos"}}}
    found = row_records(resolved(rows, grid={"seed": [0, 7]}))
    assert [start(each) for each in found["child"]] == [each.id for each in found["parent"]]
    assert (
        [each.seed for each in found["child"]] == [each.seed for each in found["parent"]] == [0, 7]
    )


def test_the_id_is_that_of_a_spec_with_the_id_of_the_parent() -> None:
    rows = {"parent": {"assignment": {"name": "fcos"}}, "child": {START: "row:parent"}}
    found = row_records(resolved(rows))
    typed = rows | {"child": {START: found["parent"][0].id}}
    assert row_records(resolved(typed))["child"][0].id == found["child"][0].id
    assert changed_trials(found["child"]) == []


@pytest.mark.parametrize(
    "keys",
    [
        {"grid": {"assignment.alpha": [0.2, 0.5], "seed": [0, 1]}},
        {"zip": {"assignment.alpha": [0.2, 0.5], "seed": [0, 1]}},
        {"grid": {"seed": [0, 1]}, "exclude": [{"seed": 1}]},
    ],
)
def test_everything_else_that_the_spec_varies_is_equal(keys: dict[str, Any]) -> None:
    rows = {"parent": {"training.epochs": 3}, "child": {START: "row:parent"}}
    found = row_records(resolved(rows, **keys))
    assert len(found["child"]) == len(found["parent"]) > 0
    for parent, child in zip(found["parent"], found["child"], strict=True):
        assert start(child) == parent.id
        assert child.config["assignment"] == parent.config["assignment"]
        assert child.seed == parent.seed


def test_a_chain_of_rows_is_followed_in_any_order() -> None:
    rows = {"c": {START: "row:b"}, "a": {}, "b": {START: "row:a", "training.epochs": 2}}
    found = row_records(resolved(rows))
    (a,), (b,), (c,) = found["a"], found["b"], found["c"]
    assert (start(a), start(b), start(c)) == ("", a.id, b.id)
    assert [trial.id for trial in expand(resolved(rows)).trials] == [c.id, a.id, b.id]


def test_a_change_of_the_parent_changes_the_child() -> None:
    def child(**parent: Any) -> str:
        rows = {"parent": parent, "child": {START: "row:parent"}}
        return row_records(resolved(rows))["child"][0].id

    assert child(**{"training.lr": 0.1}) != child(**{"training.lr": 0.2}) != child()


def test_a_section_and_the_base_can_have_a_reference() -> None:
    rows = {"a": {"training": {"epochs": 2}}, "b": {"training": {"init_from": "row:a"}}}
    found = row_records(resolved(rows))
    assert start(found["b"][0]) == found["a"][0].id
    base = SECTIONS | {"training": {"init_from": "row:a"}}
    rows = {"a": {START: "", "training.epochs": 2}, "b": {}, "c": {"seed": 3}}
    found = row_records(resolve(make_spec(base, rows=rows)))
    assert {start(found[row][0]) for row in "bc"} == {found["a"][0].id}


def test_the_stored_spec_of_a_sweep_expands_to_the_same_trials(tmp_path: Path) -> None:
    rows = {"parent": {"training.epochs": 3}, "child": {START: "row:parent"}}
    sweep = expand(resolved(rows, grid={"seed": [0, 1]}))
    (tmp_path / "stored.yaml").write_text(sweep.spec)
    assert expand(load_spec(tmp_path / "stored.yaml")) == sweep


def test_rows_are_taken_together_with_those_they_start_from() -> None:
    rows = {"c": {START: "row:b"}, "a": {}, "b": {START: "row:a"}, "d": {"seed": 3}}
    found = resolved(rows, grid={"training.epochs": [1, 2]})
    assert found.with_parents({"c"}) == {"a", "b", "c"}
    assert found.with_parents({"b", "d"}) == {"a", "b", "d"}
    assert found.with_parents({"d"}) == {"d"}


def test_single_rows_have_the_trials_that_they_have_in_the_whole_spec() -> None:
    rows = {"a": {}, "b": {START: "row:a"}, "c": {"assignment": {"name": "fcos"}}}
    whole = resolved(rows)
    for chosen, kept in ((["c"], ["c"]), (["b"], ["a", "b"]), (["a", "c"], ["a", "c"])):
        found = row_records(whole.only(chosen))
        assert found == {row: row_records(whole)[row] for row in kept}
    assert whole.only([]) is whole


def test_rows_without_trials_are_refused() -> None:
    rows = {"a": {"seed": 1}, "b": {"seed": 2}, "c": {"read.ground_truth": True}}
    whole = resolved(rows, exclude=[{"seed": 2}])
    with pytest.raises(UserError) as caught:
        whole.only(["aa", "b", "c"])
    assert list(caught.value.problems) == [
        '--row aa: unknown row "aa"; did you mean "a"?',
        "--row b: has no trial, because exclude leaves it out",
        "--row c: shows the ground truth, so it has no trial; gaplab table computes it",
    ]
    with pytest.raises(UserError, match="--row a: the spec has no rows; remove --row"):
        resolve(make_spec(SECTIONS)).only(["a"])


def test_a_trial_whose_parent_has_no_data_has_no_id(tmp_path: Path) -> None:
    here, gone = coco(tmp_path / "here"), coco(tmp_path / "gone") | {"root": "nowhere"}
    rows = {"parent": {"data": gone}, "child": {"data": here, START: "row:parent"}, "other": {}}
    found = outline(resolve(make_spec(SECTIONS, rows=rows)))
    assert found.problems
    ids = {row: trials[0].id for row, trials in found.rows.items()}
    assert (ids["parent"], ids["child"]) == ("", "")
    assert ids["other"]
    assert start(found.rows["child"][0]) == "row:parent"


def test_an_unknown_row_is_refused(tmp_path: Path) -> None:
    rows = {
        "plain": {},
        "child": {START: "row:plane"},
        "other": {"training": {"init_from": "row:"}},
    }
    assert wrong(tmp_path, rows=rows) == [
        'quick.yaml: rows.child.training.init_from: unknown row "plane"; did you mean "plain"?',
        'quick.yaml: rows.other.training.init_from: unknown row ""; '
        "choose one of plain, child, other",
    ]
    assert wrong(tmp_path, training={"init_from": "row:a"}) == [
        'quick.yaml: training.init_from: unknown row "a"; there are none'
    ]


def test_rows_that_start_from_each_other_are_refused(tmp_path: Path) -> None:
    rows = {"a": {START: "row:b"}, "b": {START: "row:a"}, "c": {START: "row:a"}, "d": {}}
    assert wrong(tmp_path, rows=rows, repeat=2) == [
        "quick.yaml: rows.a.training.init_from: is circular: a -> b -> a",
        "quick.yaml: rows.b.training.init_from: is circular: b -> a -> b",
    ]
    assert wrong(tmp_path, rows={"a": {}}, training={"init_from": "row:a"}) == [
        "quick.yaml: training.init_from: is circular: a -> a"
    ]


def test_a_row_that_is_left_out_is_refused(tmp_path: Path) -> None:
    rows = {"parent": {"training.epochs": 3}, "child": {START: "row:parent"}}
    assert wrong(tmp_path, rows=rows, exclude=[{"training.epochs": 3}]) == [
        "quick.yaml: rows.child.training.init_from: row parent has no trial to start from here, "
        "because exclude leaves it out"
    ]
