"""Turn the detections of a trial into an evaluation: after an epoch, or later by `reevaluate`.

`Evaluator` does so for one trial and all its ranks. The functions serve both occasions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from torch import nn

from detectors.assigners.base import Branch
from detectors.data.base import Dataset
from detectors.data.mask_views import ground_truth
from detectors.evaluation.gap import gap_between
from detectors.evaluation.matching import coco_matches
from detectors.evaluation.metrics import TRAINING
from detectors.evaluation.operating import duplicates
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.selection import Selected, Sizes, concatenate
from detectors.evaluation.truth import GroundTruth
from detectors.inference import CandidateRequest, MaskRequest, predict_batches
from detectors.structures import Candidates
from detectors.world import World
from gaplab.records import EvaluationRecord, Subject
from gaplab.spec.models import Experiment
from gaplab.spec.protocols import protocol_key, rule_of
from gaplab.storage.candidates import Masked, Part, delete_leftovers, write_part
from gaplab.storage.filesystem import Storage
from gaplab.storage.matches import write_matches

CANDIDATES_PER_LEVEL = 1000
"""Candidates stored per feature level: as many as any preset's protocol uses."""


def make_evaluation(
    subject: Subject,
    detections: Sequence[Candidates],
    truth: GroundTruth,
    protocol: Protocol,
    more: Mapping[str, float],
) -> EvaluationRecord:
    """Measure detections under a protocol.

    Args:
        subject: whose detections they are.
        detections: those of all images without NMS and with it, see `selection.select_both`.
        truth: the annotated objects of the same images.
        protocol: the protocol.
        more: metrics that don't follow from detections, to be stored with the others.
    """
    gap = gap_between(detections, truth, protocol)
    return EvaluationRecord(
        trial=subject.trial,
        epoch=subject.epoch,
        branch=subject.branch,
        primary=subject.primary,
        protocol=protocol_key(protocol),
        metrics={**gap.metrics, **duplicates(detections, truth), **more},
        classes=gap.per_class,
        rule=rule_of(protocol),
    )


def save_matches(
    evaluation: EvaluationRecord,
    detections: Sequence[Candidates],
    truth: GroundTruth,
    protocol: Protocol,
    storage: Storage,
) -> str:
    """Store what COCO's matching decided about each detection, for intervals over images.

    Returns:
        The URI of the file; empty for CrowdHuman's evaluator.
    """
    if not protocol.matched:
        return ""
    most, masks = protocol.max_dets, protocol.masks
    without, with_nms = (coco_matches(each, truth, most, masks=masks) for each in detections)
    return write_matches(storage, evaluation, truth, without, with_nms)


class _Share(Selected):
    """What a rank predicts of a branch: the detections, and the candidates if they are stored."""

    def __init__(self, protocol: Protocol, sizes: Sizes, *, stores: bool) -> None:
        super().__init__(protocol, sizes)
        self._stores, self._candidates = stores, [Candidates.none()]

    def add(self, candidates: Candidates) -> None:
        """Select from the candidates of a batch; keep them only if they are stored."""
        super().add(candidates)
        if self._stores:
            self._candidates.append(candidates)

    def taken(self) -> Candidates:
        """Return the candidates to store, by image, and keep them no longer."""
        parts, self._candidates = self._candidates, []
        return Candidates.join(parts)


class Evaluator:
    """Evaluates the detector of one trial after an epoch, on all ranks together.

    Args:
        trial: id of the trial.
        experiment: the experiment of the trial.
        data: the images to evaluate on.
        world: the process group of the trial.
        storage: where candidates and matches go.
    """

    def __init__(
        self, trial: str, experiment: Experiment, data: Dataset, world: World, storage: Storage
    ) -> None:
        self._trial, self._data, self._world, self._storage = trial, data, world, storage
        self._options, self._epochs = experiment.evaluation, experiment.training.epochs
        self._loaders = partial(experiment.data.loaders, experiment.resources.cpus_per_worker)
        self._truth = ground_truth(data, masks=self._options.masks)
        self.branches: tuple[Branch, ...] = tuple(experiment.assignment.branches())

    def due(self, epoch: int) -> bool:
        """Return whether to evaluate after `epoch`; always true for the last one."""
        return epoch == self._epochs or epoch % self._options.every == 0

    def evaluate(
        self,
        model: nn.Module,
        epoch: int,
        positives: Mapping[Branch, tuple[float, float]],
        halt: Callable[[], bool] = lambda: False,
    ) -> tuple[EvaluationRecord, ...]:
        """Evaluate every branch; each rank predicts its own images. All ranks must call this.

        Args:
            model: the detector.
            epoch: number of epochs done.
            positives: positive points per object, and the fraction in [0, 1] of objects without
                any, see `Learner.positives`.
            halt: called after every batch; True breaks off with `Halted`.

        Returns:
            One evaluation per branch on rank 0, nothing elsewhere.

        Raises:
            Halted, NonFinitePredictionsError: see `predict_batches`.
        """
        protocol, topk = self._options.protocol, self._options.protocol.pre_nms_topk
        topk = max(topk, CANDIDATES_PER_LEVEL) if self._stores(epoch) else topk
        processes = self._loaders(gpu=next(model.parameters()).device.type == "cuda")
        masks = MaskRequest(protocol, self._truth.sizes) if self._options.masks else None
        request = CandidateRequest(self.branches, topk, processes=processes, masks=masks)
        stores, sizes = self._stores(epoch), self._truth.sizes
        shares: dict[str, _Share] = {
            name: _Share(protocol, sizes, stores=stores) for name in self.branches
        }
        predict_batches(
            model, self._data, request, self._world, lambda name, some: shares[name].add(some), halt
        )
        uris = {name: self._store(name, epoch, shares[name], topk) for name in self.branches}
        ranks = self._world.gather({name: each.columns() for name, each in shares.items()})
        if self._world.rank:
            return ()
        return tuple(
            self._record(
                self._subject(name, epoch),
                concatenate([rank[name] for rank in ranks]),
                _training_metrics(*positives[name]),
                uris[name],
            )
            for name in self.branches
        )

    def _stores(self, epoch: int) -> bool:
        """Return whether the candidates of `epoch` are stored."""
        option = self._options.candidates
        return option == "every" or (option == "last" and epoch == self._epochs)

    def _subject(self, branch: Branch, epoch: int) -> Subject:
        return Subject(self._trial, epoch, branch, branch == self.branches[0])

    def _store(self, branch: Branch, epoch: int, share: _Share, topk: int) -> str:
        """Store the candidates of this rank if the options say so; return the URI of the folder."""
        if not self._stores(epoch):
            return ""
        masked = Masked.of(self._options.protocol) if self._options.masks else None
        part = Part(self._subject(branch, epoch), self._truth, topk, self._world, masked)
        return write_part(self._storage, part, share.taken())

    def _record(
        self, subject: Subject, detections: Sequence[Candidates], more: dict[str, float], uri: str
    ) -> EvaluationRecord:
        """Return the evaluation of the detections of all ranks, with the URIs of its files."""
        protocol = self._options.protocol
        evaluation = make_evaluation(subject, detections, self._truth, protocol, more)
        if not uri:
            return evaluation
        delete_leftovers(self._storage, uri, self._world.size)
        matches = save_matches(evaluation, detections, self._truth, protocol, self._storage)
        relative = self._storage.relative
        return replace(evaluation, candidates=relative(uri), matches=relative(matches))


def _training_metrics(positives: float, unassigned: float) -> dict[str, float]:
    return dict(zip(TRAINING, (positives, 100 * unassigned), strict=True))
