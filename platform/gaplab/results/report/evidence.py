"""What a report is made of: trials, their evaluations under one protocol, losses and costs."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, TypeVar

from detectors import RESULTS_VERSION
from detectors.evaluation.protocol import PROTOCOLS
from gaplab.errors import UserError
from gaplab.formatting import one_line, plural, printable
from gaplab.identity import canonical, digest
from gaplab.ledger import Reader
from gaplab.ledger.lookup import suggestion
from gaplab.ledger.views import EvaluationView, SweepView, TrialView
from gaplab.results.candidates.reevaluate import find_trials
from gaplab.results.intervals import Interval, mean_interval
from gaplab.spec.varied import short_names, trial_label, varied_cells, varied_keys
from gaplab.spec.yaml_text import YamlError, parse_yaml
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage
from gaplab.storage.home import Home

T = TypeVar("T")

SHOWN = 7
"""Number of settings that have a colour of their own in figures."""


class Missing(Exception):  # noqa: N818 - not an error: the report says it and goes on
    """A section can't be made. The message says why, in one sentence."""


@dataclass(frozen=True)
class Run:
    """One trial with everything that the ledger holds about it.

    Attributes:
        trial: the trial.
        evaluations: those of the branch kept at inference under the protocol of the report, by
            epoch.
        losses: mean losses by epoch and name.
        cpu_seconds: CPU time of all attempts.
        gpu_seconds: GPU time of all attempts.
        fingerprint: that of the data in the attempt of the last evaluation; empty if unknown.
    """

    trial: TrialView
    evaluations: tuple[EvaluationView, ...]
    losses: dict[int, dict[str, float]] = field(repr=False)
    cpu_seconds: float
    gpu_seconds: float
    fingerprint: str

    @property
    def finished(self) -> bool:
        """Whether the trial has succeeded and its last epoch was evaluated."""
        return self.trial.state == TrialState.SUCCEEDED and bool(self.evaluations)

    @property
    def last(self) -> EvaluationView:
        """The last evaluation; there is one if the trial has finished."""
        return self.evaluations[-1]

    def value(self, metric: str) -> float | None:
        """Return a metric of the last evaluation; None if it has no value, or there is none."""
        return self.last.metrics.get(metric) if self.evaluations else None


@dataclass(frozen=True)
class Setting:
    """Trials that differ in their seed alone.

    Attributes:
        label: assignment and varied keys, such as `poto alpha=0.5`; without control characters.
        cells: the value of each varied key as text; empty where the trials have no such key.
        runs: all its trials, by seed.
    """

    label: str
    cells: tuple[str, ...]
    runs: tuple[Run, ...]

    @property
    def finished(self) -> list[Run]:
        """The trials that have finished."""
        return [run for run in self.runs if run.finished]

    def values(self, metric: str) -> list[float]:
        """Return the metric of every finished trial that has it."""
        found = [run.value(metric) for run in self.finished]
        return [value for value in found if value is not None]

    def mean(self, metric: str) -> float | None:
        """Return the mean over finished trials; None without any."""
        values = self.values(metric)
        return fmean(values) if values else None

    def interval(self, metric: str) -> Interval | None:
        """Return the 95 % interval of the mean over seeds; None for a single seed."""
        return mean_interval(self.values(metric))


@dataclass(frozen=True)
class Evidence:
    """Everything that the sections of a report read.

    Attributes:
        title: name of the sweep, or what the trials are.
        sweep: the sweep; None for single trials.
        question: the question of the sweep's spec; may be empty.
        protocol: key of the protocol of all evaluations.
        keys: short names of the varied keys, by dotted key.
        settings: highest mean AP without NMS first; those without finished trials last.
        home: the folder with candidates and checkpoints.
    """

    title: str
    sweep: SweepView | None
    question: str
    protocol: str
    keys: dict[str, str]
    settings: tuple[Setting, ...]
    home: Home = field(repr=False)

    @property
    def storage(self) -> Storage:
        """The files of the home folder."""
        return Storage(str(self.home.path))

    @property
    def identity(self) -> str:
        """The id of the sweep or of the only trial; else a digest of the ids of all trials."""
        if self.sweep:
            return self.sweep.id
        ids = sorted(run.trial.id for run in self.runs)
        return ids[0] if len(ids) == 1 else f"trials-{digest(canonical(ids), 12)}"

    @property
    def runs(self) -> list[Run]:
        """All trials."""
        return [run for setting in self.settings for run in setting.runs]

    @property
    def ranked(self) -> list[Setting]:
        """The settings that have finished trials, highest mean AP without NMS first."""
        return [setting for setting in self.settings if setting.finished]

    def shown(self, most: int = SHOWN) -> list[Setting]:
        """Return at most `most` of the ranked settings: the first, the last and evenly between."""
        return spread(self.ranked, most)

    def states(self) -> Counter[TrialState]:
        """Count the trials in each state."""
        return Counter(run.trial.state for run in self.runs)


def spread(items: Sequence[T], most: int) -> list[T]:
    """Return at most `most` items: the first, the last and evenly between."""
    if len(items) <= most:
        return list(items)
    last = max(most - 1, 1)
    return [items[round(i * (len(items) - 1) / last)] for i in range(most)]


