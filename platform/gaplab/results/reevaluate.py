"""New protocols for old candidates: evaluations without training."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from detectors.data.base import DataError
from detectors.evaluation.metrics import TRAINING
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.selection import columns
from detectors.evaluation.truth import GroundTruth
from gaplab.errors import UserError
from gaplab.ledger import Ledger
from gaplab.ledger.views import EvaluationView, TrialView
from gaplab.records import Subject
from gaplab.spec.protocols import protocol_key
from gaplab.spec.sweep import experiment_of
from gaplab.storage.candidates import Dump
from gaplab.storage.filesystem import Storage
from gaplab.trial.evaluate import joined, keep_matches, measured


@dataclass(frozen=True)
class Source:
    """Candidates of one trial, epoch and branch, and the evaluation that they were kept for."""

    trial: TrialView
    evaluation: EvaluationView
    dump: Dump

    @property
    def subject(self) -> Subject:
        """Whose candidates these are."""
        own = self.evaluation
        return Subject(own.trial, own.epoch, own.branch, own.primary)

    @property
    def training(self) -> dict[str, float]:
        """What the evaluation knows from training, whatever the protocol."""
        found = ((name, self.evaluation.metrics.get(name)) for name in TRAINING)
        return {name: value for name, value in found if value is not None}


def find_trials(ledger: Ledger, names: Sequence[str]) -> list[TrialView]:
    """The trials that `names` mean, each once: (beginnings of) ids of trials, or sweeps.

    Raises UserError with every name that means none.
    """
    found, problems = dict[str, TrialView](), list[str]()
    for name in names:
        try:
            found |= {trial.id: trial for trial in _named(ledger, name)}
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return list(found.values())


def find_sources(
    ledger: Ledger, trials: Sequence[TrialView], epoch: int | None, branch: str | None
) -> list[Source]:
    """Each trial's candidates of `epoch` (None: the last that has any), of one branch or of all.

    Raises UserError with every trial that has none, and every dump that can't be read.
    """
    found, problems = list[Source](), list[str]()
    for trial in trials:
        try:
            kept = _kept(trial, ledger.evaluations(trial.id), epoch, branch)
            found += [Source(trial, each, Dump.open(each.candidates)) for each in kept]
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return found


class Truths:
    """Ground truth of the validation split of trials, each data set loaded once."""

    def __init__(self) -> None:
        self._loaded = dict[str, GroundTruth]()

    def of(self, trial: TrialView) -> GroundTruth:
        """Raises UserError where the data can't be loaded."""
        key = str(trial.config["data"])
        if key not in self._loaded:
            try:
                data = experiment_of(trial).data.load("val")
            except DataError as error:
                raise UserError(*error.problems) from error
            self._loaded[key] = GroundTruth.of(data.truth(), data.classes)
        return self._loaded[key]


def reevaluate(
    ledger: Ledger, sources: Sequence[Source], protocols: Sequence[Protocol], storage: Storage
) -> Iterator[EvaluationView]:
    """Evaluate each source under each protocol and write what is new, source by source.

    Yields the evaluations as they stand in the ledger, also those that were there already. Nothing
    is measured before every source is known to match its data and to hold enough candidates.
    """
    truths = Truths()
    check(sources, protocols, truths)
    for source in sources:
        there = {(e.epoch, e.branch, e.protocol) for e in ledger.evaluations(source.trial.id)}
        own = (source.evaluation.epoch, source.evaluation.branch)
        todo = [p for p in protocols if (*own, protocol_key(p)) not in there]
        _measure(ledger, source, todo, truths.of(source.trial), storage)
        wanted = {(*own, protocol_key(p)) for p in protocols}
        yield from (
            e
            for e in ledger.evaluations(source.trial.id)
            if (e.epoch, e.branch, e.protocol) in wanted
        )


def _measure(
    ledger: Ledger,
    source: Source,
    protocols: Sequence[Protocol],
    truth: GroundTruth,
    storage: Storage,
) -> None:
    """The dump is read once, some images at a time, for all protocols together."""
    if not protocols:
        return
    shares = [
        [columns(some, protocol) for protocol in protocols]
        for some in source.dump.stream(truth.image_ids, truth.classes)
    ]
    for protocol, parts in zip(protocols, zip(*shares, strict=True), strict=True):
        found = joined(parts)
        made = measured(source.subject, found, truth, protocol, source.training)
        uri = keep_matches(made, found, truth, protocol, storage)
        made = replace(made, candidates=source.evaluation.candidates, matches=uri)
        ledger.record(made, source.evaluation.attempt)


def check(sources: Sequence[Source], protocols: Sequence[Protocol], truths: Truths) -> None:
    """Raise UserError unless every source matches its data and holds enough candidates."""
    problems = list[str]()
    for source in sources:
        try:
            truth = truths.of(source.trial)
            source.dump.check(truth.image_ids, truth.classes)
        except UserError as error:
            problems += error.problems
        problems += [_too_few(source.dump, p) for p in protocols if _asks_more(p, source.dump)]
    if problems:
        raise UserError(*dict.fromkeys(problems))


def _asks_more(protocol: Protocol, dump: Dump) -> bool:
    return protocol.pre_nms_topk > dump.about.topk


def _too_few(dump: Dump, protocol: Protocol) -> str:
    return (
        f"{dump.uri}: holds the {dump.about.topk} best candidates a level, protocol "
        f"{protocol_key(protocol)} asks for {protocol.pre_nms_topk}; lower pre_nms_topk"
    )


def _named(ledger: Ledger, name: str) -> list[TrialView]:
    try:
        return ledger.trials(ledger.find_sweep(name).id)
    except UserError as no_sweep:
        try:
            return [ledger.find_trial(name)]
        except UserError as no_trial:
            raise UserError(*no_trial.problems, *no_sweep.problems) from None


def _kept(
    trial: TrialView, evaluations: Sequence[EvaluationView], epoch: int | None, branch: str | None
) -> list[EvaluationView]:
    """One evaluation for each branch whose candidates are kept. Raises UserError if there is none.

    Of several under different protocols it is the first; they share the candidates.
    """
    kept = [e for e in evaluations if e.candidates and (branch is None or e.branch == branch)]
    by_epoch = defaultdict[int, dict[str, EvaluationView]](dict)
    for each in kept:
        by_epoch[each.epoch].setdefault(each.branch, each)
    if not by_epoch or (epoch is not None and epoch not in by_epoch):
        there = ", ".join(f"epoch {e} ({'/'.join(by_epoch[e])})" for e in sorted(by_epoch))
        asked = "" if epoch is None else f" of epoch {epoch}"
        asked += "" if branch is None else f" of branch {branch}"
        why = f"there are those of {there}" if there else f"it is {trial.state}, and {_WHY}"
        raise UserError(f"trial {trial.id}: no candidates{asked} are kept; {why}")
    return list(by_epoch[max(by_epoch) if epoch is None else epoch].values())


_WHY = "candidates are written at the last epoch unless evaluation.candidates says otherwise"
