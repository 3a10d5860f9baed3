"""Select the detections of a protocol from raw candidates, for all images at once."""

from torch import Tensor

from detectors.evaluation.nms import survivors
from detectors.evaluation.padding import rank_in_group
from detectors.evaluation.protocol import Protocol
from detectors.structures import Candidates


def select(candidates: Candidates, protocol: Protocol, suppress: bool) -> Candidates:
    """Return the detections of a protocol, by image and descending score.

    There are at most `max_dets` per image. The score floor and `pre_nms_topk` are applied here, so
    the candidates may have been stored under a more generous protocol.

    Args:
        candidates: raw candidates of all images.
        protocol: how to select.
        suppress: whether to suppress duplicates.
    """
    return _detections(filter_candidates(candidates, protocol), protocol, suppress)


def select_both(candidates: Candidates, protocol: Protocol) -> list[Candidates]:
    """Return the detections without suppression and those with suppression, see `select`."""
    found = filter_candidates(candidates, protocol)
    return [_detections(found, protocol, suppress) for suppress in (False, True)]


def filter_candidates(candidates: Candidates, protocol: Protocol) -> Candidates:
    """Return the candidates above the score floor, at most `pre_nms_topk` per level and image."""
    found = candidates.take(candidates.scores > protocol.score_floor)
    return found.take(_rank_in_level(found) < protocol.pre_nms_topk)


def _detections(found: Candidates, protocol: Protocol, suppress: bool) -> Candidates:
    """Select detections from filtered candidates."""
    if suppress and protocol.order == "nms_then_cut":
        return found.take(survivors(found, protocol, protocol.max_dets))
    cut = found.take(rank_in_group(found.image) < protocol.max_dets)
    return cut.take(survivors(cut, protocol)) if suppress else cut


def _rank_in_level(candidates: Candidates) -> Tensor:
    """Return the rank of each candidate among those of its image and level: [M] int64, from 0."""
    levels = int(candidates.levels.max()) + 1 if len(candidates) else 1
    return rank_in_group(candidates.image * levels + candidates.levels)
