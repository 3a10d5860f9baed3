"""What a driver checks before anything starts. The cluster is replaced by a list of nodes."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from gaplab.cli import main
from gaplab.errors import UserError
from gaplab.launch import driver
from gaplab.launch.capacity import Node
from gaplab.launch.driver import SIGNALS, Listeners, _stop_on_signals, run_sweep
from gaplab.ledger import Ledger
from gaplab.spec.files import load_spec
from gaplab.spec.sweep import expand
from gaplab.storage.home import Home
from gaplab.trial.control import Stop

Write = Callable[..., Path]
LARGE = ("resources.workers=64", "training.batch=64")
NEVER = "0123456789ab"


@pytest.fixture(autouse=True)
def small_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of one node with two CPUs; nothing can be started on it."""

    @contextmanager
    def cluster(address: str, home: Path) -> Iterator[Sequence[Node]]:
        yield (Node(2.0, 0.0),)

    monkeypatch.setattr(driver, "cluster", cluster)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def refused(spec: Path, home: Home, overrides: Sequence[str]) -> tuple[str, ...]:
    """Run a sweep that is refused; return the problems. The ledger must stay empty."""
    sweep = expand(load_spec(spec, None, overrides))
    with Ledger.open(home.ledger_url) as ledger:
        with pytest.raises(UserError) as raised:
            run_sweep(home, ledger, sweep, "local", Listeners([]))
        assert list(ledger.all_trials()) == []
        assert ledger.drivers() == []
    return raised.value.problems


def test_a_sweep_that_cannot_fit(write_spec: Write, home: Home) -> None:
    (line,) = refused(write_spec(), home, LARGE)
    assert line.startswith("resources: 64 workers x 1 CPU can't run here: the cluster (1 node, 2")


def test_settings_that_cannot_fit_are_not_stored(write_spec: Write, home: Home) -> None:
    before = expand(load_spec(write_spec()))
    with Ledger.open(home.ledger_url) as ledger:
        ledger.add_sweep(before)
        edited = expand(load_spec(write_spec(resources={"cpus_per_worker": 64})))
        assert edited.id == before.id
        with pytest.raises(UserError):
            run_sweep(home, ledger, edited, "local", Listeners([]))
        assert ledger.stored_sweep() == before


def test_a_sweep_that_starts_from_a_trial_that_does_not_exist(
    write_spec: Write, home: Home
) -> None:
    (line,) = refused(write_spec(), home, [f"training.init_from={NEVER}"])
    assert line == f"training.init_from: trial {NEVER} has not succeeded here; run it first"


def test_the_command_prints_one_line_and_exits_with_2(
    write_spec: Write,
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("GAPLAB_LEDGER", raising=False)
    settings = ("--set", "resources.cpus_per_worker=64")
    command = ["gaplab", "run", str(write_spec()), "--home", str(home.path), *settings]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "resources: 1 worker x 64 CPUs can't run here" in error
    assert len(error.splitlines()) == 1
    with Ledger.open(home.ledger_url) as ledger:
        assert list(ledger.all_evaluations()) == []


def test_signals_have_their_number_and_a_state_in_which_trials_continue() -> None:
    for number, stop in SIGNALS.items():
        assert stop.signal == number
        assert stop.state.open


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[signal.Signals]]:
    """The signals that reach this process itself; its handlers are restored."""
    found: list[signal.Signals] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, lambda number, _: found.append(signal.Signals(number)))
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_the_sweep_and_a_second_one_the_process(
    number: signal.Signals, received: list[signal.Signals]
) -> None:
    stops: list[Stop] = []
    with _stop_on_signals(stops.append):
        signal.raise_signal(number)
        signal.raise_signal(number)
    assert stops == [SIGNALS[number]]
    # A terminal that is closed sends two of them.
    assert received == ([] if number == signal.SIGHUP else [number])
    signal.raise_signal(number)
    assert received[-1] == number, "the handlers are restored"


def test_a_hangup_stays_ignored_as_under_nohup(received: list[signal.Signals]) -> None:
    stops: list[Stop] = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with _stop_on_signals(stops.append):
        signal.raise_signal(signal.SIGHUP)
        assert stops == []
        signal.raise_signal(signal.SIGTERM)
    assert stops == [SIGNALS[signal.SIGTERM]]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
