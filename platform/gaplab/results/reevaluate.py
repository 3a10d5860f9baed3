"""Evaluate stored candidates under other protocols, without training."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from detectors.data.base import DataError
from detectors.evaluation.metrics import TRAINING
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.selection import select_both
from detectors.evaluation.truth import GroundTruth
from gaplab.errors import UserError
from gaplab.ledger import Ledger
from gaplab.ledger.views import EvaluationView, SweepView, TrialView
from gaplab.records import Subject
from gaplab.spec.protocols import protocol_key
from gaplab.spec.sweep import experiment_of
from gaplab.storage.candidates import Dump
from gaplab.storage.filesystem import Storage
from gaplab.trial.evaluate import concatenate, make_evaluation, save_matches


@dataclass(frozen=True)
class Source:
    """Stored candidates of one trial, epoch and branch, and the evaluation that wrote them."""

    trial: TrialView
    evaluation: EvaluationView
    dump: Dump

    @property
    def subject(self) -> Subject:
        """Trial, epoch and branch of the candidates."""
        own = self.evaluation
        return Subject(own.trial, own.epoch, own.branch, own.primary)

    @property
    def training(self) -> dict[str, float]:
        """The evaluation's metrics of training, which don't depend on the protocol."""
        found = ((name, self.evaluation.metrics.get(name)) for name in TRAINING)
        return {name: value for name, value in found if value is not None}


def find_trials(ledger: Ledger, names: Sequence[str]) -> list[TrialView]:
    """Return the trials that `names` mean, each once.

    Args:
        ledger: an open ledger.
        names: each the id of a trial or its beginning, or a sweep for all of its trials.

    Raises:
        UserError: a name matches neither a trial nor a sweep; names all of them.
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
    """Find the stored candidates of each trial.

    Args:
        ledger: an open ledger.
        trials: the trials whose candidates are wanted.
        epoch: None: the last epoch that has any.
        branch: None: every branch.

    Raises:
        UserError: a trial has no such candidates, or they can't be read; names all of them.
    """
    found, problems = list[Source](), list[str]()
    for trial in trials:
        try:
            stored = _with_candidates(trial, ledger.evaluations(trial.id), epoch, branch)
            found += [Source(trial, each, Dump.open(each.candidates)) for each in stored]
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return found


class Truths:
    """Ground truth of trials' validation splits. Loads each data set once."""

    def __init__(self) -> None:
        self._loaded = dict[str, GroundTruth]()

    def of(self, trial: TrialView) -> GroundTruth:
        """Return the ground truth for a trial. Raises UserError if the data can't be loaded."""
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
    """Evaluate each source under each protocol and write new evaluations to the ledger.

    All sources are checked before the first one is measured. An evaluation that the ledger already
    holds is not measured again.

    Args:
        ledger: an open ledger.
        sources: candidates, from `find_sources`.
        protocols: the protocols to measure under.
        storage: where match files are written.

    Yields:
        The evaluations as the ledger holds them, new and old ones, source by source.

    Raises:
        UserError: candidates don't match their data, or are fewer than a protocol needs.
    """
    truths = Truths()
    check_sources(sources, protocols, truths)
    for source in sources:
        known = {(e.epoch, e.branch, e.protocol) for e in ledger.evaluations(source.trial.id)}
        own = (source.evaluation.epoch, source.evaluation.branch)
        todo = [p for p in protocols if (*own, protocol_key(p)) not in known]
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
    """Measure one source under all protocols and record the results.

    Candidates are read once for all protocols, a few images at a time.
    """
    if not protocols:
        return
    shares = [
        [select_both(chunk, protocol) for protocol in protocols]
        for chunk in source.dump.stream(truth.image_ids, truth.classes)
    ]
    for protocol, parts in zip(protocols, zip(*shares, strict=True), strict=True):
        found = concatenate(parts)
        made = make_evaluation(source.subject, found, truth, protocol, source.training)
        uri = save_matches(made, found, truth, protocol, storage)
        made = replace(made, candidates=source.evaluation.candidates, matches=uri)
        ledger.record(made, source.evaluation.attempt)


def check_sources(sources: Sequence[Source], protocols: Sequence[Protocol], truths: Truths) -> None:
    """Raise UserError unless every source matches its data and holds enough candidates."""
    problems = list[str]()
    for source in sources:
        try:
            truth = truths.of(source.trial)
            source.dump.check(truth.image_ids, truth.classes)
        except UserError as error:
            problems += error.problems
        problems += [
            _too_few(source.dump, protocol)
            for protocol in protocols
            if protocol.pre_nms_topk > source.dump.info.topk
        ]
    if problems:
        raise UserError(*dict.fromkeys(problems))


def _too_few(dump: Dump, protocol: Protocol) -> str:
    return (
        f"{dump.uri}: holds the {dump.info.topk} best candidates per level, protocol "
        f"{protocol_key(protocol)} needs {protocol.pre_nms_topk}; lower pre_nms_topk"
    )


def _named(ledger: Ledger, name: str) -> list[TrialView]:
    """Return the trials of the sweep called `name`, or else the trial whose id begins with it."""
    found = ledger.find(name)
    return ledger.trials(found.id) if isinstance(found, SweepView) else [found]


def _with_candidates(
    trial: TrialView, evaluations: Sequence[EvaluationView], epoch: int | None, branch: str | None
) -> list[EvaluationView]:
    """Return one evaluation per branch that has stored candidates.

    Evaluations of one branch under several protocols share the candidates; the first is returned.

    Raises:
        UserError: no candidates of that epoch and branch are stored.
    """
    by_epoch = defaultdict[int, dict[str, EvaluationView]](dict)
    for each in evaluations:
        if each.candidates and branch in (None, each.branch):
            by_epoch[each.epoch].setdefault(each.branch, each)
    if not by_epoch or (epoch is not None and epoch not in by_epoch):
        stored = ", ".join(f"epoch {e} ({'/'.join(by_epoch[e])})" for e in sorted(by_epoch))
        wanted = "" if epoch is None else f" of epoch {epoch}"
        wanted += "" if branch is None else f" of branch {branch}"
        why = (
            f"stored are those of {stored}" if stored else f"its state is {trial.state}; {_DEFAULT}"
        )
        raise UserError(f"trial {trial.id}: no candidates{wanted} are stored; {why}")
    return list(by_epoch[max(by_epoch) if epoch is None else epoch].values())


_DEFAULT = "candidates are written at the last epoch unless evaluation.candidates says otherwise"
