"""What `gaplab run` and `gaplab resume` do."""

import json as jsonlib
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from rich.console import Console

from gaplab.cli.render.tables import leaderboard_table
from gaplab.cli.watch import JsonLines, Lines, LiveTable, Watcher
from gaplab.failures import Failure, group
from gaplab.launch.driver import SIGNALS, Audience, run_sweep
from gaplab.launch.rerun import chosen, rerun
from gaplab.ledger import Ledger
from gaplab.ledger.patience import Patience
from gaplab.mirror.replay import MirrorThread
from gaplab.records import SweepRecord, TrialRecord
from gaplab.results.leaderboard import LeaderboardQuery, leaderboard
from gaplab.spec.sweep import inspect_data
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage
from gaplab.storage.home import Home
from gaplab.trial.control import Stop

FAILED = 1
EXITS = {stop.reason: 128 + number for number, stop in SIGNALS.items()}
"""Exit codes of a driver that was told to stop, as shells give them: 130 for Ctrl-C."""
OUTAGE = 900.0
"""Seconds for which a driver waits for a ledger that doesn't answer; training goes on meanwhile."""


class SweepRun:
    """One call of `run` or `resume` for one sweep."""

    def __init__(self, sweep: SweepRecord, home: Home, address: str, json: bool) -> None:
        self.sweep, self.home, self.address, self.json = sweep, home, address, json
        self.console = Console(stderr=json, highlight=False, soft_wrap=True, markup=False)

    def execute(self, again: Sequence[str] = ()) -> int:
        """Train what is missing; the exit code: 0, 1 for failed trials, 130 for Ctrl-C.

        again: finished trials to train once more, see `rerun.chosen`.
        """
        once_more = chosen(again, [trial.id for trial in self.sweep.trials])
        with ExitStack() as stack:
            patience = Patience(OUTAGE, self.console.print)
            ledger = stack.enter_context(Ledger.open(self.home.ledger_url, patience))
            if once_more:
                self._rerun(ledger, once_more)
            todo = ledger.missing(self.sweep)
            self._announce(todo)
            for note in inspect_data(todo):
                self.console.print(note)
            if todo and (stop := self._train(todo, ledger)):
                return self._stopped(stop)
            ledger.add_sweep(self.sweep)
            return self._conclude(ledger)

    def _rerun(self, ledger: Ledger, trials: Sequence[str]) -> None:
        found = rerun(ledger, Storage(str(self.home.path)), trials)
        self.console.print(
            f"rerun: {len(found)} finished trials are to be trained once more; what they gave is "
            f"kept in {self.home.path}/trials/TRIAL/replaced"
        )

    def _announce(self, todo: Sequence[TrialRecord]) -> None:
        total = len(self.sweep.trials)
        rest = f"{len(todo)} to train" if todo else "nothing to train"
        self.console.print(
            f"sweep {self.sweep.id}: {total} trials, {total - len(todo)} already done, {rest}"
        )

    def _train(self, todo: Sequence[TrialRecord], ledger: Ledger) -> Stop | None:
        mirror = MirrorThread(self.home, self.sweep.id)
        with self._watcher(todo) as watcher:
            audience = Audience((watcher, mirror.notify), watcher.add, self.console.print)
            stop = run_sweep(self.home, ledger, self.sweep, self.address, audience)
        if problem := mirror.close():
            self.console.print(problem)
        return stop

    def _watcher(self, todo: Sequence[TrialRecord]) -> Watcher:
        if self.json:
            return JsonLines()
        return LiveTable(todo, self.console) if self.console.is_terminal else Lines(todo)

    def _stopped(self, stop: Stop) -> int:
        self.console.print(
            f"stopped: {stop.reason}; what was done is kept. Go on with: {self._command('resume')}"
        )
        return EXITS.get(stop.reason, FAILED)

    def _conclude(self, ledger: Ledger) -> int:
        states = ledger.states([trial.id for trial in ledger.trials(self.sweep.id)])
        if self.json:
            said = {"kind": "sweep", "sweep": self.sweep.id, "states": states}
            sys.stdout.write(jsonlib.dumps(said) + "\n")
        else:
            self._print_results(ledger)
        failed = [trial for trial, state in states.items() if state == TrialState.FAILED]
        self._print_failures(ledger, failed)
        return FAILED if failed else 0

    def _print_results(self, ledger: Ledger) -> None:
        rows = leaderboard(ledger, LeaderboardQuery(sweep=self.sweep.id))
        self.console.print(leaderboard_table(rows), soft_wrap=False)
        self.console.print(
            "Next:\n"
            f"  {self._command('compare', '--by assignment')}   means and spread by assignment\n"
            f"  {self._command('show', rows[0].trial if rows else 'TRIAL')}   one trial in full\n"
            f"  {self._command('ui', '')}   the same runs in MLflow"
        )

    def _print_failures(self, ledger: Ledger, failed: Sequence[str]) -> None:
        ends = [ledger.attempts(trial)[-1] for trial in failed]
        for each in group([Failure(a.trial, a.fault, a.reason, a.node) for a in ends]):
            self.console.print(each.line(), style="red")
        if failed:
            self.console.print(f"Try them again with: {self._command('resume')}")

    def _command(self, name: str, rest: str | None = None) -> str:
        """A command line for this home folder; about this sweep unless `rest` says what about."""
        return self.home.command(name, self.sweep.id if rest is None else rest)
