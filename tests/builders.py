"""Records and measurements that tests of several folders build."""

from detectors.evaluation.gap import Gap, gap_between
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.selection import columns
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates


def measure_gap(candidates: Candidates, truth: GroundTruth, protocol: Protocol) -> Gap:
    """Measure the candidates of all images, without suppression and with it."""
    return gap_between(columns(candidates, protocol), truth, protocol)
