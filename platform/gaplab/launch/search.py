"""A search that proposes its trials one after the other, from what the ones before came to.

How a driver works with it:

    search = open_search(spec)  # None: all trials of the spec are known, nothing more to do
    ...
    while fewer trials wait than could start, and whenever a trial has ended:
        known = seen(ledger, sweep.id)
        more = search.proposals(known)
        if more is None: the search is over once the trials that are open have ended
        else: add `more` to the sweep, if it still has exactly the trials of `known`; else ask again

A proposal is one new sample crossed with rows, grid, zip and seeds. It follows from the spec and
`known` alone: no state is kept, so a resume goes on where the ledger stands, and two drivers that
see the same propose the same trials.
"""

from collections.abc import Callable, Iterator, Sequence

from gaplab.errors import UserError
from gaplab.identity import canonical
from gaplab.launch.search_history import Outcome, Reader, Seen, seen
from gaplab.ledger import Ledger
from gaplab.records import TrialRecord
from gaplab.spec.models import Spec
from gaplab.spec.resolve import resolve
from gaplab.spec.sampling import Sample, draws
from gaplab.spec.sweep import expand

TRIES = 10
"""Proposals that come to nothing new before a sample is drawn at random."""


def open_search(spec: Spec) -> "Search | None":
    """The search of a spec whose trials can't all be known before the first; else None."""
    return Search(spec) if spec.search is not None and spec.search.adaptive else None


class Search:
    """Proposes the trials of an adaptive search. Made by `open_search`."""

    def __init__(self, spec: Spec) -> None:
        assert spec.search is not None
        self._options, self._spec = spec.search, spec
        self._reader = Reader(spec)
        self._made = dict[str, tuple[TrialRecord, ...]]()
        self.notes: dict[str, None] = {}
        """What a person should know about the proposals so far, one line each."""

    def left(self, known: Sequence[Seen]) -> int:
        """How many samples are still to be proposed, at most."""
        return max(0, self._options.trials - len(self._reader.outcomes(known)))

    def proposals(self, known: Sequence[Seen]) -> list[TrialRecord] | None:
        """The trials of the next sample that are not in the sweep yet; None: there are no more.

        known: all trials of the sweep, in its order.
        Raises UserError where the data can't be used.
        """
        outcomes = self._reader.outcomes(known)
        if len(outcomes) >= self._options.trials:
            return None
        there = {each.trial.id for each in known}
        for sample in self._candidates(outcomes):
            if new := [trial for trial in self._trials(sample) if trial.id not in there]:
                return new
        self._note(f"search: the space has no more different samples after {len(outcomes)}")
        return None

    def _candidates(self, outcomes: Sequence[Outcome]) -> Iterator[Sample]:
        """Samples in the order in which they are to be tried: proposed ones, then random ones."""
        ended = sum(each.objective is not None for each in outcomes)
        if ended >= self._options.startup:
            from gaplab.launch.search_optuna import Proposer  # an extra, and slow to import

            proposer = Proposer(self._options)
            yield from (proposer.propose(outcomes, attempt) for attempt in range(TRIES))
            number = len(outcomes) + 1
            self._note(f"search: sample {number} is drawn, {TRIES} proposals were nothing new")
        yield from draws(self._options)

    def _trials(self, sample: Sample) -> tuple[TrialRecord, ...]:
        """The trials of a sample; none where one of them can't be, which is noted."""
        key = canonical(sample)
        if key not in self._made:
            try:
                self._made[key] = expand(resolve(with_sample(self._spec, sample))).trials
            except UserError as error:
                self._note(f"search: {key} is left out: {error.problems[0]}")
                self._made[key] = ()
        return self._made[key]

    def _note(self, text: str) -> None:
        self.notes[text] = None


def with_sample(spec: Spec, sample: Sample) -> Spec:
    """The spec of one sample's trials, in which nothing is searched."""
    groups = [spec.zip] if isinstance(spec.zip, dict) else spec.zip
    fixed = {key: [value] for key, value in sample.items()}
    return spec.model_copy(update={"search": None, "zip": [fixed, *(g for g in groups if g)]})


class Proposals:
    """Adds what a search proposes to a sweep in the ledger; several drivers may do so at once.

    say: hears what a person should know about the proposals, in lines.
    """

    def __init__(
        self,
        ledger: Ledger,
        sweep: str,
        search: Search,
        known: Sequence[TrialRecord],
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._ledger, self._sweep, self._search, self._say = ledger, sweep, search, say
        self._said: set[str] = set()
        self._given = {trial.id for trial in known}
        self.over = False
        """Whether the search has no more to propose."""

    def more(self) -> list[TrialRecord]:
        """Trials of the sweep that were not given yet: new ones, and those of other drivers."""
        known = seen(self._ledger, self._sweep)
        others = [each.trial for each in known if each.trial.id not in self._given]
        found = others or self._propose(known)
        self._given |= {trial.id for trial in found}
        return found

    def _propose(self, known: Sequence[Seen]) -> list[TrialRecord]:
        found, ids = self._search.proposals(known), [each.trial.id for each in known]
        for note in self._search.notes.keys() - self._said:
            self._said.add(note)
            self._say(note)
        if found is None:
            self.over = True
            return []
        return found if self._ledger.extend_sweep(self._sweep, ids, found) else []
