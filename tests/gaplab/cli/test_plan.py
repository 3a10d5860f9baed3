"""`gaplab plan` and `gaplab models`, also where data is missing, and specs with problems."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from detectors.assigners.base import Branch
from detectors.cost import model_cost
from gaplab.cli.plan import make_plan, plan_json, print_plan
from gaplab.cli.render.terminal import open_console
from gaplab.spec.files import load_spec
from gaplab.spec.sweep import expand, experiment_of
from gaplab.storage.home import Home

Gaplab = Callable[..., str]
Write = Callable[..., Path]
TABLE = Path(__file__).parents[3] / "experiments" / "004" / "t9.yaml"


def test_plan_runs_nothing(gaplab: Gaplab, write_spec: Write, tmp_path: Path) -> None:
    spec = write_spec(grid={"assignment.alpha": [0.2, 0.8], "seed": [0, 1]})
    output = gaplab("plan", spec)
    assert "4 trials: 0 already in the ledger, 4 to run" in output
    assert "no estimate" in output
    plan = json.loads(gaplab("plan", spec, "--json"))
    assert [t["state"] for t in plan["trials"]] == ["new"] * 4
    assert plan["varied"] == ["assignment.alpha"]
    assert [t["varied"]["assignment.alpha"] for t in plan["trials"]] == [0.2, 0.2, 0.8, 0.8]
    assert "alpha" in output
    assert plan["estimate"]["unknown"] == 4
    assert not list(tmp_path.glob("home/trials"))


def test_one_row_is_planned(gaplab: Gaplab, write_spec: Write) -> None:
    spec = write_spec(rows={"a": {"assignment.alpha": 0.3}, "b": {"assignment.alpha": 0.4}})
    trials = json.loads(gaplab("plan", spec, "--json"))["trials"]
    [one] = json.loads(gaplab("plan", spec, "--row", "b", "--json"))["trials"]
    assert one == {**trials[1], "varied": {}}
    assert "--row c: unknown row" in gaplab("plan", spec, "--row", "c", code=2)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"detektor": {}}, 'unknown key; did you mean "detector"?'),
        ({"assignment": {"name": "poto", "alpha": 1.4}}, "assignment.alpha: "),
        ({"assignment": {"name": "o2f", "k": 0}}, "assignment.k: "),
        ({"assignment": {"name": "o2f", "t_min": 0.7}}, "t_min: must not be above t_max"),
        (
            {"grid": {"seed": list(range(200)), "training.lr": [i / 999 for i in range(1, 200)]}},
            "max_trials",
        ),
    ],
)
def test_wrong_specs_are_one_line_each(
    gaplab: Gaplab, write_spec: Write, change: dict[str, object], line: str
) -> None:
    output = gaplab("plan", write_spec(**change), code=2)
    assert line in output
    assert all(text.startswith("gaplab: ") for text in output.splitlines())


def test_all_problems_at_once(gaplab: Gaplab, write_spec: Write) -> None:
    spec = write_spec(seed=-1, training={"lr": 0, "epoch": 3}, assignment={"name": "potto"})
    output = gaplab("run", spec, code=2)
    for part in ("seed", "training.lr", "training.epoch", "assignment.name"):
        assert part in output
    assert len(output.splitlines()) == 4


AWAY = "data={name: coco, root: data/coco}"


def test_plan_lists_trials_whose_data_is_missing(
    gaplab: Gaplab, table_spec: Path, tmp_path: Path
) -> None:
    rows = "rows.again={assignment: {name: poto}, resources.cpus_per_worker: 2}"
    output = gaplab("plan", table_spec, "--set", AWAY, "--set", rows)
    lines = [line.split() for line in output.splitlines()]
    assert [line for line in lines if line[:1] == ["?"]] == [
        ["?", *name, "coco", seed, "3", "?"]
        for name in (("fcos",), ("poto", "0.8"), ("poto", "0.3"))
        for seed in "01"
    ]
    assert "6 trials\n" in output
    assert (
        f"{tmp_path}/data/coco: no such folder: "
        "ids of trials, and which of them are finished, can't be known here\n"
    ) in output
    assert "no estimate" in output


def test_plan_in_json_without_data(gaplab: Gaplab, table_spec: Path, tmp_path: Path) -> None:
    found = json.loads(gaplab("plan", table_spec, "--json", "--set", AWAY))
    assert found["sweep"] is None
    assert found["problems"] == [
        f"{tmp_path}/data/coco: no such folder; set `root` to the data set's folder"
    ]
    assert [(t["trial"], t["state"]) for t in found["trials"]] == [(None, None)] * 6
    assert {(t["assignment"], t["epochs"]) for t in found["trials"]} == {("fcos", 3), ("poto", 3)}
    assert found["estimate"]["trials"] == 6
    here = json.loads(gaplab("plan", table_spec, "--json"))
    assert here["problems"] == []
    assert here["sweep"].startswith("t1-")
    assert {t["state"] for t in here["trials"]} == {"new"}


@pytest.mark.usefixtures("measured")
def test_plan_with_a_part_of_the_data(gaplab: Gaplab, table_spec: Path, tmp_path: Path) -> None:
    spec = yaml.safe_load(table_spec.read_text())
    spec["grid"]["data"] = [{"name": "shapes"}, {"name": "coco", "root": "nowhere"}]
    path = tmp_path / "both.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    output = gaplab("plan", path)
    assert "12 trials: 3 already in the ledger, 3 to run, 6 unknown\n" in output
    assert sum(line.split()[:1] == ["?"] for line in output.splitlines()) == 6
    assert sum("succeeded" in line for line in output.splitlines()) == 3
    found = json.loads(gaplab("plan", path, "--json"))
    assert found["sweep"] is None
    assert sum(trial["trial"] is None for trial in found["trials"]) == 6


def test_two_missing_data_sets_are_different(gaplab: Gaplab, table_spec: Path) -> None:
    sets = ("--set", AWAY, "--set", "grid.data.root=[a, b, a]")
    found = json.loads(gaplab("plan", table_spec, "--json", *sets))
    assert len(found["trials"]) == 2 * 6
    assert len(found["problems"]) == 2
    output = gaplab("plan", table_spec, *sets)
    [line] = [line for line in output.splitlines() if "can't be known here" in line]
    assert line.count(": no such folder") == 2


def test_run_refuses_missing_data(gaplab: Gaplab, table_spec: Path, home: Path) -> None:
    output = gaplab("run", table_spec, "--set", AWAY, code=2)
    assert output.endswith("data/coco: no such folder; set `root` to the data set's folder\n")
    assert not (home / "ledger.db").exists()


def test_the_cost_in_operations_is_the_last_line(
    table_spec: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_plan(table_spec, None, [], Home(home))
    for compute, last in (("about 3 EFLOP", "about 3 EFLOP"), (None, "no estimate: ")):
        changed = replace(made, compute=compute)
        print_plan(changed, open_console(), 20)
        assert capsys.readouterr().out.splitlines()[-1].startswith(last)
        assert json.loads(plan_json(changed))["compute"] == compute


def test_published_weights_of_each_row(gaplab: Gaplab) -> None:
    """004 Table 9: weights in training and at inference; its data set is missing."""
    words = ("models", TABLE, "--profile", "paper", "--size", "800x1280", "--json")
    lines = {line["names"][0]: line for line in json.loads(gaplab(*words))}
    trained = {row: round(line["training"]["trainable"] / 1e6, 1) for row, line in lines.items()}
    assert trained == {"004-T9-01": 33.6, "004-T9-02": 33.8, "004-T9-03": 38.5}
    infers = {row: round(line["inference"]["trainable"] / 1e6, 1) for row, line in lines.items()}
    assert infers == {"004-T9-01": 33.6, "004-T9-02": 32.0, "004-T9-03": 32.0}


def test_equal_detectors_share_a_line(gaplab: Gaplab, write_spec: Write) -> None:
    names = [{"name": name} for name in ("center", "poto", "dual")]
    spec = write_spec(grid={"assignment": names})
    alone, both = json.loads(gaplab("models", spec, "--json"))
    assert (alone["names"], both["names"]) == (["center", "poto"], ["dual"])
    dual = experiment_of(expand(load_spec(spec)).trials[2])
    data = dual.data.expected()
    branches_of: dict[str, tuple[Branch, ...]] = {"training": ("o2o", "o2m"), "inference": ("o2o",)}
    for mode, branches in branches_of.items():
        size = (data.height, data.width)
        expected = model_cost(dual.detector, data.classes, branches, size, training=True)
        assert both[mode]["multiply_adds"] == expected.multiply_adds
    output = gaplab("models", spec)
    assert "center and 1 more" in output
    assert f"{data.height} x {data.width}" in output


@pytest.mark.parametrize("size", ["800", "0x800", "800x", "a x b"])
def test_an_invalid_size_is_refused(gaplab: Gaplab, write_spec: Write, size: str) -> None:
    output = gaplab("models", write_spec(), "--size", size, code=2)
    assert output.splitlines() == [
        f"gaplab: --size {size}: must be height x width in pixels, such as 800x1280"
    ]


def test_notes_of_a_grid_are_printed(gaplab: Gaplab, write_spec: Write) -> None:
    spec = write_spec(grid={"training.lr": [1, 1.0], "seed": [0, 1]}, exclude=[{"seed": 7}])
    notes = [
        "exclude[0]: {seed: 7} holds for no combination",
        "4 combinations give 2 different trials",
    ]
    lines = gaplab("plan", spec).splitlines()
    assert [line for line in lines if line in notes] == notes
    assert json.loads(gaplab("plan", spec, "--json"))["notes"] == notes
