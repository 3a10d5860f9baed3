"""`gaplab run` and `gaplab resume`: train the unfinished trials of a sweep, and show progress."""

import json as jsonlib
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaplab.cli.environment import print_ignored
from gaplab.cli.live_table import LiveTable
from gaplab.cli.options import (
    AddressOption,
    HomeOption,
    JsonOption,
    ProfileOption,
    RerunOption,
    RowOption,
    SetOption,
    SettingOption,
    SpecArgument,
)
from gaplab.cli.render.progress import progress_line
from gaplab.cli.render.tables import leaderboard_table
from gaplab.cli.render.terminal import can_redraw, open_console
from gaplab.cli.streams import output_may_fail
from gaplab.cli.watch import JsonLines, Lines, Watcher
from gaplab.failures import Failure, group
from gaplab.formatting import plural
from gaplab.launch.rerun import match_trials, rerun
from gaplab.ledger import Ledger
from gaplab.ledger.retry import OUTAGE_SECONDS, RetryPolicy
from gaplab.ledger.views import RowFilter
from gaplab.mirror.replay import MirrorThread
from gaplab.records import SweepRecord, TrialRecord
from gaplab.results.comparison.leaderboard import board
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage
from gaplab.storage.home import DEFAULT_HOME, Home

if TYPE_CHECKING:
    from gaplab.trial.control import Stop

SHOWN = 50
"""Trials in the table at the end; `gaplab leaderboard` has the others."""
FAILED = 1
"""Exit code of a sweep with failed trials, and of one that a problem stopped."""


def run(  # noqa: PLR0913 - every argument is an option of the command
    spec: SpecArgument,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    row: RowOption = None,
    rerun: RerunOption = None,
    home: HomeOption = Path(DEFAULT_HOME),
    address: AddressOption = "local",
    json: JsonOption = False,
) -> None:
    """Run a sweep: train unfinished trials, show progress, print results.

    Ctrl-C saves a checkpoint of every running trial. Running the same spec again, or `gaplab
    resume`, continues from there.
    """
    starting = _starting(address)
    with progress_line(f"{starting} reading {spec} first") as show:
        from gaplab.spec.files import load_spec  # imports PyTorch, which takes seconds
        from gaplab.spec.remarks import remarks_on
        from gaplab.spec.sweep import sound_outline

        resolved = load_spec(spec, profile, overrides or []).only(row or [])
        combinations = plural(len(resolved.variants), "combination")
        show(f"{starting} computing the ids of {combinations} first")
        found = sound_outline(resolved)
    sweep = SweepRun(found.sweep, Home(home).create(), address, json)
    for note in (*found.notes, *remarks_on(found.sweep.trials)):
        sweep.console.print(note)
    raise typer.Exit(sweep.execute(rerun or []))


def resume(
    sweep: Annotated[
        str | None,
        typer.Argument(metavar="SWEEP", help="Id or name of a sweep [default: the newest]."),
    ] = None,
    overrides: SettingOption = None,
    rerun: RerunOption = None,
    home: HomeOption = Path(DEFAULT_HOME),
    address: AddressOption = "local",
    json: JsonOption = False,
) -> None:
    """Continue a sweep: train its unfinished trials from checkpoints.

    The settings are those of its last `gaplab run` or `gaplab resume --set`.
    """
    from gaplab.spec.settings import with_settings
    from gaplab.spec.sweep import check_unchanged

    folder = Home(home).check().check_ledger()
    with Ledger.open(folder.ledger_url, create=False) as ledger:
        stored = ledger.stored_sweep(sweep)
        if overrides:
            stored = with_settings(stored, overrides)
        else:
            check_unchanged(ledger.unfinished(stored))
    raise typer.Exit(SweepRun(stored, folder, address, json).execute(rerun or []))


def _starting(address: str) -> str:
    return "starting Ray ..." if address == "local" else f"connecting to {address} ..."


