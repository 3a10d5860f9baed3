"""Evaluate stored candidates under other protocols, without training."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from detectors.evaluation.metrics import TRAINING
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.selection import concatenate, select_both
from detectors.models import DETECTORS
from gaplab.errors import UserError
from gaplab.ledger import Ledger, Reader
from gaplab.ledger.views import EvaluationView, SweepView, TrialView
from gaplab.records import Subject
from gaplab.results.candidates.needs import is_complete, needs_places, shortcomings
from gaplab.results.candidates.truth import OWN, Truth, TruthOptions, load_truths
from gaplab.spec.protocols import protocol_key, stored_protocol
from gaplab.storage.candidates import Dump
from gaplab.storage.filesystem import Storage
from gaplab.trial.evaluate import make_evaluation, save_matches


@dataclass(frozen=True)
class Source:
    """Stored candidates of one trial, epoch and branch, and the evaluation that wrote them."""

    trial: TrialView
    evaluation: EvaluationView
    dump: Dump
    fingerprint: str = ""
    """That of the data in the attempt that wrote them; empty if unknown."""

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


def find_trials(ledger: Reader, names: Sequence[str]) -> list[TrialView]:
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
    ledger: Reader,
    storage: Storage,
    trials: Sequence[TrialView],
    epoch: int | None,
    branch: str | None,
) -> list[Source]:
    """Find the stored candidates of each trial.

    Args:
        ledger: an open ledger.
        storage: the home folder, which holds the candidates.
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
            prints = {a.id: str(a.provenance.get("data", "")) for a in ledger.attempts(trial.id)}
            dumps = [Dump.open(storage.locate(each.candidates)) for each in stored]
            found += [
                Source(trial, each, dump, prints.get(each.attempt, ""))
                for each, dump in zip(stored, dumps, strict=True)
            ]
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return found


def reevaluate(
    ledger: Ledger,
    sources: Sequence[Source],
    protocols: Sequence[Protocol],
    storage: Storage,
    options: TruthOptions = OWN,
    *,
    fitting: bool = False,
) -> Iterator[EvaluationView]:
    """Evaluate each source under each protocol and write new evaluations to the ledger.

    All sources are checked before the first one is measured. An evaluation that the ledger already
    holds is not measured again, unless it lacks a metric or the matches that an earlier release did
    not store; only that is added then.

    Args:
        ledger: an open ledger.
        sources: candidates, from `find_sources`.
        protocols: the protocols to measure under.
        storage: where match files are written.
        options: where the ground truth comes from.
        fitting: leave out, for each source, the protocols that it does not serve, if it serves
            any, and add the protocol of its trial.

    Yields:
        The evaluations as the ledger holds them, new and old ones, source by source.

    Raises:
        UserError: candidates don't match their data, or lack what a protocol needs.
    """
    chosen = [_fitting(source, protocols, options) if fitting else protocols for source in sources]
    truths = checked_truths(sources, chosen, options)
    for source, protocols in zip(sources, chosen, strict=True):
        trial, truth = source.trial.id, truths[source.trial.id]
        known = {
            (e.epoch, e.branch, e.protocol): e for e in ledger.evaluations(trial, truth.digest)
        }
        own = (source.evaluation.epoch, source.evaluation.branch)
        todo = [
            protocol
            for protocol in protocols
            if (found := known.get((*own, protocol_key(protocol)))) is None
            or not is_complete(found, protocol)
        ]
        _measure(ledger, source, todo, truth, storage)
        wanted = {(*own, protocol_key(p)) for p in protocols}
        yield from (
            e
            for e in ledger.evaluations(trial, truth.digest)
            if (e.epoch, e.branch, e.protocol) in wanted
        )


def _measure(
    ledger: Ledger,
    source: Source,
    protocols: Sequence[Protocol],
    truth: Truth,
    storage: Storage,
) -> None:
    """Measure one source under all protocols and record the results.

    Candidates are read once for all protocols, a few images at a time.
    """
    if not protocols:
        return
    shares = [
        [select_both(chunk, protocol, truth.data.sizes) for protocol in protocols]
        for chunk in source.dump.stream(truth.data.image_ids, truth.data.classes)
    ]
    for protocol, parts in zip(protocols, zip(*shares, strict=True), strict=True):
        found = concatenate(parts)
        made = make_evaluation(source.subject, found, truth.data, protocol, source.training)
        made = replace(made, candidates=source.evaluation.candidates, truth=truth.digest)
        uri = save_matches(made, found, truth.data, protocol, storage)
        made = replace(made, matches=storage.relative(uri))
        ledger.record(made, source.evaluation.attempt)


def _fitting(
    source: Source, protocols: Sequence[Protocol], options: TruthOptions
) -> Sequence[Protocol]:
    """Return the protocols that a source serves, with that of its trial; all if it serves none."""
    found, own = served(source, protocols, options), source.evaluation
    if own.protocol not in map(protocol_key, protocols) and own.rule:
        found = [*served(source, [stored_protocol(own.protocol, own.rule)], options), *found]
    return found or protocols


def served(
    source: Source, protocols: Sequence[Protocol], options: TruthOptions = OWN
) -> list[Protocol]:
    """Return the protocols under which a source can be measured."""
    return [each for each in protocols if not any(_shortcomings(source, [each], options))]


def checked_truths(
    sources: Sequence[Source], chosen: Sequence[Sequence[Protocol]], options: TruthOptions
) -> Mapping[str, Truth]:
    """Return the ground truth by id of the trial.

    Args:
        sources: the candidates.
        chosen: the protocols of each source.
        options: where the ground truth comes from.

    Raises:
        UserError: all sources that don't match their data, or lack what a protocol needs.
    """
    pairs = zip(sources, chosen, strict=True)
    problems = [problem for each in pairs for problem in _shortcomings(*each, options)]
    truths = dict[str, Truth]()
    trials = {s.trial.id: (s.trial, s.fingerprint) for s in sources}
    pairs = zip(sources, chosen, strict=True)
    masks = {s.trial.id for s, each in pairs if any(p.masks for p in each)}
    try:
        truths = load_truths(trials.values(), options, masks)
    except UserError as error:
        problems += error.problems
    for source in sources if truths else ():
        truth = truths[source.trial.id].data
        try:
            source.dump.check(truth.image_ids, truth.classes)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*dict.fromkeys(problems))
    return truths


def _shortcomings(
    source: Source, protocols: Sequence[Protocol], options: TruthOptions
) -> Iterator[str]:
    """Yield what the protocols need and the candidates of a trial, or the truth, don't have."""
    yield from shortcomings(source.dump, protocols)
    if options.other and any(each.masks for each in protocols):
        yield (
            "--other-truth: is compared without masks; measure masks against the data of the "
            "trial, or choose a protocol of boxes"
        )
    if not DETECTORS[source.trial.config["detector"]["name"]].located:
        for each in protocols:
            if needs := needs_places(each):
                yield (
                    f"{source.trial.id}: its queries have no levels and positions, which protocol "
                    f"{protocol_key(each)} needs ({', '.join(needs)}); choose another one"
                )


def _named(ledger: Reader, name: str) -> list[TrialView]:
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
