"""From raw candidates to the detections of a protocol, for all images at once."""

from torch import Tensor

from detectors.evaluation.nms import survivors
from detectors.evaluation.padding import rank_in_group
from detectors.evaluation.protocol import Protocol
from detectors.structures import Candidates


def select(candidates: Candidates, protocol: Protocol, suppress: bool) -> Candidates:
    """Detections under `protocol`, by image and falling score; at most `max_dets` an image.

    Candidates kept under a more generous protocol give the same detections as candidates kept
    under this one: its score floor and its `pre_nms_topk` are applied here too.
    """
    return _detections(admitted(candidates, protocol), protocol, suppress)


def columns(candidates: Candidates, protocol: Protocol) -> list[Candidates]:
    """Detections without suppression and with it, as `select` gives them."""
    found = admitted(candidates, protocol)
    return [_detections(found, protocol, suppress) for suppress in (False, True)]


def admitted(candidates: Candidates, protocol: Protocol) -> Candidates:
    """The candidates above the protocol's score floor, at most its `pre_nms_topk` of each level."""
    found = candidates.take(candidates.scores > protocol.score_floor)
    return found.take(_rank_in_level(found) < protocol.pre_nms_topk)


def _detections(found: Candidates, protocol: Protocol, suppress: bool) -> Candidates:
    """From admitted candidates."""
    if suppress and protocol.order == "nms_then_cut":
        return found.take(survivors(found, protocol, protocol.max_dets))
    cut = found.take(rank_in_group(found.image) < protocol.max_dets)
    return cut.take(survivors(cut, protocol)) if suppress else cut


def _rank_in_level(candidates: Candidates) -> Tensor:
    """How many earlier candidates of its image and level each one has: [M] int64."""
    levels = int(candidates.levels.max()) + 1 if len(candidates) else 1
    return rank_in_group(candidates.image * levels + candidates.levels)
