"""Run gaplab as a person does, on real Ray clusters, and read what is in its home and ledger."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL
from typing import Any

import psutil

from gaplab.ledger import Ledger
from gaplab.ledger.views import AttemptView, EvaluationView
from gaplab.states import TrialState

Driver = subprocess.Popen[str]
Key = tuple[str, int, str]
"""Trial, epoch and branch of an evaluation."""
Metrics = dict[Key, dict[str, float | None]]

FULL = os.environ.get("CHAOS") == "full"
"""Whether `make chaos` runs, not `make test`."""
TIMEOUT = 3600 if FULL else 1800
"""Seconds for one test; far more than it takes, so that no outcome depends on speed."""
GAPLAB = (sys.executable, "-m", "gaplab")
HIDDEN = ("RAY_", "GAPLAB_", "MLFLOW_")
"""Variables of the machine that commands of tests don't see begin so."""


_GATED = """
import os, time

def patch(module):
    after_step = module._TrialRun._after_step
    def wait_at_gate(run):
        after_step(run)
        while run.learner.step >= 6 and not os.path.exists(os.environ["GAPLAB_TEST_GATE"]):
            run.context.control.beat()
            if run.context.control.order() is not None:
                after_step(run)
            time.sleep(0.05)
    module._TrialRun._after_step = wait_at_gate
"""


class Gate:
    """Trials wait after their sixth step while it is closed; meanwhile they obey orders.

    So nothing ends by itself while a test looks at the ledger and then acts.

    Attributes:
        environment: the variables that processes of trials need.
    """

    def __init__(self, folder: Path) -> None:
        site, self._file = folder / "site", folder / "gate"
        site.mkdir(parents=True)
        (site / "sitecustomize.py").write_text(patched_after_import("gaplab.trial.run", _GATED))
        self.environment = {"PYTHONPATH": str(site), "GAPLAB_TEST_GATE": str(self._file)}

    def open(self) -> None:
        """Let the trials continue."""
        self._file.touch()

    def close(self) -> None:
        """Let trials wait from now on."""
        self._file.unlink(missing_ok=True)


