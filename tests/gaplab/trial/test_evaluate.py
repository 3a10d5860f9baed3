"""Evaluation on several ranks: each image once, and the same numbers for any number of ranks."""

import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detectors.data.mask_views import ground_truth
from detectors.evaluation.gap import gap_between
from detectors.evaluation.matches import Matches
from detectors.evaluation.protocol import PROTOCOLS
from detectors.evaluation.selection import select_both
from detectors.inference import predict_batches
from detectors.models.mask_options import CondInst
from detectors.structures import Candidates
from gaplab.records import EvaluationRecord
from gaplab.results.candidates.needs import shortcomings
from gaplab.spec.files import load_spec
from gaplab.spec.models import Experiment
from gaplab.spec.protocols import with_key
from gaplab.spec.sweep import expand, experiment_of
from gaplab.storage.candidates import Dump
from gaplab.storage.filesystem import Storage
from gaplab.storage.matches import read_matches
from gaplab.trial.evaluate import Evaluator

Write = Callable[..., Path]


@dataclass
class Meeting:
    """Exchanges values between threads that stand for the ranks of one world."""

    size: int
    slots: list[Any] = field(init=False)
    barrier: threading.Barrier = field(init=False)

    def __post_init__(self) -> None:
        self.slots, self.barrier = [None] * self.size, threading.Barrier(self.size)

    def swap(self, rank: int, value: Any) -> list[Any]:
        self.slots[rank] = value
        self.barrier.wait()
        values = list(self.slots)
        self.barrier.wait()
        return values


@dataclass
class ThreadWorld:
    """One of several ranks, each in a thread of this process."""

    meeting: Meeting
    rank: int
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = self.meeting.size

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        return torch.stack(self.meeting.swap(self.rank, value.detach())).mean(dim=0)

    def gather(self, value: Any) -> list[Any]:
        values = self.meeting.swap(self.rank, value)
        return values if self.rank == 0 else []


@pytest.fixture
def experiment(small: dict[str, Any], write_spec: Write) -> Experiment:
    """Dual assignment (two branches) on seven images, without training."""
    data = small["data"] | {"train_images": 4, "val_images": 7}
    spec = write_spec(assignment={"name": "dual"}, data=data)
    return experiment_of(expand(load_spec(spec, None, [])).trials[0])


def model_of(experiment: Experiment) -> nn.Module:
    """Build a detector with random weights whose scores differ enough for AP and a gap."""
    torch.manual_seed(1)
    model = experiment.detector.build(
        len(experiment.data.load("val").classes), tuple(experiment.assignment.branches())
    )
    for name, weight in model.named_parameters():
        if "cls" in name and weight.ndim > 1:
            weight.data.mul_(40)
    return model


def evaluate(experiment: Experiment, home: Path, size: int, epoch: int) -> list[EvaluationRecord]:
    """Evaluate on `size` ranks; return what rank 0 does. The others must return nothing."""
    meeting, data, model = Meeting(size), experiment.data.load("val"), model_of(experiment)

    def play(rank: int) -> tuple[EvaluationRecord, ...]:
        storage = Storage(str(home))
        world = ThreadWorld(meeting, rank)
        evaluator = Evaluator("trial", experiment, data, world, storage)
        positives = dict.fromkeys(evaluator.branches, (1.0, 0.25))
        try:
            return evaluator.evaluate(model, epoch, positives)
        except BaseException:
            meeting.barrier.abort()  # the other ranks would wait forever
            raise

    with ThreadPoolExecutor(size) as pool:
        first, *others = pool.map(play, range(size))
    assert not any(others)
    return list(first)


def assert_same(one: EvaluationRecord, other: EvaluationRecord) -> None:
    assert one.metrics == pytest.approx(other.metrics, abs=1e-9)
    where = ("metrics", "classes", "candidates", "matches")
    plain = [{k: v for k, v in vars(each).items() if k not in where} for each in (one, other)]
    assert plain[0] == plain[1]


