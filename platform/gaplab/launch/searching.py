"""The rest of a sweep whose trials are proposed one after the other, and who ends early. No Ray."""

import time
from collections.abc import Callable, Sequence

from gaplab.ledger import Ledger
from gaplab.records import EpochDone, TrialRecord
from gaplab.search.adaptive import Search
from gaplab.search.history import Seen, seen
from gaplab.search.stopping import Judge

LOOK = 10.0
"""Seconds between two looks at what other drivers of the sweep have measured."""


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


class Referee:
    """The sweep's stopping rule, with all that was measured so far, also by other drivers."""

    def __init__(
        self,
        ledger: Ledger,
        sweep: str,
        judge: Judge,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger, self._sweep, self._judge, self._clock = ledger, sweep, judge, clock
        self._looked = float("-inf")
        self._trials: dict[str, TrialRecord] = {}

    def reason(self, done: EpochDone) -> str:
        """Why the trial ends after this epoch; empty where it goes on."""
        if self._clock() - self._looked > LOOK or done.trial not in self._trials:
            self._looked = self._clock()
            self._judge.hear(self._ledger.all_evaluations(self._sweep))
            self._trials = {t.id: t.record() for t in self._ledger.trials(self._sweep)}
        self._judge.hear(done.evaluations)
        return self._judge.verdict(self._trials[done.trial], self._trials.values(), done.epoch)
