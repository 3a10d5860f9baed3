"""The cost of trials by arithmetic."""

import shutil
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest

from detectors.cost import model_cost
from gaplab.formatting import duration
from gaplab.launch.costs import CORE, V100, compute_line, detector_costs, training_operations
from gaplab.records import TrialRecord
from gaplab.spec.files import load_spec
from gaplab.spec.sweep import expand, experiment_of, outline
from tests.photographs import written

Write = Callable[..., Path]


def trials(spec: Path, **changes: object) -> tuple[TrialRecord, ...]:
    overrides = [f"{key}={value}" for key, value in changes.items()]
    return outline(load_spec(spec, None, overrides)).sweep.trials


def operations(trial: TrialRecord) -> float | None:
    experiment = experiment_of(trial)
    return training_operations(experiment, experiment.data.known())


def test_a_step_costs_three_forward_passes_per_image(write_spec: Write) -> None:
    (trial,) = expand(load_spec(write_spec())).trials
    experiment = experiment_of(trial)
    data, branches = experiment.data.expected(), tuple(experiment.assignment.branches())
    once = model_cost(experiment.detector, data.classes, branches, (data.height, data.width))
    images = len(experiment.data.load("train"))
    expected = 6 * once.multiply_adds * images * experiment.training.epochs
    assert operations(trial) == expected


def test_images_and_classes_are_those_of_the_data_if_it_can_be_read(
    write_spec: Write, tmp_path: Path
) -> None:
    """Else they are those that the spec says to plan with."""
    data = written("coco", tmp_path / "pets", planned_images=10**6, planned_classes=1000)
    spec = write_spec(data=data.model_dump(mode="json"))
    found = {}
    for planned in (False, True):
        if planned:
            shutil.rmtree(tmp_path / "pets")
        made = outline(load_spec(spec))
        (trial,), (cost,) = made.sweep.trials, detector_costs(made, None)
        images, classes = (10**6, 1000) if planned else (3, 3)
        size, branches = (data.height, data.width), experiment_of(trial).assignment.branches()
        once = model_cost(experiment_of(trial).detector, classes, tuple(branches), size)
        assert cost.training is not None
        assert cost.training.multiply_adds == once.multiply_adds
        found[planned] = 6 * once.multiply_adds * images * experiment_of(trial).training.epochs
        assert f": {found[planned]:.1e} operations, " in str(compute_line([trial]))
    assert found[True] > 10**5 * found[False]


def test_the_time_is_that_of_the_hardware_that_trials_ask_for(write_spec: Write) -> None:
    spec = write_spec(data={"name": "coco", "root": "nowhere", "planned_images": 10**6})
    (on_cpu,) = trials(spec)
    (on_gpu,) = trials(spec, **{"resources.gpus_per_worker": 1})
    count = operations(on_cpu)
    assert count is not None
    text = "by arithmetic: {:.1e} operations, about {} on one {}"
    assert compute_line([on_cpu]) == text.format(count, duration(count / CORE), "CPU core")
    assert compute_line([on_gpu]) == text.format(count, duration(count / V100), "V100")


def test_a_short_time_is_under_a_minute(write_spec: Write) -> None:
    (trial,) = trials(write_spec())
    count = operations(trial)
    assert count is not None
    assert count / CORE < 60
    expected = f"by arithmetic: {count:.1e} operations, under a minute on one CPU core"
    assert compute_line([trial]) == expected


def test_data_of_unknown_size_is_left_out_and_reported(write_spec: Write) -> None:
    (unknown,) = trials(write_spec(data={"name": "coco", "root": "nowhere"}))
    assert operations(unknown) is None
    assert str(compute_line([unknown])).startswith("by arithmetic: 1 trial left out (")
    assert compute_line([]) is None


def test_the_papers_fcos_on_coco_is_what_onenet_reports(tmp_path: Path) -> None:
    """36 epochs on 117,266 images of 800 x 1333: 21 hours on eight V100 are 168 of one."""
    spec = Path(__file__).parents[3] / "experiments" / "quickstart.yaml"
    overrides = ["training.epochs=36", 'grid={"assignment": [{"name": "min_cost"}]}']
    (trial,) = outline(load_spec(spec, "paper", overrides)).sweep.trials
    count = operations(trial)
    assert count is not None
    assert count / V100 / 3600 == pytest.approx(168, rel=0.15)


def test_a_backbone_whose_library_is_missing_is_left_out(
    write_spec: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    detector = {"name": "fcos", "backbone": {"name": "timm"}}
    (trial,) = trials(write_spec(detector=detector))
    assert operations(trial) is None


def test_trials_add_up_whether_or_not_they_share_sections(write_spec: Write) -> None:
    pairs = {"training.epochs": [1, 2, 5], "resources.gpus_per_worker": [0, 1, 1]}
    found = expand(load_spec(write_spec(zip=pairs, grid={"seed": [0, 1]}))).trials
    total = {0.0: 0.0, 1.0: 0.0}
    for trial in found:
        total[experiment_of(trial).resources.gpus_per_worker] += operations(trial) or 0.0
    copies = [replace(trial, config=deepcopy(trial.config)) for trial in found]
    for line in (compute_line(found), compute_line(copies)):
        assert line is not None
        assert f"{total[1.0]:.1e} operations, " in line
        assert f"{total[0.0]:.1e} operations, " in line
