"""Rows of a spec, compared with trials written by hand, with single specs and with `zip`."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaplab.errors import UserError
from gaplab.spec.files import load_spec
from gaplab.spec.models import Experiment, Reading, Spec
from gaplab.spec.resolve import resolve
from gaplab.spec.sweep import expand, to_mapping
from gaplab.spec.yaml_text import dump_yaml
from tests.builders import SECTIONS, make_spec, row_ids
from tests.gaplab.spec.specs import with_value

BASE: dict[str, Any] = {
    **SECTIONS,
    "assignment": {"name": "poto", "alpha": 0.5},
    "training": {"epochs": 3},
}


def spec(base: dict[str, Any] | None = None, **keys: Any) -> Spec:
    return make_spec(base or BASE, **keys)


def ids(found: Spec) -> list[str]:
    return [trial.id for trial in expand(resolve(found)).trials]


def load(folder: Path, keys: dict[str, Any], profile: str | None = None, *sets: str) -> Spec:
    path = folder / "table.yaml"
    path.write_text(dump_yaml({"name": "table", **BASE, **keys}))
    return load_spec(path, profile, sets).spec


def problems(folder: Path, keys: dict[str, Any], *sets: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(folder, keys, None, *sets)
    return list(caught.value.problems)


def test_keys_that_a_row_leaves_out_have_the_value_of_the_base() -> None:
    rows = {
        "003-T1-02": {"assignment": {"name": "fcos"}, "training.epochs": 9},
        "003-T1-05": {},
        "plain": {"assignment.alpha": 0.25},
    }
    trials = expand(resolve(spec(rows=rows, grid={"seed": [4, 7]}))).trials
    found = [
        (
            trial.assignment,
            trial.config["assignment"].get("alpha"),
            trial.config["training"]["epochs"],
            trial.seed,
        )
        for trial in trials
    ]
    assert found == [
        ("fcos", None, 9, 4),
        ("fcos", None, 9, 7),
        ("poto", 0.5, 3, 4),
        ("poto", 0.5, 3, 7),
        ("poto", 0.25, 3, 4),
        ("poto", 0.25, 3, 7),
    ]


def test_a_section_is_applied_before_its_keys() -> None:
    rows = {"a": {"assignment.alpha": 0.1, "assignment": {"name": "o2f", "k": 2}}}
    (trial,) = expand(resolve(spec(rows=rows))).trials
    assert (trial.assignment, trial.config["assignment"]["alpha"]) == ("o2f", 0.1)
    assert trial.config["assignment"]["k"] == 2


def test_equal_rows_share_one_trial() -> None:
    rows = {"a": {"seed": 1}, "b": {"assignment.alpha": 0.5, "seed": 1}, "c": {"seed": 2}}
    found = row_ids(resolve(spec(rows=rows)))
    assert found["a"] == found["b"] != found["c"]
    assert len(ids(spec(rows=rows))) == 2


def test_read_keys_change_no_trial() -> None:
    read = {"read.protocol": "defcn", "read.branch": "o2m", "read.epoch": 2}
    keys: dict[str, Any] = {"grid": {"seed": [0, 1]}}
    plain = spec(rows={"a": {"assignment.alpha": 0.1}, "b": {}}, **keys)
    shown = spec(rows={"a": {"assignment.alpha": 0.1, **read}, "b": read}, **keys)
    assert ids(plain) == ids(shown)
    assert row_ids(resolve(plain)) == row_ids(resolve(shown))
    reading = Reading.of(shown.rows["a"])
    assert reading.protocol is not None
    assert (reading.protocol.preset, reading.branch, reading.epoch) == ("defcn", "o2m", 2)
    assert Reading.of(plain.rows["a"]) == Reading()


def test_a_protocol_given_by_its_values_has_the_same_key_everywhere() -> None:
    rule = {"preset": "defcn", "spatial_range": 3, "level_range": 0}
    trial = spec({**BASE, "evaluation": {"protocol": rule}})
    (config,) = (trial.config for trial in expand(resolve(trial)).trials)
    reading = Reading.of({"read.protocol": rule})
    assert reading.protocol is not None
    assert reading.protocol.preset == config["evaluation"]["protocol"]["preset"]
    assert reading.protocol.preset.startswith("custom-")


def test_conditions_read_and_apply_to_keys_of_rows() -> None:
    rows = {
        "poto": {"assignment": {"name": "poto"}, "training.lr": 0.5},
        "fcos": {"assignment": {"name": "fcos"}, "training.lr": 0.5},
        "out": {"assignment": {"name": "poto", "alpha": 0.9}, "training.lr": 0.5},
    }
    keys: dict[str, Any] = {
        "rows": rows,
        "grid": {"assignment.alpha": [0.1, 0.2], "seed": [0, 1]},
        "when": {
            "assignment.alpha": {"assignment.name": "poto"},
            "training.lr": {"assignment.name": "fcos"},
        },
        "exclude": [{"assignment.alpha": 0.2, "seed": 1}],
    }
    found = row_ids(resolve(spec(**keys)))
    assert found["poto"] == found["out"]
    trials = {trial.id: trial.config for trial in expand(resolve(spec(**keys))).trials}
    seen = {
        row: [
            (c["assignment"].get("alpha"), c["seed"], c["training"]["lr"])
            for c in (trials[each] for each in held)
        ]
        for row, held in found.items()
    }
    default = Experiment.model_validate(BASE).training.lr
    assert seen["poto"] == [(0.1, 0, default), (0.1, 1, default), (0.2, 0, default)]
    assert seen["fcos"] == [(None, 0, 0.5), (None, 1, 0.5)]


def test_an_excluded_row_has_no_trials() -> None:
    rows = {"a": {"seed": 1}, "b": {"seed": 2}}
    found = row_ids(resolve(spec(rows=rows, exclude=[{"seed": 1}])))
    assert found == {"a": (), "b": tuple(ids(spec({**BASE, "seed": 2})))}
    assert row_ids(resolve(spec())) == {}


def test_rows_count_as_combinations() -> None:
    rows = {f"r{i}": {"seed": i} for i in range(1000)}
    with pytest.raises(UserError, match="20000 combinations, more than 10000"):
        expand(resolve(spec(rows=rows, grid={"training.epochs": list(range(1, 21))})))


# --- compared with equivalent specs ---------------------------------------------------------

VALUES: dict[str, list[Any]] = {
    "assignment": [{"name": "fcos"}, {"name": "o2f", "k": 2}, {"name": "poto"}],
    "training.optimizer": ["sgd", "adamw"],
    "training.lr": [1, 0.003, 0.5],
    "training": [{"epochs": 1}, {"lr": 0.25}],
    "seed": [0, 1, 2],
    "data.size": [64, 96],
}
CONDITIONS: list[dict[str, Any]] = [
    {"assignment.name": ["poto", "o2f"]},
    {"training.optimizer": "sgd"},
    {"seed": [1, 7]},
    {"data.size": 96},
]


def at_base(key: str) -> Any:
    """Return the value of the base at a key, defaults included; of a section, as written."""
    if key in BASE:
        return BASE[key]
    node: Any = Experiment.model_validate(BASE).config()
    for part in key.split("."):
        node = node[part]
    return node


ROWS = st.lists(
    st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in VALUES.items()}),
    min_size=1,
    max_size=4,
).map(lambda rows: {f"row {i}": row for i, row in enumerate(rows)})


@settings(max_examples=30)
@given(ROWS, st.sampled_from([None, "training.batch", "detector.channels"]))
def test_a_row_equals_a_spec_with_its_values_in_the_base(
    rows: dict[str, Any], other: str | None
) -> None:
    """Compare each row with a spec that has the values of the row in its base."""
    more: dict[str, Any] = {"grid": {other: [16, 32]}} if other else {}
    expected = {}
    for row, values in rows.items():
        base = BASE
        for key in sorted(values, key=lambda key: key.count(".")):
            base = with_value(base, tuple(key.split(".")), values[key])
        expected[row] = tuple(ids(spec(base, **more)))
    found = spec(rows=rows, **more)
    assert row_ids(resolve(found)) == expected
    assert ids(found) == list(dict.fromkeys(each for held in expected.values() for each in held))


@settings(max_examples=30)
@given(ROWS, st.data())
def test_rows_equal_a_zip_with_missing_values_from_the_base(
    rows: dict[str, Any], data: st.DataObject
) -> None:
    keys = sorted({key for row in rows.values() for key in row} - {"training"})
    rows = {row: {k: v for k, v in each.items() if k in keys} for row, each in rows.items()}
    group = {key: [row.get(key, at_base(key)) for row in rows.values()] for key in keys}
    more: dict[str, Any] = {
        "when": {
            key: data.draw(st.sampled_from(CONDITIONS[:2]))
            for key in keys
            if key == "training.lr" and data.draw(st.booleans())
        },
        "exclude": data.draw(st.lists(st.sampled_from(CONDITIONS), max_size=2)),
    }
    other = [{"training.batch": [4, 8]}] if data.draw(st.booleans()) else []
    zipped = outcome(spec(zip=([group] if group else []) + other, **more))
    assert outcome(spec(rows=rows, zip=other, **more)) == zipped


def outcome(found: Spec) -> list[str]:
    """Return the ids of the trials, or the problems."""
    try:
        return ids(found)
    except UserError as error:
        return list(error.problems)


# --- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"rows": [1]}, "rows: must be a mapping, got [1]"),
        ({"rows": {"a": None}}, "rows.a: must be a mapping, got null"),
        ({"rows": {"a": {"sed": 1}}}, 'rows.a.sed: unknown key; did you mean "seed"?'),
        (
            {"rows": {"a": {}, "b": {"training.lrr": 1}}},
            'rows.b.training.lrr: unknown key; did you mean "training.lr"?',
        ),
        ({"rows": {"a": {"seed.x": 1}}}, "rows.a.seed.x: unknown key; seed is a single value"),
        ({"rows": {"a": {"rows": {}}}}, "rows.a.rows: unknown key; choose one of data, detector, "),
        ({"rows": {"a": {"seed": -1}}}, "rows.a.seed: must be at least 0, got -1"),
        (
            {"rows": {"a": {}, "003-T1-02": {"assignment": {"name": "potto"}}}},
            'rows.003-T1-02.assignment.name: unknown "potto"; did you mean "poto"?',
        ),
        (
            {"rows": {"a": {"assignment": {"name": "fcos"}, "assignment.alpha": 0.5}}},
            "rows.a.assignment.alpha: unknown key of fcos; only quality_fcos, ",
        ),
        (
            {"rows": {"a": {"seed": 1}, "b": {"seed": 2}}, "grid": {"seed": [1]}},
            "grid.seed: is already varied in rows",
        ),
        ({"rows": {"a": {"read.epoch": 0}}}, "rows.a.read.epoch: must be at least 1, got 0"),
        ({"rows": {"a": {"read.epoch": "x"}}}, 'rows.a.read.epoch: must be an integer, got "x"'),
        ({"rows": {"a": {"read.branch": "o2x"}}}, 'rows.a.read.branch: unknown "o2x"; did you'),
        ({"rows": {"a": {"read.protocl": "x"}}}, "rows.a.read.protocl: unknown key; did you mean"),
        ({"rows": {"a": {"read": {}}}}, "rows.a.read: unknown key; choose one of data, detector, "),
        (
            {"rows": {"a": {"read.protocol": "defcnn"}}},
            'rows.a.read.protocol: unknown preset "defcnn"; did you mean "defcn"?',
        ),
        (
            {"rows": {"a": {"read.protocol": "custom-0123abcd"}}},
            'rows.a.read.protocol: unknown preset "custom-0123abcd"; choose one of default, ',
        ),
        (
            {"rows": {"a": {"read.protocol": {"nmsiou": 1}}}},
            'rows.a.read.protocol.nmsiou: unknown key; did you mean "nms_iou"?',
        ),
        (
            {"rows": {"a": {"read.protocol": {"nms_iou": 3}}}},
            "rows.a.read.protocol.nms_iou: must be at most 1, got 3",
        ),
        (
            {"rows": {"a": {"seed": 1}}, "when": {"read.epoch": {"seed": 1}}},
            "when.read.epoch: not a key of grid, zip, rows or search; choose one of seed",
        ),
        (
            {"rows": {"a": {"seed": 1}}, "exclude": [{"rows": "a"}]},
            "exclude[0].rows: unknown key; choose one of data, detector, ",
        ),
        (
            {"rows": {"a": {}}, "profiles": {"laptop": {"rows": {"a": {"seed": -1}}}}},
            "profiles.laptop.rows.a.seed: must be at least 0, got -1",
        ),
    ],
)
def test_one_problem_is_one_line(tmp_path: Path, keys: dict[str, Any], line: str) -> None:
    (found,) = problems(tmp_path, keys)
    assert found.startswith(f"table.yaml: {line}")
    assert "\n" not in found


def test_every_wrong_row_is_reported(tmp_path: Path) -> None:
    rows = {"a": {"sed": 1, "seed": -1}, "b": {"seed": 2}, "c": {"sed": 2}}
    assert problems(tmp_path, {"rows": rows}) == [
        f'table.yaml: rows.{row}.sed: unknown key; did you mean "seed"?' for row in "ac"
    ]
    rows = {"a": {"seed": -1}, "b": {"seed": 2}, "c": {"seed": -3, "training.lr": 0}}
    assert sorted(problems(tmp_path, {"rows": rows})) == [
        "table.yaml: rows.a.seed: must be at least 0, got -1",
        "table.yaml: rows.c.seed: must be at least 0, got -3",
        "table.yaml: rows.c.training.lr: must be greater than 0, got 0",
    ]


TABLE: dict[str, Any] = {
    "rows": {
        "a": {"assignment": {"name": "poto", "alpha": 0.1}, "training.epochs": 2},
        "name": {"evaluation.protocol": "defcn", "seed": 3},
    },
    "profiles": {
        "laptop": {
            "rows": {
                "a": {"assignment": {"alpha": 0.3}},
                "name": {"evaluation.protocol": {"max_dets": 7}},
                "new": {"seed": 9},
            }
        },
        "other": {"rows": {"a": {"assignment": {"name": "o2f"}}, "name": {"seed": 4}}},
    },
}


def test_profiles_merge_into_rows_key_by_key(tmp_path: Path) -> None:
    assert load(tmp_path, TABLE).rows == {
        "a": {"assignment": {"name": "poto", "alpha": 0.3}, "training.epochs": 2},
        "name": {"evaluation.protocol": {"preset": "defcn", "max_dets": 7}, "seed": 3},
        "new": {"seed": 9},
    }
    assert load(tmp_path, TABLE, "other").rows == {
        "a": {"assignment": {"name": "o2f"}, "training.epochs": 2},
        "name": {"evaluation.protocol": "defcn", "seed": 4},
    }


@pytest.mark.parametrize(
    ("sets", "rows"),
    [
        (["seed=5"], {"a": ("poto", 0.1, 2, 5), "name": ("poto", 0.5, 3, 5)}),
        (["training.epochs=1"], {"a": ("poto", 0.1, 1, 0), "name": ("poto", 0.5, 1, 3)}),
        (["assignment.alpha=0.7"], {"a": ("poto", 0.7, 2, 0), "name": ("poto", 0.7, 3, 3)}),
        (["assignment={name: o2f}"], {"a": ("o2f", 0.8, 2, 0), "name": ("o2f", 0.8, 3, 3)}),
        (["rows.a.seed=8"], {"a": ("poto", 0.1, 2, 8), "name": ("poto", 0.5, 3, 3)}),
        (
            ["rows.a.assignment.alpha=0.9", "rows.b={training.epochs: 7}"],
            {"a": ("poto", 0.9, 2, 0), "name": ("poto", 0.5, 3, 3), "b": ("poto", 0.5, 7, 0)},
        ),
    ],
)
def test_set_overrides_rows(tmp_path: Path, sets: list[str], rows: dict[str, Any]) -> None:
    keys = {"rows": TABLE["rows"]}
    found = load(tmp_path, keys, None, *sets)
    trials = {trial.id: trial.config for trial in expand(resolve(found)).trials}
    seen = {}
    for row, (only,) in row_ids(resolve(found)).items():
        config = trials[only]
        alpha = config["assignment"]["alpha"]
        epochs, seed = config["training"]["epochs"], config["seed"]
        seen[row] = (config["assignment"]["name"], alpha, epochs, seed)
    default = Experiment.model_validate(BASE | {"assignment": {"name": "o2f"}}).assignment
    assert default.model_dump()["alpha"] == 0.8
    assert seen == rows


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("seed=-1", "--set seed: must be at least 0, got -1"),
        ("assignment.alpha=2", "--set assignment.alpha: must be at most 1, got 2"),
        ("rows.a.seed=-1", "--set rows.a.seed: must be at least 0, got -1"),
        ("rows.a.sed=1", '--set rows.a.sed: unknown key; did you mean "seed"?'),
        ("rows.a=3", "--set rows.a: must be a mapping, got 3"),
        ("rows=3", "--set rows: must be a mapping, got 3"),
    ],
)
def test_problems_of_set_start_with_it(tmp_path: Path, setting: str, line: str) -> None:
    (found,) = problems(tmp_path, {"rows": TABLE["rows"]}, setting)
    assert found == line


def test_the_resolved_text_has_the_same_rows(tmp_path: Path) -> None:
    found = load(tmp_path, TABLE, "laptop", "rows.a.read.branch=o2o")
    again = Spec.model_validate(found.model_dump())
    assert again == found
    (tmp_path / "again.yaml").write_text(dump_yaml(to_mapping(found)))
    loaded = load_spec(tmp_path / "again.yaml").spec
    assert loaded == found
    assert row_ids(resolve(loaded)) == row_ids(resolve(found))
    assert expand(resolve(loaded)) == expand(resolve(found))
