"""Adaptive search: propose trials one sample after the other, from the results of earlier ones.

`Search` decides what comes next. A proposal is one new sample crossed with rows, grid, zip and
seeds. It is a function of the spec and of the results so far, and no other state is kept: a resumed
driver continues from the ledger, and two drivers that read the same results propose the same
trials.
`Proposals` adds proposals to a sweep in the ledger:

    search = open_search(spec)  # None: all trials of the spec are already known
    proposals = Proposals(ledger, sweep.id, search, sweep.trials)
    while not proposals.finished:
        trials = proposals.next_trials()  # empty: nothing new yet, ask again later
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from gaplab.errors import UserError
from gaplab.formatting import plural
from gaplab.identity import canonical
from gaplab.launch.search_history import Outcome, SampleReader, TrialResult, trial_results
from gaplab.ledger import Ledger
from gaplab.records import SweepRecord, TrialRecord
from gaplab.spec.files import stored_spec
from gaplab.spec.models import Spec
from gaplab.spec.resolve import resolve
from gaplab.spec.sampling import Sample, draws
from gaplab.spec.sweep import expand

TRIES = 10
"""Proposals without a new trial before a sample is drawn at random."""


def open_search(spec: Spec) -> "Search | None":
    """Return the search of a spec that proposes trials while the sweep runs, or None."""
    return Search(spec) if spec.search is not None and spec.search.adaptive else None


class Search:
    """Proposes the trials of an adaptive search. Made by `open_search`."""

    def __init__(self, spec: Spec) -> None:
        assert spec.search is not None
        self._options, self._spec = spec.search, spec
        self._reader = SampleReader(spec)
        self._expanded = dict[str, tuple[TrialRecord, ...]]()
        self.notes: dict[str, None] = {}
        """Remarks about the proposals so far, one line each, without repetition."""

    def remaining(self, known: Sequence[TrialResult]) -> int:
        """Return how many samples are still to be proposed, at most."""
        return max(0, self._options.trials - len(self._reader.outcomes(known)))

    def propose(self, known: Sequence[TrialResult]) -> list[TrialRecord] | None:
        """Return the trials of the next sample that are not in the sweep yet.

        Args:
            known: all trials of the sweep, in its order.

        Returns:
            The trials, or None if the search is finished.

        Raises:
            UserError: if the data can't be read.
        """
        outcomes = self._reader.outcomes(known)
        if len(outcomes) >= self._options.trials:
            return None
        ids = {each.trial.id for each in known}
        for sample in self._candidates(outcomes):
            if new := [trial for trial in self._trials(sample) if trial.id not in ids]:
                return new
        count = plural(len(outcomes), "different sample")
        self._note(f"search: the space has only {count}; no more are proposed")
        return None

    def renewed(self, known: Sequence[TrialResult]) -> list[TrialRecord]:
        """Return the trials of a sweep with the settings of the spec, in their order.

        Trials that can't be proposed any more stay as they are.
        """
        samples = [each.sample for each in self._reader.outcomes(known)]
        found = {trial.id: trial for sample in samples for trial in self._trials(sample)}
        return [found.get(each.trial.id, each.trial) for each in known]

    def _candidates(self, outcomes: Sequence[Outcome]) -> Iterator[Sample]:
        """Yield samples in the order in which they are tried: proposed ones, then random ones."""
        ended = sum(each.objective is not None for each in outcomes)
        if ended >= self._options.startup:
            from gaplab.launch.search_optuna import Proposer  # optional, and slow to import

            proposer = Proposer(self._options)
            yield from (proposer.propose(outcomes, attempt) for attempt in range(TRIES))
            number = len(outcomes) + 1
            self._note(
                f"search: sample {number} is drawn at random: {TRIES} proposals were not new"
            )
        yield from draws(self._options)

    def _trials(self, sample: Sample) -> tuple[TrialRecord, ...]:
        """Return the trials of a sample; none, and a note, if one of them is invalid."""
        key = canonical(sample)
        if key not in self._expanded:
            try:
                trials = expand(resolve(with_sample(self._spec, sample))).trials
            except UserError as error:
                self._note(f"search: {key} is left out: {error.problems[0]}")
                trials = ()
            self._expanded[key] = trials
        return self._expanded[key]

    def _note(self, text: str) -> None:
        self.notes[text] = None


def with_sample(spec: Spec, sample: Sample) -> Spec:
    """Return a spec without a search whose trials are those of one sample."""
    groups = [spec.zip] if isinstance(spec.zip, dict) else spec.zip
    fixed = {key: [value] for key, value in sample.items()}
    return spec.model_copy(update={"search": None, "zip": [fixed, *(g for g in groups if g)]})


def with_proposed(sweep: SweepRecord, before: SweepRecord, ledger: Ledger) -> SweepRecord:
    """Return a sweep with the trials that a search proposed in earlier runs.

    Args:
        sweep: the sweep as its spec describes it.
        before: the same sweep as it is stored.
        ledger: the ledger that stores it.
    """
    search = open_search(stored_spec(sweep))
    if search is None or len(before.trials) == len(sweep.trials):
        return sweep
    return replace(sweep, trials=tuple(search.renewed(trial_results(ledger, sweep.id))))


def is_open(sweep: SweepRecord, ledger: Ledger) -> bool:
    """Return whether the search of a sweep has samples left to propose; False without a search."""
    search = open_search(stored_spec(sweep))
    return search is not None and search.remaining(trial_results(ledger, sweep.id)) > 0


class Proposals:
    """Adds the proposals of a search to a sweep in the ledger. Several drivers may do so at once.

    Args:
        ledger: the ledger.
        sweep: id of the sweep.
        search: the search.
        known: trials that the driver already has.
        on_message: called with every note of the search, once.
    """

    def __init__(
        self,
        ledger: Ledger,
        sweep: str,
        search: Search,
        known: Sequence[TrialRecord],
        on_message: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._ledger, self._sweep, self._search = ledger, sweep, search
        self._on_message = on_message
        self._reported: set[str] = set()
        self._returned = {trial.id for trial in known}
        self.finished = False
        """Whether the search proposes no more trials."""

    def next_trials(self) -> list[TrialRecord]:
        """Return trials of the sweep that were not returned before.

        They are those that other drivers have added, else new ones. The list is empty if the search
        has finished, or if another driver has extended the sweep at the same moment.
        """
        known = trial_results(self._ledger, self._sweep)
        others = [each.trial for each in known if each.trial.id not in self._returned]
        found = others or self._propose(known)
        self._returned |= {trial.id for trial in found}
        return found

    def _propose(self, known: Sequence[TrialResult]) -> list[TrialRecord]:
        found, ids = self._search.propose(known), [each.trial.id for each in known]
        for note in self._search.notes:
            if note not in self._reported:
                self._reported.add(note)
                self._on_message(note)
        if found is None:
            self.finished = True
            return []
        return found if self._ledger.extend_sweep(self._sweep, ids, found) else []