def stream(record: EvaluationRecord, home: Path, experiment: Experiment) -> list[Tensor]:
    """Return all candidates by location and class; nearly equal scores may change their order."""
    data = experiment.data.load("val")
    ids = [image.image_id for image in data.truth()]
    chunks = list(Dump.open(str(home / record.candidates)).stream(ids, data.classes))
    found = Candidates.join(chunks)
    key = [found.image, found.levels, found.points[:, 1], found.points[:, 0], found.labels]
    order = np.lexsort([column.numpy() for column in reversed(key)])
    columns = vars(found.take(torch.from_numpy(order))).values()
    return [column for column in columns if isinstance(column, Tensor)]


@pytest.mark.parametrize("size", [2, 3, 8])
def test_the_same_numbers_for_any_number_of_ranks(
    experiment: Experiment, tmp_path: Path, size: int
) -> None:
    homes = (tmp_path / "one", tmp_path / "many")
    alone = evaluate(experiment, homes[0], 1, experiment.training.epochs)
    shared = evaluate(experiment, homes[1], size, experiment.training.epochs)
    assert [each.branch for each in alone] == [each.branch for each in shared] == ["o2o", "o2m"]
    assert [each.primary for each in alone] == [True, False]
    assert alone[0].metrics["gap"] != 0
    for one, other in zip(alone, shared, strict=True):
        assert_same(one, other)
        columns = (stream(e, h, experiment) for e, h in zip((one, other), homes, strict=True))
        for a, b in zip(*columns, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        assert_same_matches((one, other), homes)


def assert_same_matches(records: Sequence[EvaluationRecord], homes: Sequence[Path]) -> None:
    files = (str(home / each.matches) for each, home in zip(records, homes, strict=True))
    for columns in zip(*(read_matches(file)[1:] for file in files), strict=True):
        assert_same_columns(*columns)


def assert_same_columns(one: Matches, other: Matches) -> None:
    """Compare regardless of order: nearly equal scores may change theirs with the batch."""
    assert (one.images, one.classes) == (other.images, other.classes)
    for name in ("image", "label", "object_image", "object_label"):
        assert (getattr(one, name) == getattr(other, name)).all(), name
    assert sorted(one.score) == pytest.approx(sorted(other.score), abs=1e-5)
    assert (one.hit.sum(axis=1) == other.hit.sum(axis=1)).all()


def test_metrics_of_training_are_stored(experiment: Experiment, tmp_path: Path) -> None:
    [first, _] = evaluate(experiment, tmp_path, 1, 1)
    assert first.metrics["positives_per_object"] == 1.0
    assert first.metrics["objects_unassigned"] == 25.0
    assert first.rule["nms_iou"] == 0.6


@pytest.mark.parametrize(
    ("option", "epoch", "kept"),
    [("last", 1, False), ("last", 3, True), ("every", 1, True), ("none", 3, False)],
)
def test_candidates_are_stored_as_the_options_say(
    experiment: Experiment, tmp_path: Path, option: Any, epoch: int, kept: bool
) -> None:
    options = experiment.evaluation.model_copy(update={"candidates": option})
    found = evaluate(experiment.model_copy(update={"evaluation": options}), tmp_path, 1, epoch)
    assert [(bool(e.candidates), bool(e.matches)) for e in found] == [(kept, kept)] * 2
    assert (tmp_path / "trials").exists() == kept


@pytest.mark.parametrize(("epoch", "stored"), [(1, False), (3, True)])
def test_only_candidates_that_are_stored_outlive_their_batch(
    experiment: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    epoch: int,
    stored: bool,
) -> None:
    """The others are selected batch by batch, so memory does not grow with the data set."""
    alive: list[bool] = []

    def watched(
        model: nn.Module, data: Any, request: Any, world: Any, receive: Any, halt: Any
    ) -> None:
        seen: list[weakref.ref[Tensor]] = []

        def pass_on(branch: str, candidates: Candidates) -> None:
            seen.append(weakref.ref(candidates.scores))
            receive(branch, candidates)

        few = replace(request, batch=2)
        predict_batches(model, data, few, world, pass_on, halt)
        alive.extend(each() is not None for each in seen)

    monkeypatch.setattr("gaplab.trial.evaluate.predict_batches", watched)
    evaluate(experiment, tmp_path, 1, epoch)
    assert alive == [stored] * 8  # four batches of two branches


def test_storing_candidates_changes_no_metric(experiment: Experiment, tmp_path: Path) -> None:
    kept, not_kept = (evaluate(experiment, tmp_path, 1, epoch) for epoch in (3, 1))
    for one, other in zip(kept, not_kept, strict=True):
        assert_same(one, replace(other, epoch=3))


def test_no_old_part_is_left_after_a_restart_with_fewer_ranks(
    experiment: Experiment, tmp_path: Path
) -> None:
    evaluate(experiment, tmp_path, 3, 3)
    [again, _] = evaluate(experiment, tmp_path, 2, 3)
    alone = evaluate(experiment, tmp_path / "alone", 1, 3)[0]
    columns = (stream(again, tmp_path, experiment), stream(alone, tmp_path / "alone", experiment))
    for a, b in zip(*columns, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


CONDINST = PROTOCOLS["condinst"].model_copy(update={"score_floor": 0.0})


@pytest.fixture
def segmenting(experiment: Experiment) -> Experiment:
    """The same with masks, measured under a protocol of masks."""
    detector = experiment.detector.model_copy(update={"masks": CondInst(width=8)})
    options = experiment.evaluation.model_copy(update={"protocol": with_key(CONDINST)})
    return experiment.model_copy(update={"detector": detector, "evaluation": options})


def test_masks_are_measured_on_any_number_of_ranks(
    segmenting: Experiment, experiment: Experiment, tmp_path: Path
) -> None:
    homes = (tmp_path / "one", tmp_path / "many")
    alone, shared = evaluate(segmenting, homes[0], 1, 3), evaluate(segmenting, homes[1], 3, 3)
    for one, other in zip(alone, shared, strict=True):
        assert_same(one, other)
        assert one.protocol.startswith("custom-")
        assert one.rule["evaluator"] == "masks"
        assert_same_matches((one, other), homes)
    boxes = experiment.evaluation.model_copy(update={"protocol": CONDINST_BOXES})
    plain = evaluate(segmenting.model_copy(update={"evaluation": boxes}), tmp_path / "boxes", 1, 3)
    assert plain[0].metrics["ap"] != alone[0].metrics["ap"]


CONDINST_BOXES = CONDINST.model_copy(update={"evaluator": "coco"})


def test_stored_masks_serve_other_protocols(segmenting: Experiment, tmp_path: Path) -> None:
    """Candidates that are read again have the AP of masks that the evaluation measured."""
    record, _ = evaluate(segmenting, tmp_path, 1, 3)
    data = segmenting.data.load("val")
    dump, truth = Dump.open(str(tmp_path / record.candidates)), ground_truth(data, masks=True)
    found = Candidates.join(list(dump.stream(truth.image_ids, data.classes)))
    gap = gap_between(select_both(found, CONDINST, truth.sizes), truth, CONDINST)
    assert gap.metrics == {name: record.metrics[name] for name in gap.metrics}
    other = CONDINST.model_copy(update={"nms_iou": 0.3})
    assert list(shortcomings(dump, [CONDINST, other, PROTOCOLS["condinst"]])) == []
    gap_between(select_both(found, other, truth.sizes), truth, other)


def test_what_masks_do_not_serve(
    segmenting: Experiment, experiment: Experiment, tmp_path: Path
) -> None:
    def dump(of: Experiment, home: str) -> Dump:
        return Dump.open(str(tmp_path / home / evaluate(of, tmp_path / home, 1, 3)[0].candidates))

    options = segmenting.evaluation.model_copy(update={"protocol": PROTOCOLS["condinst"]})
    few = dump(segmenting.model_copy(update={"evaluation": options}), "few")
    (line,) = shortcomings(few, [CONDINST])
    assert "only candidates with a score above 0.05 that are among the 1000 best of a lev" in line
    assert list(shortcomings(few, [PROTOCOLS["condinst"], PROTOCOLS["default"]])) == []
    (line,) = shortcomings(dump(experiment, "none"), [PROTOCOLS["condinst"]])
    assert "has no masks, which protocol condinst measures; train a detector with masks" in line
