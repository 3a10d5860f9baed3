"""Diagnose the NMS gap of a trial from its stored candidates."""

from dataclasses import dataclass

from detectors.evaluation.crowd import recall_ceiling
from detectors.evaluation.diagnosis import Diagnosis, diagnose
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates
from gaplab.ledger import Reader
from gaplab.results.candidates.reevaluate import Source, checked_truths, find_sources
from gaplab.results.candidates.truth import OWN, TruthOptions
from gaplab.spec.protocols import protocol_key
from gaplab.storage.filesystem import Storage


@dataclass(frozen=True)
class Explanation:
    """The diagnosis of one trial at one epoch, branch and protocol."""

    trial: str
    assignment: str
    dataset: str
    epoch: int
    branch: str
    protocol: str
    training: dict[str, float]
    """Metrics of the assignments in training, which candidates can't show."""
    recall_ceiling: float | None
    """Recall, in percent, of the ground-truth boxes themselves after the protocol's NMS; None if
    the protocol has no such ceiling."""
    diagnosis: Diagnosis
    truth: str = ""
    """Digest of other ground truth; empty for that of the trial's own data."""


def explain(  # noqa: PLR0913 - each is a choice of its own
    ledger: Reader,
    storage: Storage,
    name: str,
    protocol: Protocol,
    epoch: int | None,
    branch: str | None,
    options: TruthOptions = OWN,
) -> Explanation:
    """Diagnose one trial.

    Args:
        ledger: an open ledger.
        storage: the home folder, which holds the candidates.
        name: the id of the trial, or its beginning.
        protocol: how the gap is measured.
        epoch: the epoch whose candidates are used; None: the last that has any.
        branch: the branch whose candidates are used; None: the branch kept at inference.
        options: where the ground truth comes from.

    Raises:
        UserError: the trial is unknown, it has no usable candidates, or its data has changed.
    """
    trial = ledger.find_trial(name)
    source = _primary(find_sources(ledger, storage, [trial], epoch, branch))
    found = checked_truths([source], [[protocol]], options)[trial.id]
    truth = found.data
    parts = [Candidates.none(), *source.dump.stream(truth.image_ids, truth.classes)]
    return Explanation(
        trial=trial.id,
        assignment=trial.assignment,
        dataset=trial.dataset,
        epoch=source.evaluation.epoch,
        branch=source.evaluation.branch,
        protocol=protocol_key(protocol),
        training=source.training,
        recall_ceiling=ceiling(truth, protocol),
        diagnosis=diagnose(Candidates.join(parts), truth, protocol),
        truth=found.digest,
    )


def ceiling(truth: GroundTruth, protocol: Protocol) -> float | None:
    """Return the recall ceiling in percent, for protocols that have one."""
    confined = protocol.level_range is not None or protocol.spatial_range is not None
    if confined or protocol.suppression != "nms":
        return None
    return 100 * recall_ceiling(truth, protocol)


def _primary(sources: list[Source]) -> Source:
    """Return the source of the branch kept at inference, or the first one."""
    return next((each for each in sources if each.evaluation.primary), sources[0])
