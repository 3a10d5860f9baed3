"""Keys in which trials differ. The oracle is `flat`: settings of trials compared one by one."""

from collections.abc import Iterator, Mapping
from itertools import permutations, product
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.options import NOT_IDENTITY, OneOf, Options
from gaplab.formatting import flat
from gaplab.spec.models import Experiment
from gaplab.spec.resolve import resolve
from gaplab.spec.sweep import outline
from gaplab.spec.varied import (
    SETTINGS,
    in_fixed_order,
    short_names,
    swept_keys,
    trial_label,
    value_text,
    varied_cells,
    varied_keys,
    varied_values,
)
from tests.builders import make_spec
from tests.examples import examples

POTO = [{"name": "poto", "alpha": alpha, "prior": "center"} for alpha in (0.25, 0.5, 0.75)]
O2F = [{"name": "o2f", "k": k, "alpha": 0.8} for k in (3, 5, 7)]


def trials(*assignments: Any, **sections: list[Any]) -> list[dict[str, Any]]:
    """Return the configurations of all combinations."""
    values = {"assignment": list(assignments) or POTO[:1], **sections}
    return [dict(zip(values, each, strict=True)) for each in product(*values.values())]


@pytest.mark.parametrize(
    ("configs", "keys"),
    [
        ([], []),
        (trials(), []),
        (trials(seed=[0, 1, 2]), []),
        (trials(*POTO), ["assignment.alpha"]),
        (trials(POTO[0], O2F[0]), ["assignment.name"]),
        (trials(*POTO, O2F[0]), ["assignment.name", "assignment.alpha"]),
        (trials(*POTO, *O2F), ["assignment.name", "assignment.alpha", "assignment.k"]),
        (trials(POTO[0], {"name": "poto"}), ["assignment.alpha", "assignment.prior"]),
        (
            trials(*POTO, detector=[{"name": "fcos", "backbone": {"name": n}} for n in "ab"]),
            ["assignment.alpha", "detector.backbone.name"],
        ),
        (trials(training=[{"sides": [1]}, {"sides": [1, 2]}]), ["training.sides"]),
        (
            trials(training=[{"ema": None}, {"ema": 0.5}, {"lr": 1}]),
            ["training.ema", "training.lr"],
        ),
        (trials(training=[{"crop": True}, {"crop": False}]), ["training.crop"]),
        (trials(training=[{"crop": True}, {"crop": 1}]), ["training.crop"]),
        (trials(training=[{"ema": 0.50}, {"ema": 0.5}, {"ema": 5e-1}]), []),
        (trials(training=[{"lr": 1}, {"lr": 1.0}]), []),
        (trials(training=[{"loss": None}, {"loss": {"box": 1}}]), ["training.loss"]),
        (trials(training=[{"loss": {}}, {"loss": {"box": 1}}]), ["training.loss"]),
        (trials(training=[{"lr": 1}, {"lr": 1, "loss": {"box": 1}}]), ["training.loss.box"]),
        (trials(training=[{}, {"loss": {"box": 1}}]), ["training"]),
        (trials(resources=[{"workers": 1}, {"workers": 2}]), []),
        (trials(data=[{"name": "coco", "root": r, "title": "x"} for r in "ab"]), []),
        (trials(data=[{"name": "coco", "root": r, "title": r} for r in "ab"]), ["data.title"]),
        (
            trials(evaluation=[{"protocol": {"preset": p, "iou": p}} for p in ("defcn", "o2f")]),
            ["evaluation.protocol.preset"],
        ),
        (
            trials(
                evaluation=[
                    {"every": every, "protocol": {"preset": preset, "iou": iou, "order": "cut"}}
                    for every, preset, iou in ((1, "default", 0.6), (2, "custom-01234567", 0.5))
                ]
            ),
            ["evaluation.protocol.iou"],
        ),
    ],
)
def test_keys_in_which_trials_differ(configs: list[dict[str, Any]], keys: list[str]) -> None:
    assert varied_keys(configs) == keys
    assert varied_keys(configs[::-1] * 2) == keys or set(varied_keys(configs[::-1])) == set(keys)


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_a_fixed_order(order: tuple[int, ...]) -> None:
    keys = ["assignment.name", "assignment.alpha", "data.title", "evaluation.protocol.preset"]
    assert in_fixed_order([keys[at] for at in order]) == keys


