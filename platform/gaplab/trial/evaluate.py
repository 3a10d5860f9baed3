"""From candidates to an evaluation: what a trial does after an epoch, and `reevaluate` later."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import nn

from detectors.assigners.base import Branch
from detectors.data.base import Dataset
from detectors.evaluation.coco import coco_matches
from detectors.evaluation.gap import gap_between
from detectors.evaluation.metrics import TRAINING
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.selection import columns
from detectors.evaluation.truth import GroundTruth
from detectors.inference import Wanted, predict
from detectors.structures import Candidates
from detectors.world import World
from gaplab.records import EvaluationRecord, Subject
from gaplab.spec.models import Experiment
from gaplab.spec.protocols import protocol_key, rule_of
from gaplab.storage.candidates import Part, tidy, write_part
from gaplab.storage.filesystem import Storage
from gaplab.storage.matches import write_matches

KEPT = 1000
"""Candidates kept a level: as many as any preset's protocol looks at."""


def joined(shares: Sequence[Sequence[Candidates]]) -> list[Candidates]:
    """Columns of different images as columns of all of them."""
    return [Candidates.join(parts) for parts in zip(*shares, strict=True)]


def measured(
    subject: Subject,
    detections: Sequence[Candidates],
    truth: GroundTruth,
    protocol: Protocol,
    more: Mapping[str, float],
) -> EvaluationRecord:
    """The evaluation of `columns` of all images; `more` are metrics that they don't tell."""
    gap = gap_between(detections, truth, protocol)
    return EvaluationRecord(
        trial=subject.trial,
        epoch=subject.epoch,
        branch=subject.branch,
        primary=subject.primary,
        protocol=protocol_key(protocol),
        metrics={**gap.metrics, **more},
        classes=gap.per_class,
        rule=rule_of(protocol),
    )


def keep_matches(
    evaluation: EvaluationRecord,
    detections: Sequence[Candidates],
    truth: GroundTruth,
    protocol: Protocol,
    storage: Storage,
) -> str:
    """Write what COCO's matching decided, for intervals over images; its URI.

    Empty for another evaluator than COCO's.
    """
    if protocol.evaluator != "coco":
        return ""
    without, with_nms = (coco_matches(each, truth, protocol.max_dets) for each in detections)
    return write_matches(storage, evaluation, truth, without, with_nms)


class Evaluator:
    """Evaluates one trial's detector after an epoch, all ranks of its world together."""

    def __init__(
        self, trial: str, experiment: Experiment, data: Dataset, world: World, storage: Storage
    ) -> None:
        self._trial, self._data, self._world, self._storage = trial, data, world, storage
        self._options, self._epochs = experiment.evaluation, experiment.training.epochs
        self._truth = GroundTruth.of(data.truth(), data.classes)
        self.branches: tuple[Branch, ...] = tuple(experiment.assignment.branches())

    def due(self, epoch: int) -> bool:
        """Whether there is an evaluation after `epoch`; always after the last."""
        return epoch == self._epochs or epoch % self._options.every == 0

    def evaluate(
        self,
        model: nn.Module,
        epoch: int,
        taught: Mapping[Branch, tuple[float, float]],
        halt: Callable[[], bool] = lambda: False,
    ) -> tuple[EvaluationRecord, ...]:
        """One evaluation a branch on rank 0, none elsewhere; every rank predicts its own images.

        taught: see `Learner.positives`. halt: see `predict`, whose errors are raised.
        """
        protocol, topk = self._options.protocol, self._options.protocol.pre_nms_topk
        topk = max(topk, KEPT) if self._keeps(epoch) else topk
        wanted = Wanted(self.branches, topk)
        shares = predict(model, self._data, wanted, self._world, halt)
        kept = {name: self._keep(name, epoch, shares[name], topk) for name in self.branches}
        ranks = self._world.gather({name: columns(each, protocol) for name, each in shares.items()})
        if self._world.rank:
            return ()
        return tuple(
            self._record(
                self._subject(name, epoch),
                joined([rank[name] for rank in ranks]),
                _taught(*taught[name]),
                kept[name],
            )
            for name in self.branches
        )

    def _keeps(self, epoch: int) -> bool:
        """Whether the candidates of `epoch` are kept."""
        option = self._options.candidates
        return option == "every" or (option == "last" and epoch == self._epochs)

    def _subject(self, branch: Branch, epoch: int) -> Subject:
        return Subject(self._trial, epoch, branch, branch == self.branches[0])

    def _keep(self, branch: Branch, epoch: int, share: Candidates, topk: int) -> str:
        """Write this rank's candidates, if they are kept; the URI of the folder."""
        if not self._keeps(epoch):
            return ""
        part = Part(self._subject(branch, epoch), self._truth, topk, self._world)
        return write_part(self._storage, part, share)

    def _record(
        self, subject: Subject, found: Sequence[Candidates], more: dict[str, float], uri: str
    ) -> EvaluationRecord:
        """The evaluation of all ranks' detections, with the files about it."""
        protocol = self._options.protocol
        made = measured(subject, found, self._truth, protocol, more)
        if not uri:
            return made
        tidy(self._storage, uri, self._world.size)
        matches = keep_matches(made, found, self._truth, protocol, self._storage)
        return replace(made, candidates=uri, matches=matches)


def _taught(positives: float, unassigned: float) -> dict[str, float]:
    return dict(zip(TRAINING, (positives, 100 * unassigned), strict=True))
