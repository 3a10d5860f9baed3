"""Detectors of trials from Python: `gaplab.open_home(path).trial(id).detector()`."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gaplab
from detectors.data.base import Dataset
from detectors.evaluation.selection import select_both
from detectors.structures import Candidates
from gaplab.errors import UserError
from gaplab.ledger.views import EvaluationView, TrialView
from gaplab.results.opened import OpenHome
from gaplab.results.use.trained import detector_config
from gaplab.spec.models import Experiment
from gaplab.spec.sweep import experiment_of
from gaplab.storage.candidates import Dump


@pytest.fixture
def opened(trained: Path, tmp_path: Path) -> OpenHome:
    """A copy of the home with trained trials."""
    return gaplab.open_home(shutil.copytree(trained, tmp_path / "home"), create=False)


@pytest.fixture
def dual(opened: OpenHome) -> TrialView:
    with opened.reader() as reader:
        return next(each for each in reader.all_trials() if each.assignment == "dual")


def experiment(trial: TrialView) -> tuple[Experiment, Dataset]:
    found = experiment_of(trial)
    return found, found.data.load("val")


def stored(
    home: OpenHome, trial: str, data: Dataset
) -> Iterator[tuple[EvaluationView, Candidates]]:
    """The evaluation and the stored candidates of each branch."""
    ids = [truth.image_id for truth in data.truth()]
    with home.reader() as reader:
        found = [each for each in reader.evaluations(trial) if each.candidates]
    for each in found:
        dump = Dump.open(str(home.path / each.candidates))
        yield each, Candidates.join([*dump.stream(ids, data.classes)])


def keyed(found: Candidates) -> dict[tuple[float, ...], Tensor]:
    """Score and box of each candidate by its point, stride and class."""
    keys = torch.cat([found.points, found.strides[:, None], found.labels[:, None]], dim=1)
    values = torch.cat([found.scores[:, None], found.boxes], dim=1)
    return {tuple(key): value for key, value in zip(keys.tolist(), values, strict=True)}


def test_candidates_and_detections_are_those_of_the_evaluation(
    opened: OpenHome, dual: TrialView
) -> None:
    """Of all branches. Sums of a batch may be rounded otherwise than those of one image."""
    detector = opened.trial(dual.id[:6]).detector()
    options, data = experiment(dual)
    branches = []
    for evaluation, candidates in stored(opened, dual.id, data):
        branches.append(branch := evaluation.branch)
        for index in range(len(data)):
            image = data[index].image.permute(1, 2, 0).numpy()
            own = candidates.take(candidates.image == index)
            own = Candidates(**vars(own) | {"image": torch.zeros_like(own.image)})
            mine, theirs = keyed(detector.candidates(image, topk=1000, branch=branch)), keyed(own)
            assert mine.keys() == theirs.keys()
            for key, value in mine.items():
                torch.testing.assert_close(value, theirs[key], rtol=1e-4, atol=1e-4)
            height, width = image.shape[:2]
            kept = select_both(own, options.evaluation.protocol, [(width, height)])
            for found, expected in zip(detector.both(image, branch=branch), kept, strict=True):
                assert len(found) == len(expected) > 0
                torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-5)
    assert sorted(branches) == ["o2m", "o2o"]


def test_it_has_the_options_of_the_trial(opened: OpenHome, dual: TrialView) -> None:
    detector, (options, data) = opened.trial(dual.id).detector(), experiment(dual)
    assert detector.classes == data.classes
    assert detector.config.detector == options.detector
    assert detector.config.branches == ("o2o", "o2m")
    assert detector.config.protocol == options.evaluation.protocol
    assert detector.config.source == {"trial": dual.id, "epoch": 2, "assignment": "dual"}
    assert not any(module.training for module in detector.modules())
    assert not any(weights.requires_grad for weights in detector.parameters())


def checkpoints(home: OpenHome, trial: str) -> list[Path]:
    """The files of checkpoints, oldest first."""
    return sorted((home.path / "trials" / trial / "checkpoints").iterdir())


def test_a_damaged_checkpoint_is_skipped(opened: OpenHome, dual: TrialView) -> None:
    checkpoints(opened, dual.id)[-1].write_bytes(b"cut off")
    assert opened.trial(dual.id).detector().config.source["epoch"] == 1


def test_an_epoch_can_be_chosen(opened: OpenHome, dual: TrialView) -> None:
    trial = opened.trial(dual.id)
    newest, last = trial.detector(), trial.detector(epoch=2)
    for key, weights in newest.state_dict().items():
        assert torch.equal(weights, last.state_dict()[key])
    with pytest.raises(UserError, match=r"no undamaged checkpoint of epoch 7 in .*succeeded; its"):
        trial.detector(epoch=7)


def test_a_checkpoint_within_an_epoch_is_not_that_of_its_beginning(
    opened: OpenHome, dual: TrialView
) -> None:
    """It has the same number of whole epochs, but more steps."""
    names = [path.name for path in checkpoints(opened, dual.id)]
    assert [name[:23] for name in names] == ["epoch=0001-step=0000004", "epoch=0002-step=0000004"]
    with pytest.raises(UserError, match="no undamaged checkpoint of epoch 1 in"):
        opened.trial(dual.id).detector(epoch=1)


def test_without_a_checkpoint_one_line_says_what_to_do(opened: OpenHome, dual: TrialView) -> None:
    files = checkpoints(opened, dual.id)
    files[0].write_bytes(b"")
    for path in files[1:]:
        path.unlink()
    with pytest.raises(UserError) as error:
        opened.trial(dual.id).detector()
    assert len(error.value.problems) == 1
    assert "(1 damaged)" in str(error.value)
    assert "--rerun" in str(error.value)


def test_unknown_trials_and_homes(opened: OpenHome, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="trial 'nothing': not in the ledger"):
        opened.trial("nothing")
    with pytest.raises(UserError, match="holds no ledger"):
        gaplab.open_home(tmp_path / "new").trial("nothing")


def test_before_the_first_evaluation_the_data_names_the_classes(dual: TrialView) -> None:
    options, data = experiment(dual)
    event: dict[str, Any] = {"evaluations": [], "epoch": 0}
    assert detector_config(options, event, dual).classes == data.classes