class SweepRun:
    """One call of `run` or `resume` for one sweep."""

    def __init__(self, sweep: SweepRecord, home: Home, address: str, json: bool) -> None:
        self.sweep, self.home, self.address, self.json = sweep, home, address, json
        self.console = open_console(stderr=json, soft_wrap=True)

    def execute(self, again: Sequence[str] = ()) -> int:
        """Train the unfinished trials of the sweep.

        Args:
            again: Finished trials to train once more, see `rerun.match_trials`.

        Returns:
            The exit code: 0, 1 if trials failed, 128 plus a signal's number if one stopped the
            sweep (130 for Ctrl-C).
        """
        from gaplab.launch.search import is_open
        from gaplab.spec.sweep import inspect_data

        print_ignored(self.home, self.address)
        once_more = match_trials(again, [trial.id for trial in self.sweep.trials])
        with ExitStack() as stack:
            retry = RetryPolicy(OUTAGE_SECONDS, self.console.print)
            ledger = stack.enter_context(Ledger.open(self.home.ledger_url, retry))
            self._complete(ledger)
            if once_more:
                self._rerun(ledger, once_more)
            todo = ledger.unfinished(self.sweep)
            searching = is_open(self.sweep, ledger)
            self._announce(todo, searching)
            for note in inspect_data(todo):
                self.console.print(note)
            if (todo or searching) and (stop := self._train(todo, ledger)):
                return self._stopped(stop)
            ledger.add_sweep(self.sweep)
            return self._conclude(ledger)

    def _complete(self, ledger: Ledger) -> None:
        """Add what a search proposed earlier, and print the settings that are to change."""
        from gaplab.launch.search import with_proposed
        from gaplab.spec.settings import changes

        before = None if self.sweep.from_ledger else ledger.known_sweep(self.sweep.id)
        if before is not None:
            self.sweep = with_proposed(self.sweep, before, ledger)
            for line in changes(before, self.sweep):
                self.console.print(line)

    def _rerun(self, ledger: Ledger, trials: Sequence[str]) -> None:
        reset = rerun(ledger, Storage(str(self.home.path)), trials)
        self.console.print(
            f"rerun: {plural(len(reset), 'finished trial')} will be trained again; earlier results "
            f"are kept in {self.home.path}/trials/TRIAL/replaced"
        )

    def _announce(self, todo: Sequence[TrialRecord], searching: bool) -> None:
        total = len(self.sweep.trials)
        nothing = "the search goes on" if searching else "nothing to train"
        rest = f"{len(todo)} to train" if todo else nothing
        done = total - len(todo)
        self.console.print(
            f"sweep {self.sweep.id}: {plural(total, 'trial')}, {done} already done, {rest}"
        )

    def _train(self, todo: Sequence[TrialRecord], ledger: Ledger) -> "Stop | None":
        from gaplab.launch.driver import Listeners, run_sweep

        self.console.print(_starting(self.address))
        mirror = MirrorThread(self.home, self.sweep.id)
        with output_may_fail(), self._watcher(todo) as watcher:
            steps = watcher.add_steps if isinstance(watcher, LiveTable | Lines) else None
            listeners = Listeners((watcher, mirror.notify), watcher.add, self.console.print, steps)
            stop = run_sweep(self.home, ledger, self.sweep, self.address, listeners)
        if problem := mirror.close():
            self.console.print(problem)
        return stop

    def _watcher(self, todo: Sequence[TrialRecord]) -> Watcher:
        if self.json:
            return JsonLines()
        if can_redraw(self.console):
            return LiveTable(todo, self.console, sweep=self.sweep.trials)
        return Lines(todo, sweep=self.sweep.trials)

    def _stopped(self, stop: "Stop") -> int:
        command = self.home.command("resume", self.sweep.id)
        self.console.print(f"stopped: {stop.reason}; progress is saved. Continue with: {command}")
        return FAILED if stop.signal is None else 128 + stop.signal

    def _conclude(self, ledger: Ledger) -> int:
        states = ledger.states([trial.id for trial in ledger.trials(self.sweep.id)])
        if self.json:
            ending = {"kind": "sweep", "sweep": self.sweep.id, "states": states}
            sys.stdout.write(jsonlib.dumps(ending) + "\n")
        else:
            self._print_results(ledger)
        failed = [trial for trial, state in states.items() if state == TrialState.FAILED]
        self._print_failures(ledger, failed)
        return FAILED if failed else 0

    def _print_results(self, ledger: Ledger) -> None:
        protocols = _own_protocols(ledger, self.sweep.id)
        boards = [board(ledger, sweep=self.sweep.id, top=SHOWN, protocol=p) for p in protocols]
        for each in boards:
            table = leaderboard_table(each.rows, (), each.varied, each.total)
            self.console.print(table)
        if not boards:
            self.console.print(leaderboard_table([]))
        best = boards[0].rows[0].trial if boards else "TRIAL"
        one = ["--protocol", protocols[0]] if len(protocols) > 1 else []
        compare = self.home.command("compare", "--sweep", self.sweep.id, *one)
        commands = {
            compare: "means and spread of what was swept",
            self.home.command("report", self.sweep.id, *one): "pictures and tables in one file",
            self.home.command("show", best): "details of one trial",
            self.home.command("ui", self.sweep.id): "the same runs in MLflow",
        }
        width = max(map(len, commands))
        self.console.print(
            "Next:", *(f"  {line:<{width}}  {what}" for line, what in commands.items()), sep="\n"
        )

    def _print_failures(self, ledger: Ledger, failed: Sequence[str]) -> None:
        last = [ledger.attempts(trial)[-1] for trial in failed]
        for each in group([Failure(a.trial, a.fault, a.reason, a.node) for a in last]):
            self.console.print(each.line(), style="red")
        if failed:
            self.console.print(f"Retry with: {self.home.command('resume', self.sweep.id)}")


def _own_protocols(ledger: Ledger, sweep: str) -> list[str]:
    """Return the own protocols of a sweep's trials under which one of its trials was measured."""
    measured = {each.protocol for each in ledger.coverage(RowFilter(sweep=sweep))}
    return [p for p in dict.fromkeys(t.protocol for t in ledger.trials(sweep)) if p in measured]
