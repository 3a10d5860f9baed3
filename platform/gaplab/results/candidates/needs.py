"""What protocols need that stored candidates may lack."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from detectors.evaluation.metrics import DUPLICATES
from detectors.evaluation.protocol import Protocol
from gaplab.spec.protocols import protocol_key
from gaplab.storage.candidates import Dump

if TYPE_CHECKING:  # `measure` without a name imports no database
    from gaplab.ledger.views import EvaluationView, MeasurementView


def shortcomings(dump: Dump, protocols: Sequence[Protocol]) -> Iterator[str]:
    """Yield what the protocols need and the candidates don't have. Raises UserError."""
    for each in protocols:
        if each.pre_nms_topk > dump.info.topk and dump.cut:
            yield (
                f"{dump.uri}: holds only the {dump.info.topk} best candidates of a level, protocol "
                f"{protocol_key(each)} needs {each.pre_nms_topk}; lower pre_nms_topk"
            )
        if each.masks and not (dump.info.masked and dump.info.masked.serves(each)):
            yield _without_masks(dump, each)
    newer = [protocol_key(p) for p in protocols if p.clip != "before" or p.cap_at_points]
    if dump.clipped and newer:
        yield (
            f"{dump.uri}: an older version wrote clipped boxes without the number of points per "
            f"level, which does not serve protocol {', '.join(newer)}; train the trial again, or "
            "set clip: before and cap_at_points: false in the protocol"
        )


def _without_masks(dump: Dump, protocol: Protocol) -> str:
    """Return why candidates can't be measured under a protocol of masks."""
    held = dump.info.masked
    if held is None:
        return (
            f"{dump.uri}: has no masks, which protocol {protocol_key(protocol)} measures; train a "
            "detector with masks (detector.masks) under a protocol that measures them "
            "(evaluation.protocol: condinst)"
        )
    return (
        f"{dump.uri}: only candidates with a score above {held.score_floor:g} that are among the "
        f"{held.pre_nms_topk} best of a level have masks, protocol {protocol_key(protocol)} needs "
        "more; raise score_floor or lower pre_nms_topk"
    )


def needs_places(protocol: Protocol) -> list[str]:
    """Return the options of a protocol that need levels and anchor points."""
    filtered = ["suppression: max_filter"] if protocol.suppression == "max_filter" else []
    ranges = ("level_range", "spatial_range")
    return filtered + [name for name in ranges if getattr(protocol, name) is not None]


def is_complete(found: "EvaluationView | MeasurementView", protocol: Protocol) -> bool:
    """Return whether a result has every metric of this release, and matches if there can be any."""
    return found.metrics.keys() >= set(DUPLICATES) and (bool(found.matches) or not protocol.matched)