_PATCHED = """
import importlib.abc, importlib.util, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != {name!r}:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            patch(module)
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""


def patched_after_import(name: str, patch: str) -> str:
    """Return a sitecustomize.py that changes a module when a process imports it.

    Args:
        name: the module.
        patch: source that defines `patch(module)`.
    """
    return patch + _PATCHED.format(name=name)


@dataclass
class Bench:
    """A home folder and a ledger, with the commands that work on them.

    Attributes:
        home: the home folder.
        ledger: URL of the ledger.
        environment: environment variables for the commands.
    """

    home: Path
    ledger: str
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def at(cls, home: Path) -> "Bench":
        """Build a bench whose ledger is in SQLite."""
        return cls(home, f"sqlite:///{home}/ledger.db")

    def variables(self) -> dict[str, str]:
        """Return the whole environment of a command."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(HIDDEN)}
        own = {"OMP_NUM_THREADS": "1", "COLUMNS": "120", "GAPLAB_LEDGER": self.ledger}
        return kept | own | {"RAY_worker_niceness": "0"} | self.environment

    @contextmanager
    def start(
        self, *words: object, command: Sequence[str] = GAPLAB, home: bool = True
    ) -> Iterator[Driver]:
        """Start a command in a session of its own with its output in pipes.

        Args:
            words: its arguments.
            command: the program.
            home: whether to add `--home`.
        """
        line = [*command, *map(str, words), *(("--home", str(self.home)) if home else ())]
        process = subprocess.Popen(
            line,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.variables(),
            start_new_session=True,
        )
        with process:
            try:
                yield process
            except BaseException:  # a failed test must not wait for the end of the command
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, SIGKILL)
                raise

    def call(
        self, *words: object, code: int = 0, command: Sequence[str] = GAPLAB, home: bool = True
    ) -> tuple[str, str]:
        """Run a command to its end, whose exit code must be `code`; return its output."""
        with self.start(*words, command=command, home=home) as process:
            out, err = process.communicate()
        assert process.returncode == code, f"{process.returncode}\n{out}\n{err}"
        assert "Traceback" not in out + err, out + err
        return out, err

    def gaplab(self, *words: object, code: int = 0, command: Sequence[str] = GAPLAB) -> str:
        """Run a command to its end; return what it printed, for code 2 the error."""
        out, err = self.call(*words, code=code, command=command)
        return err if code == 2 else out

    def events(self, *words: object, code: int = 0) -> list[dict[str, Any]]:
        """Run a command with `--json` to its end; return its lines."""
        return [json.loads(line) for line in self.gaplab(*words, "--json", code=code).splitlines()]

    def rows(self) -> list[EvaluationView]:
        """Read all evaluations in the ledger."""
        with Ledger.open(self.ledger) as ledger:
            return list(ledger.all_evaluations())

    def evaluations(self) -> dict[Key, EvaluationView]:
        """Read all evaluations in the ledger by their key; none may be there twice."""
        rows = self.rows()
        found = {(e.trial, e.epoch, e.branch): e for e in rows}
        assert len(found) == len(rows)
        return found

    def metrics(self) -> Metrics:
        """Read the metrics of all evaluations."""
        return {key: dict(each.metrics) for key, each in self.evaluations().items()}

    def attempts(self) -> list[AttemptView]:
        """Read all attempts; those of a trial are numbered from 1, and one at most is running."""
        with Ledger.open(self.ledger) as ledger:
            found = [ledger.attempts(trial.id) for trial in ledger.all_trials()]
        for attempts in found:
            assert [each.number for each in attempts] == list(range(1, len(attempts) + 1))
            last = (TrialState.RUNNING, TrialState.SUCCEEDED)
            assert sum(each.state in last for each in attempts) <= 1
        return [each for attempts in found for each in attempts]

    def states(self) -> Counter[TrialState]:
        """Count the trials by their state."""
        with Ledger.open(self.ledger) as ledger:
            return Counter(trial.state for trial in ledger.all_trials())

    def wait_for(self, condition: Callable[[], object], driver: Driver | None = None) -> None:
        """Wait until `condition` holds; `driver`, if given, must be running meanwhile.

        The time limit is that of the test.
        """
        while not condition():
            assert driver is None or driver.poll() is None, driver.communicate()
            time.sleep(0.5)  # a look at the ledger takes time from the driver

    def wait_for_evaluations(self, count: int, driver: Driver | None = None) -> None:
        """Wait until the ledger has so many evaluations."""
        self.wait_for(lambda: self.ready() and len(self.evaluations()) >= count, driver)

    def ready(self) -> bool:
        """Return whether the ledger exists."""
        path = Path(self.ledger.removeprefix("sqlite:///"))
        return path.exists() or not self.ledger.startswith("sqlite")

    def addresses(self, driver: Driver) -> set[str]:
        """Return the addresses on which processes of a driver listen."""
        found = set[str]()
        for process in [psutil.Process(driver.pid), *descendants(driver)]:
            with suppress(psutil.NoSuchProcess):
                sockets = process.net_connections("inet")
                found |= {each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN}
        return found

    def workers(self, driver: Driver) -> list[int]:
        """Return the ids of the processes that run trials of a driver."""
        return [each.pid for each in descendants(driver) if "ImplicitFunc" in command_line(each)]


def kill(process: int) -> bool:
    """Kill a process that may have ended by itself; return whether it was there."""
    with suppress(ProcessLookupError):
        os.kill(process, SIGKILL)
        return True
    return False


def have_ended(processes: Sequence[int]) -> bool:
    """Return whether none of these processes runs; those that nobody waits for have ended, too."""
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(each).status() != psutil.STATUS_ZOMBIE:
                return False
    return True


def descendants(driver: Driver) -> list[psutil.Process]:
    """Return all processes below a driver."""
    return psutil.Process(driver.pid).children(recursive=True)


def command_line(process: psutil.Process) -> str:
    """Return the command line of a process; empty if it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


class TwoNodes:
    """The script of cluster/local, with a cluster of its own that is running.

    Args:
        folder: an empty folder with a short path.
        environment: more variables for its nodes, and so for drivers and trials on them.

    Attributes:
        environment: the variables that a person exports, except for the addresses.
        address: address of the cluster.
        dashboard: address of its dashboard.
    """

    def __init__(self, folder: str, environment: Mapping[str, str]) -> None:
        self._script = Path(__file__).parents[2] / "cluster" / "local" / "two_nodes.sh"
        own = {"GAPLAB_CLUSTER": folder, "PYTHON": sys.executable}
        self._env = os.environ | environment | own
        self("up")
        exports = re.findall(r"^export (\w+)=(.*)$", self("env"), re.MULTILINE)
        self.environment = {name: shlex.split(value)[0] for name, value in exports}
        self.address = self.environment.pop("RAY_ADDRESS")
        self.dashboard = self.environment.pop("RAY_API_SERVER_ADDRESS")

    def __call__(self, *words: str) -> str:
        """Run the script; return what it printed."""
        line = ["bash", str(self._script), *words]
        done = subprocess.run(line, env=self._env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout
