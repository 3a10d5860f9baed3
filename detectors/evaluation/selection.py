"""Select the detections of a protocol from raw candidates, for many images at once."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from detectors.boxes import area
from detectors.evaluation.nms import survivors
from detectors.evaluation.padding import rank_in_group
from detectors.evaluation.protocol import Protocol
from detectors.structures import Candidates

Sizes = Sequence[tuple[int, int]]
"""(width, height) in pixels of each image, by its index."""


def select(candidates: Candidates, protocol: Protocol, sizes: Sizes, suppress: bool) -> Candidates:
    """Return the detections of a protocol, by image and descending score.

    There are at most `max_dets` per image, and their boxes are clipped to it, unless the protocol
    never clips. The score floor
    and `pre_nms_topk` are applied here, so the candidates may have been stored under a more
    generous protocol.

    Args:
        candidates: raw candidates of all images.
        protocol: how to select.
        sizes: of the images.
        suppress: whether to suppress duplicates.
    """
    return _detections(filter_candidates(candidates, protocol, sizes), protocol, sizes, suppress)


def select_both(candidates: Candidates, protocol: Protocol, sizes: Sizes) -> list[Candidates]:
    """Return the detections without suppression and those with suppression, see `select`."""
    found = filter_candidates(candidates, protocol, sizes)
    return [_detections(found, protocol, sizes, suppress) for suppress in (False, True)]


def concatenate(shares: Sequence[Sequence[Candidates]]) -> list[Candidates]:
    """Join the columns of different images into columns of all of them."""
    return [Candidates.join(parts) for parts in zip(*shares, strict=True)]


class Selected:
    """Detections without suppression and with it, of candidates that come a few images at a time.

    Only the detections are kept. They are those of `select_both` for all candidates at once,
    because the images are independent.

    Args:
        protocol: how to select.
        sizes: of all images.
    """

    def __init__(self, protocol: Protocol, sizes: Sizes) -> None:
        self._protocol, self._sizes = protocol, sizes
        self._shares = [[Candidates.none(), Candidates.none()]]

    def add(self, candidates: Candidates) -> None:
        """Select from all candidates of images that were not added before, sorted by image."""
        self._shares.append(select_both(candidates, self._protocol, self._sizes))

    def columns(self) -> list[Candidates]:
        """Return the detections of all images so far, by image: without suppression, and with."""
        return concatenate(self._shares)


def filter_candidates(candidates: Candidates, protocol: Protocol, sizes: Sizes) -> Candidates:
    """Return the candidates above the score floor, at most `pre_nms_topk` per level and image.

    Their boxes are clipped if the protocol clips before suppression.
    """
    found = candidates.take(admitted(candidates, protocol))
    return clip_to_images(found, sizes) if protocol.clip == "before" else found


def admitted(candidates: Candidates, protocol: Protocol) -> Tensor:
    """Return the positions of the candidates that `filter_candidates` returns: int64, ascending."""
    above = (candidates.scores > protocol.score_floor).nonzero()[:, 0]
    found = candidates.take(above)
    most: Tensor | int = protocol.pre_nms_topk
    if protocol.cap_at_points:
        most = found.level_points.clamp(max=most)
    return above[_rank_in_level(found) < most]


def clip_to_images(candidates: Candidates, sizes: Sizes) -> Candidates:
    """Clip every box to its image: x to [0, width], y to [0, height]."""
    corners = candidates.boxes.new_tensor(sizes).reshape(-1, 2).repeat(1, 2)
    clipped = candidates.boxes.clamp(min=0).minimum(corners[candidates.image])
    return replace(candidates, boxes=clipped)


def _detections(found: Candidates, protocol: Protocol, sizes: Sizes, suppress: bool) -> Candidates:
    """Select detections from filtered candidates."""
    kept = _kept(found, protocol, suppress)
    if protocol.clip != "after":
        return kept
    clipped = clip_to_images(kept, sizes)
    return clipped.take(area(clipped.boxes) > 0)


def _kept(found: Candidates, protocol: Protocol, suppress: bool) -> Candidates:
    """Apply suppression and the cut to filtered candidates."""
    if suppress and protocol.order == "nms_then_cut":
        return found.take(survivors(found, protocol, protocol.max_dets))
    cut = found.take(rank_in_group(found.image) < protocol.max_dets)
    return cut.take(survivors(cut, protocol)) if suppress else cut


def _rank_in_level(candidates: Candidates) -> Tensor:
    """Return the rank of each candidate among those of its image and level: [M] int64, from 0."""
    levels = int(candidates.levels.max()) + 1 if len(candidates) else 1
    return rank_in_group(candidates.image * levels + candidates.levels)
