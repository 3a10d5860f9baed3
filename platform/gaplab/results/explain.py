"""Why a trial has the gap it has, from the candidates it kept."""

from dataclasses import dataclass

from detectors.evaluation.crowd import recall_ceiling
from detectors.evaluation.diagnosis import Diagnosis, diagnose
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates
from gaplab.ledger import Ledger
from gaplab.results.reevaluate import Source, Truths, check, find_sources
from gaplab.spec.protocols import protocol_key


@dataclass(frozen=True)
class Explanation:
    """A diagnosis, and of what.

    training: metrics that candidates can't tell. recall_ceiling: percent of the objects that their
    own boxes still find after the protocol's NMS; None where the protocol has no such ceiling.
    """

    trial: str
    assignment: str
    dataset: str
    epoch: int
    branch: str
    protocol: str
    training: dict[str, float]
    recall_ceiling: float | None
    diagnosis: Diagnosis


def explain(
    ledger: Ledger, name: str, protocol: Protocol, epoch: int | None, branch: str | None
) -> Explanation:
    """Diagnose the trial that `name` means; `branch` None: the one kept at inference.

    Raises UserError for an unknown trial, and where no usable candidates are kept.
    """
    trial = ledger.find_trial(name)
    source = _primary(find_sources(ledger, [trial], epoch, branch))
    truths = Truths()
    check([source], [protocol], truths)
    truth = truths.of(trial)
    parts = [Candidates.none(), *source.dump.stream(truth.image_ids, truth.classes)]
    return Explanation(
        trial=trial.id,
        assignment=trial.assignment,
        dataset=trial.dataset,
        epoch=source.evaluation.epoch,
        branch=source.evaluation.branch,
        protocol=protocol_key(protocol),
        training=source.training,
        recall_ceiling=_ceiling(truth, protocol),
        diagnosis=diagnose(Candidates.join(parts), truth, protocol),
    )


def _ceiling(truth: GroundTruth, protocol: Protocol) -> float | None:
    confined = protocol.level_range is not None or protocol.spatial_range is not None
    if confined or protocol.suppression != "nms":
        return None
    return 100 * recall_ceiling(truth, protocol)


def _primary(sources: list[Source]) -> Source:
    return next((each for each in sources if each.evaluation.primary), sources[0])