def test_keys_of_a_spec_are_those_that_it_varies() -> None:
    rows: dict[str, dict[str, Any]] = {
        f"{name} {value}": {"assignment": {"name": name, key: value}}
        for name, key, values in (("poto", "alpha", (0.25, 0.5)), ("o2f", "k", (5, 7)))
        for value in values
    }
    spec = make_spec(rows=rows, repeat=2, grid={"training.lr": [0.1, 0.01]})
    configs = [trial.config for trial in outline(resolve(spec)).sweep.trials]
    keys = varied_keys(configs)
    assert keys == ["assignment.name", "assignment.alpha", "assignment.k", "training.lr"]
    assert len(configs) == 16
    assert len({trial_label(config, keys) for config in configs}) == 8
    assert trial_label(configs[0], keys) == "poto alpha=0.25 lr=0.1"
    assert trial_label(configs[-1], keys) == "o2f alpha=0.8 k=7 lr=0.01"


SPECS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "grid": {"grid": {"assignment.alpha": [0.3, 0.5], "training.lr": [0.1], "seed": [0, 1]}},
    "sections": {"grid": {"assignment": [{"name": "poto"}, {"name": "o2f", "k": 5}]}},
    "inside": {
        "grid": {"assignment": [{"name": "o2f", "k": 5}, {"name": "o2f", "k": 7}]},
        "zip": [{"assignment.t_max": [0.5, 0.6], "training.epochs": [1, 2]}],
    },
    "rows": {
        "rows": {
            "a": {"assignment.alpha": 0.3, "read.protocol": "defcn"},
            "b": {"assignment.alpha": 0.5, "training.ema": 0.9},
            "c": {"assignment": {"name": "o2f"}, "assignment.k": 5},
            "d": {"assignment": {"name": "o2f"}, "assignment.k": 7},
        },
        "repeat": 2,
    },
    "protocols": {"grid": {"evaluation.protocol": ["defcn", "o2f"]}},
    "protocol": {"grid": {"evaluation.protocol.nms_iou": [0.5, 0.55]}},
    "search": {
        "search": {"space": {"assignment.alpha": {"low": 0.2, "high": 0.8}}, "trials": 3},
    },
    "settings": {"grid": {"resources.workers": [1, 2], "evaluation.every": [1, 2]}},
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_keys_of_a_spec_are_known_without_its_trials(spec: dict[str, Any]) -> None:
    resolved = resolve(make_spec(**spec))
    keys = varied_keys(trial.config for trial in outline(resolved).sweep.trials)
    assert swept_keys(spec) == keys


def test_a_key_that_turns_out_to_have_one_value_is_a_key_of_the_spec() -> None:
    rows = {
        "a": {"assignment": {"name": "poto"}},
        "b": {"assignment": {"name": "poto", "alpha": 0.8}},
    }
    assert swept_keys({"rows": rows}) == ["assignment.alpha"]


@pytest.mark.parametrize("spec", [{"grid": 3}, {"rows": [1]}, {"zip": "x"}, {"search": None}])
def test_what_is_no_spec_has_no_keys(spec: dict[str, Any]) -> None:
    assert swept_keys(spec) == []


NAMES = st.sampled_from(["name", "alpha", "k", "loss", "'; drop table trial--", "<b>", "\x1b[2J"])
LEAVES = st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from([0.5, 1.0, "a", [], [1]])
SECTIONS = st.recursive(
    LEAVES, lambda inner: st.dictionaries(NAMES, inner, max_size=3), max_leaves=4
)
CONFIGS = st.lists(
    st.dictionaries(st.sampled_from(["assignment", "training", "seed", "data"]), SECTIONS),
    max_size=5,
)


