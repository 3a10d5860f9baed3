"""What trials have stored about their last evaluation: candidates, and the data they belong to."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from detectors.data.base import DataError, Dataset
from detectors.evaluation.matching import match
from detectors.evaluation.operating import Judged, judge
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.score_gap import TopScores, top_scores
from detectors.evaluation.selection import clip_to_images, filter_candidates, select_both
from detectors.evaluation.truth import GroundTruth
from detectors.structures import Candidates
from gaplab.errors import UserError
from gaplab.formatting import one_line
from gaplab.identity import canonical
from gaplab.results.candidates.truth import OWN, load_truths
from gaplab.results.report.evidence import Evidence, Missing, Run, Setting
from gaplab.spec.protocols import stored_protocol
from gaplab.spec.sweep import data_with
from gaplab.storage.candidates import Dump

_MOST_CANDIDATES = 200_000
"""Number of candidates of a trial after which no more images are read."""


@dataclass(frozen=True)
class Stored:
    """The last evaluation of a trial, from its candidates.

    Attributes:
        truth: the ground truth of all images; objects only of the images that were read.
        images: number of images that were read.
        without: detections without NMS.
        with_nms: detections with NMS.
        tops: the two highest scores of each object, among the candidates of the protocol.
        protocol: how the trial was measured.
    """

    truth: GroundTruth
    images: int
    without: Candidates
    with_nms: Candidates
    tops: TopScores
    protocol: Protocol

    @cached_property
    def judged(self) -> tuple[Judged, Judged]:
        """What the detections hit and claim: those without NMS, and those with NMS."""
        most, masks = self.protocol.max_dets, self.protocol.masks
        pairs = [
            (each, match(each, self.truth, most, masks=masks))
            for each in (self.without, self.with_nms)
        ]
        first, second = (judge(each, self.truth, most, matching) for each, matching in pairs)
        return first, second


@dataclass(frozen=True, eq=False)
class Shown:
    """A setting, the one of its trials that stands for it, and what this has stored."""

    setting: Setting
    run: Run
    stored: Stored

    @property
    def data(self) -> str:
        """Equal for trials that were measured on the same images."""
        return self.run.fingerprint or canonical(self.run.trial.config["data"])


@dataclass(frozen=True)
class Archive:
    """The stored files of the trials of a report; each is read once."""

    evidence: Evidence
    _stored: dict[str, Stored] = field(default_factory=dict)
    _truths: dict[str, GroundTruth] = field(default_factory=dict)
    _data: dict[str, Dataset] = field(default_factory=dict)

    def shown(self, most: int) -> tuple[list[Shown], list[str]]:
        """Return at most `most` settings, each with one trial that has candidates.

        Also a sentence for each setting that has none, or whose candidates can't be read.

        Raises:
            Missing: no setting is left.
        """
        found, problems = list[Shown](), list[str]()
        for setting in self.evidence.shown(most):
            run = with_candidates(setting)
            try:
                if run is None:
                    problems.append(f"{setting.label}: no candidates are stored.")
                else:
                    found.append(Shown(setting, run, self.stored(run)))
            except UserError as error:
                problems.append(f"{setting.label}: {one_line(error.problems[0])}")
        if not found:
            raise Missing(" ".join(problems) or "No trial has finished.")
        if (every := len(self.evidence.ranked)) > most:
            problems.append(
                f"{most} of {every} settings: the first, the last and some evenly between them, in "
                "the order of the answer."
            )
        return found, problems

    def alike(self, most: int) -> tuple[list[Shown], list[str]]:
        """Return like `shown` the settings with the same data as the first of them."""
        found, problems = self.shown(most)
        alike = [each for each in found if each.data == found[0].data]
        problems += [
            f"{each.setting.label}: has other validation images, which are not drawn."
            for each in found
            if each not in alike
        ]
        return alike, problems

    def stored(self, run: Run) -> Stored:
        """Return the last evaluation of a trial. Raises UserError if it can't be read."""
        if run.trial.id not in self._stored:
            self._stored[run.trial.id] = _read(self.evidence, run, self._truth(run))
        return self._stored[run.trial.id]

    def dataset(self, run: Run) -> Dataset:
        """Return the validation split of a trial's data. Raises UserError."""
        key = canonical(run.trial.config["data"])
        if key not in self._data:
            try:
                self._data[key] = data_with(run.trial, {}).load("val")
            except DataError as error:
                raise UserError(*error.problems) from error
        return self._data[key]

    def _truth(self, run: Run) -> GroundTruth:
        own, masks = run.trial.id, _protocol(run).masks
        key = canonical([run.trial.config["data"], run.fingerprint, masks])
        if key not in self._truths:
            found = load_truths([(run.trial, run.fingerprint)], OWN, {own} if masks else ())
            self._truths[key] = found[own].data
        return self._truths[key]


def with_candidates(setting: Setting) -> Run | None:
    """Return the first finished trial of a setting that has candidates."""
    return next((run for run in setting.finished if run.last.candidates), None)


def _protocol(run: Run) -> Protocol:
    return stored_protocol(run.last.protocol, run.last.rule)


def _read(evidence: Evidence, run: Run, truth: GroundTruth) -> Stored:
    protocol = _protocol(run)
    dump = Dump.open(evidence.storage.locate(run.last.candidates))
    parts, count = [Candidates.none()], 0
    for chunk in dump.stream(truth.image_ids, truth.classes):
        parts.append(filter_candidates(chunk, protocol, truth.sizes))
        count += len(chunk)
        if count >= _MOST_CANDIDATES:
            break
    found = Candidates.join(parts)
    if count >= _MOST_CANDIDATES:
        truth = _only(truth, torch.unique(found.image))
    without, with_nms = select_both(found, protocol, truth.sizes)
    tops = top_scores(clip_to_images(found, truth.sizes), truth)
    images = len(torch.unique(found.image)) if count >= _MOST_CANDIDATES else len(truth)
    return Stored(truth, images, without, with_nms, tops, protocol)


def _only(truth: GroundTruth, images: Tensor) -> GroundTruth:
    """Return ground truth with the objects of some images only."""
    here = torch.isin(truth.image, images)
    names = ("image", "boxes", "labels", "crowd", "area")
    columns = {name: getattr(truth, name)[here] for name in names}
    return replace(truth, **columns, masks=truth.masks and truth.masks[here])