def ordered(values: Iterable[str]) -> list[str]:
    """Return different values: numbers by size, other texts in the order given."""
    found = list(dict.fromkeys(values))
    try:
        return sorted(found, key=float)
    except ValueError:
        return found


def short(label: str, most: int = 22) -> str:
    """Return a label of at most `most` characters; a longer one ends with an ellipsis."""
    return label if len(label) <= most else f"{label[: most - 1]}…"


def gather(
    ledger: Reader, home: Home, names: Sequence[str], protocol: str | None = None
) -> Evidence:
    """Read what a report needs from the ledger.

    Args:
        ledger: an open ledger.
        home: the home folder.
        names: each a sweep or a trial.
        protocol: key of the protocol; None: the trials' own.

    Raises:
        UserError: a name or the protocol is unknown, the trials' own protocols differ, or no trial
            has been evaluated under the protocol.
    """
    trials = find_trials(ledger, names)
    protocol = _known(ledger, protocol) if protocol else _own_protocol(trials, names)
    runs = [_run(ledger, trial, protocol) for trial in trials]
    if not any(run.evaluations for run in runs):
        raise _nothing_measured(trials, names, protocol)
    sweep = _only_sweep(ledger, names)
    keys = varied_keys([trial.config for trial in trials])
    return Evidence(
        title=printable(sweep.name) if sweep else plural(len(trials), "trial"),
        sweep=sweep,
        question=_question(sweep),
        protocol=protocol,
        keys={key: printable(name) for key, name in short_names(keys).items()},
        settings=_settings(runs, keys),
        home=home,
    )


def _known(ledger: Reader, protocol: str) -> str:
    """Return the key of a protocol. Raises UserError, with the nearest name, if there is none."""
    known = {*PROTOCOLS, *ledger.protocols()}
    if protocol not in known:
        raise UserError(f"--protocol {protocol}: no such protocol; {suggestion(protocol, known)}")
    return protocol


def _own_protocol(trials: Sequence[TrialView], names: Sequence[str]) -> str:
    """Return the own protocol of all trials. Raises UserError if they have several."""
    own = sorted({trial.protocol for trial in trials})
    if len(own) == 1:
        return own[0]
    if not own:
        raise UserError(f"{' '.join(names)}: has no trials, so there is nothing to report")
    raise UserError(
        f"{' '.join(names)}: trials were measured under the protocols {' and '.join(own)}, whose "
        f"gaps can't be compared; choose one with --protocol, after: gaplab reevaluate "
        f"{' '.join(names)} --protocol {own[0]}"
    )


def _run(ledger: Reader, trial: TrialView, protocol: str) -> Run:
    attempts = ledger.attempts(trial.id)
    every = ledger.evaluations(trial.id)
    own = tuple(each for each in every if each.primary and each.protocol == protocol)
    by_id = {each.id: str(each.provenance.get("data", "")) for each in attempts}
    return Run(
        trial,
        own,
        ledger.losses(trial.id),
        sum(each.cpu_seconds or 0.0 for each in attempts),
        sum(each.gpu_seconds or 0.0 for each in attempts),
        by_id.get(own[-1].attempt, "") if own else "",
    )


def _nothing_measured(
    trials: Sequence[TrialView], names: Sequence[str], protocol: str
) -> UserError:
    what = f"{' '.join(names)}: none of {plural(len(trials), 'trial')} has been evaluated"
    if any(trial.protocol != protocol for trial in trials):
        remedy = f"gaplab reevaluate {' '.join(names)} --protocol {protocol}"
        return UserError(f"{what} under {protocol!r}; measure them with: {remedy}")
    return UserError(f"{what} yet; see: gaplab status")


def _only_sweep(ledger: Reader, names: Sequence[str]) -> SweepView | None:
    """Return the sweep if it is all that is reported."""
    found = ledger.find(names[0]) if len(names) == 1 else None
    return found if isinstance(found, SweepView) else None


def _question(sweep: SweepView | None) -> str:
    """Return the question in the spec of a sweep; empty if it has none."""
    spec: Any = None
    with suppress(YamlError):  # of a spec that an older version accepted
        spec = parse_yaml(sweep.spec) if sweep else None
    question = spec.get("question") if isinstance(spec, dict) else None
    return one_line(str(question)) if question else ""


def _settings(runs: Sequence[Run], keys: Sequence[str]) -> tuple[Setting, ...]:
    """Group the trials that differ in their seed alone, best first."""
    alike = defaultdict[str, list[Run]](list)
    for run in runs:
        own = [run.trial.dataset, run.trial.results_version]
        alike[json.dumps([*own, *varied_cells(run.trial.config, keys)])].append(run)
    found = [_setting(members, keys) for members in alike.values()]
    return tuple(sorted(found, key=_rank))


def _setting(members: Sequence[Run], keys: Sequence[str]) -> Setting:
    first = members[0].trial
    label = trial_label(first.config, keys) or first.assignment
    stale = "" if first.results_version == RESULTS_VERSION else " (older results version)"
    cells = tuple(printable(cell) for cell in varied_cells(first.config, keys))
    ordered = sorted(members, key=lambda run: run.trial.seed)
    return Setting(printable(label) + stale, cells, tuple(ordered))


def _rank(setting: Setting) -> tuple[float, str]:
    mean = setting.mean("ap")
    return (float("inf") if mean is None else -mean, setting.label)