def exact(values: Mapping[str, Any]) -> str:
    """Return text that is equal for equal values, but differs for 1 and true."""
    return repr(sorted((k, float(v) if type(v) is int else v) for k, v in values.items()))


@given(CONFIGS)
@examples(100)
def test_trials_are_equal_up_to_their_seeds_if_their_varied_values_are(
    configs: list[dict[str, Any]],
) -> None:
    keys = varied_keys(configs)
    assert len(keys) == len(set(keys))
    whole = [
        exact({k: v for k, v in flat(each).items() if k.split(".")[0] != "seed"})
        for each in configs
    ]
    varied = [exact(varied_values(each, keys)) for each in configs]
    for i, j in product(range(len(configs)), repeat=2):
        assert (varied[i] == varied[j]) == (whole[i] == whole[j])


@given(CONFIGS)
@examples(50)
def test_every_varied_key_distinguishes_trials(configs: list[dict[str, Any]]) -> None:
    for key in varied_keys(configs):
        assert len({exact(varied_values(each, [key])) for each in configs}) > 1


PARTS = st.lists(st.sampled_from(["name", "alpha", "assignment", "loss", "preset", ""]), min_size=1)


@given(st.lists(PARTS.map(".".join), unique=True, max_size=6), st.sets(st.sampled_from(["alpha"])))
@examples(100)
def test_short_names_are_unique_endings(keys: list[str], taken: set[str]) -> None:
    found = short_names(keys, taken)
    assert list(found) == keys
    assert len(set(found.values())) == len(keys)
    for key, name in found.items():
        assert name in key
        assert name not in taken or name == key


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["assignment.alpha"], ["alpha"]),
        (
            ["assignment.alpha", "assignment.one_to_many.alpha"],
            ["assignment.alpha", "one_to_many.alpha"],
        ),
        (["assignment.name", "detector.backbone.name"], ["assignment", "backbone"]),
        (["evaluation.protocol.preset"], ["protocol"]),
        (["training.epochs"], ["training.epochs"]),
        (["alpha", "x.alpha"], ["alpha", "x.alpha"]),
        (["epochs"], ["epochs"]),
    ],
)
def test_short_names(keys: list[str], names: list[str]) -> None:
    assert list(short_names(keys, ["epochs"]).values()) == names


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *((None, "null"), (True, "true"), (0.50, "0.5"), (1e-5, "1e-05"), ("", ""), ("a b", "a b")),
        *(([1, "x"], '[1, "x"]'), ({}, "{}"), ("\x1b[31m", "\x1b[31m")),
    ],
)
def test_values_are_text(value: Any, shown: str) -> None:
    assert value_text(value) == shown
    assert trial_label({"assignment": {"name": "poto", "x": value}}, ["assignment.x"]) == (
        f"poto x={shown}"
    )


def test_cells_of_keys_that_a_trial_lacks_are_empty() -> None:
    keys = ["assignment.name", "assignment.alpha", "training.loss"]
    config = {"assignment": {"name": "o2f"}, "training": {"loss": {"box": 1}}}
    assert varied_cells(config, keys) == ["o2f", "", ""]
    assert trial_label(config, keys) == "o2f"
    assert trial_label({}, keys) == ""


def settings_of(model: type[Options], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of all fields that can't change a result."""
    for name, field in model.model_fields.items():
        if field.json_schema_extra == NOT_IDENTITY:
            yield prefix + name
            continue
        tables = [entry.table.values() for entry in field.metadata if isinstance(entry, OneOf)]
        inner: list[Any] = [each for table in tables for each in table]
        for each in inner or [field.annotation, *get_args(field.annotation)]:
            if isinstance(each, type) and issubclass(each, Options):
                yield from settings_of(each, f"{prefix}{name}.")


def test_settings_are_the_fields_that_cannot_change_a_result() -> None:
    labels = {"data.title", "evaluation.protocol.preset"}
    assert {*settings_of(Experiment), "seed"} - labels == SETTINGS
