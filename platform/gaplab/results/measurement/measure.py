"""Measure detections that any tool wrote against annotations, without training.

`measure` measures an input under protocols, `keep` writes the results to the ledger.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from detectors import RESULTS_VERSION
from detectors.evaluation.bootstrap import Replicates, interval, replicates
from detectors.evaluation.metrics import DUPLICATES
from detectors.evaluation.protocol import PROTOCOLS, Protocol
from detectors.evaluation.score_gap import TopScores, top_scores
from detectors.evaluation.selection import (
    clip_to_images,
    concatenate,
    filter_candidates,
    select_both,
)
from detectors.evaluation.summary import Summary, summarise
from detectors.evaluation.truth import GroundTruth
from detectors.evaluation.verdict import Verdict, needs_nms
from detectors.structures import Candidates
from gaplab.errors import UserError
from gaplab.records import EvaluationRecord, MeasurementRecord
from gaplab.results.candidates.needs import needs_places, shortcomings
from gaplab.results.intervals import MIN_IMAGES, Interval
from gaplab.results.measurement.inputs import Input
from gaplab.spec.protocols import protocol_key, rule_of
from gaplab.storage.detections import StoredDetections
from gaplab.storage.filesystem import Storage
from gaplab.storage.matches import write_matches

if TYPE_CHECKING:
    from gaplab.ledger import Ledger
    from gaplab.results.measurement.check import Checked

RESAMPLES = 1000


@dataclass(frozen=True)
class Measured:
    """One input under one protocol.

    Attributes:
        input: the input.
        protocol: the protocol.
        summary: everything that was measured.
        replicates: AP on resamples of the images; None for fewer than 20 images, without resamples,
            and for CrowdHuman's evaluator.
        checked: metrics by pycocotools; None if they were not asked for.
    """

    input: Input
    protocol: Protocol
    summary: Summary
    replicates: Replicates | None
    checked: "Checked | None" = None

    @property
    def ap(self) -> float:
        """AP without NMS, in percent points."""
        return self._metric("ap")

    @property
    def ap_nms(self) -> float:
        """AP with NMS, in percent points."""
        return self._metric("ap_nms")

    @property
    def gap(self) -> float:
        """AP without NMS minus AP with NMS, in percent points."""
        return self._metric("gap")

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        return plain(self)

    def _metric(self, name: str) -> float:
        value = self.summary.gap.metrics[name]
        assert value is not None  # the annotations have objects
        return value

    @property
    def gap_interval(self) -> Interval | None:
        """95 % interval of the NMS gap over images; None if there is none."""
        if self.replicates is None:
            return None
        return Interval(*interval(self.replicates.gap, around=self.gap))

    @property
    def verdict(self) -> Verdict:
        """Whether the detector needs NMS; `undecided` for input that is suppressed already."""
        suppressed = self.input.detections.findings.suppressed is not None
        return needs_nms(None if suppressed else self.gap_interval)


def measure(
    given: Input,
    protocols: Sequence[Protocol],
    *,
    allow_suppressed: bool = False,
    resamples: int = RESAMPLES,
    oracle: bool = False,
) -> list[Measured]:
    """Measure an input under protocols. Its detections are read once for all of them.

    Args:
        given: the input.
        protocols: the protocols.
        allow_suppressed: whether to measure the gap of detections that are suppressed already.
        resamples: number of resamples of the images for intervals.
        oracle: whether to measure with pycocotools, too, where that measures the same AP.

    Raises:
        UserError: the input lacks what a protocol needs, or is suppressed already.
    """
    if problems := shortcomings_of(given, protocols, allow_suppressed):
        raise UserError(*problems)
    truth = given.truth_for(protocols)
    tops = [TopScores.none(len(truth.labels)) for _ in protocols]
    shares = []
    with ThreadPoolExecutor(1) as threads:  # while the detections are suppressed
        for chunk in given.detections.chunks():
            added = [threads.submit(_top_scores, chunk, each, truth) for each in protocols]
            shares.append([select_both(chunk, each, truth.sizes) for each in protocols])
            tops = [top + each.result() for top, each in zip(tops, added, strict=True)]
    found = []
    for protocol, best, parts in zip(protocols, tops, zip(*shares, strict=True), strict=True):
        columns = concatenate(parts)
        summary = summarise(columns, best, truth, protocol)
        enough = resamples and len(truth) >= MIN_IMAGES and protocol.matched
        made = replicates(*summary.matches, resamples, sets=summary.sets) if enough else None
        checked = (
            _check(columns, truth, protocol, summary) if oracle and checkable(protocol) else None
        )
        found.append(Measured(given, protocol, summary, made, checked))
    return found


def _top_scores(chunk: Candidates, protocol: Protocol, truth: GroundTruth) -> TopScores:
    """Return the highest scores of each object among the candidates that a protocol admits."""
    admitted = filter_candidates(chunk, protocol, truth.sizes)
    return top_scores(clip_to_images(admitted, truth.sizes), truth)


def checkable(protocol: Protocol) -> bool:
    """Return whether pycocotools can measure under a protocol."""
    return protocol.matched


def _check(
    columns: Sequence[Candidates], truth: GroundTruth, protocol: Protocol, summary: Summary
) -> "Checked":
    from gaplab.results.measurement.check import check  # not at the top: imports pycocotools

    return check(columns, truth, protocol, summary.gap)


def shortcomings_of(
    given: Input, protocols: Sequence[Protocol], allow_suppressed: bool = False
) -> list[str]:
    """Return why an input can't be measured under protocols, one line each."""
    detections = given.detections
    problems = []
    if detections.findings.suppressed is not None and not allow_suppressed:
        problems.append(
            f"{detections.where}: looks suppressed already (no two detections of one class overlap "
            f"by an IoU above {detections.findings.suppressed:.2f}), so its NMS gap says nothing "
            "about the detector; export it without NMS, or measure it with --allow-suppressed"
        )
    if any(each.masks for each in protocols):
        problems += detections.mask_problems() or given.annotations.mask_problems()
    if isinstance(detections, StoredDetections):
        problems += shortcomings(detections.dump, protocols)
    problems += [
        f"{detections.where}: has no levels and anchor points, which protocol "
        f"{protocol_key(each)} needs ({', '.join(needs)}); choose another one"
        for each in protocols
        if not detections.placed and (needs := needs_places(each))
    ]
    return problems


def usable_presets(inputs: Sequence[Input]) -> list[Protocol]:
    """Return the presets under which all inputs can be measured. Raises UserError if none can."""
    found = served_by(inputs, PROTOCOLS.values())
    if not found:
        raise UserError(f"{inputs[0].detections.where}: no preset can be used; give a --protocol")
    return found


def served_by(inputs: Sequence[Input], protocols: Iterable[Protocol]) -> list[Protocol]:
    """Return the protocols under which all inputs can be measured."""
    return [
        protocol
        for protocol in protocols
        if not any(shortcomings_of(each, [protocol], allow_suppressed=True) for each in inputs)
    ]


def keep(
    ledger: "Ledger", storage: Storage, measured: Measured, name: str, family: str = ""
) -> MeasurementRecord:
    """Write a measurement to the ledger, and its matches to the storage."""
    record = record_of(measured, name, family)
    if measured.protocol.matched:
        key = EvaluationRecord(
            trial=record.id,
            epoch=0,
            branch="measured",
            primary=True,
            protocol=record.protocol,
            metrics={},
            classes=(),
        )
        uri = write_matches(
            storage, key, measured.input.annotations.truth, *measured.summary.matches
        )
        record = record_of(measured, name, family, storage.relative(uri))
    ledger.add_measurement(record)
    return record


def record_of(
    measured: Measured, name: str, family: str = "", matches: str = ""
) -> MeasurementRecord:
    """Return what the ledger keeps of a measurement."""
    given, gap = measured.input, measured.summary.gap
    return MeasurementRecord(
        id=given.id,
        protocol=protocol_key(measured.protocol),
        name=name,
        family=family,
        dataset=given.dataset,
        truth=given.truth,
        metrics={**gap.metrics, **_duplicates(measured.summary)},
        classes=gap.per_class,
        matches=matches,
        rule=rule_of(measured.protocol),
        source=given.source,
        about=about(measured),
        results_version=RESULTS_VERSION,
    )


def about(measured: Measured) -> dict[str, Any]:
    """Return what was recognised and measured apart from the metrics, as plain JSON."""
    summary = measured.summary
    return {
        "findings": asdict(measured.input.detections.findings),
        "notes": list(measured.input.notes),
        "gap_interval": as_list(measured.gap_interval),
        "verdict": measured.verdict,
        "without_nms": asdict(summary.without),
        "with_nms": asdict(summary.with_nms),
        "score_gap": asdict(summary.score_gap),
        "crowding": [asdict(each) | {"gap": each.gap} for each in summary.crowding],
    }


def plain(measured: Measured) -> dict[str, Any]:
    """Return a measurement as plain JSON, in percent points."""
    given, gap = measured.input, measured.summary.gap
    findings = given.detections.findings
    metrics = gap.metrics
    return {
        "id": given.id,
        "file": given.detections.where,
        "annotations": given.annotations.where,
        "dataset": given.dataset,
        "truth": given.truth,
        "protocol": protocol_key(measured.protocol),
        "rule": rule_of(measured.protocol),
        "images": findings.images,
        "detections": findings.rows,
        "objects": measured.summary.score_gap.objects,
        **{name: metrics.get(name) for name in ("ap", "ap_nms", "gap")},
        "gap_interval": as_list(measured.gap_interval),
        **{name: metrics.get(name) for name in ("ar", "ar_nms")},
        **_duplicates(measured.summary),
        "suppressed": findings.suppressed,
        "verdict": measured.verdict,
        **({} if measured.checked is None else {"check": measured.checked.to_dict()}),
        "metrics": dict(metrics),
        "classes": [asdict(each) for each in gap.per_class],
        **{key: value for key, value in about(measured).items() if key not in ("gap_interval",)},
    }


def _duplicates(summary: Summary) -> dict[str, float | None]:
    """Return the metrics `DUPLICATES`."""
    columns = (summary.without, summary.with_nms)
    return dict(zip(DUPLICATES, (each.points[0].duplicates for each in columns), strict=True))


def as_list(found: Interval | None) -> list[float] | None:
    """Return an interval as plain JSON."""
    return None if found is None else [*found]
