"""`gaplab show`: everything that the ledger stores about a trial or a sweep, or all sweeps."""

import dataclasses
import json as jsonlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from detectors.evaluation.metrics import LABELS, POSITIVES, names_of
from gaplab.cli.opening import read_ledger
from gaplab.cli.options import HomeOption, JsonOption
from gaplab.cli.render.attempts import code_of, print_attempts
from gaplab.cli.render.tabular import PlainTable, number, plain_table, text
from gaplab.cli.render.terminal import open_console
from gaplab.cli.render.varied import trial_table
from gaplab.formatting import by_branch, points, printable, signed
from gaplab.ledger import Reader
from gaplab.ledger.views import (
    AttemptView,
    EvaluationView,
    MeasurementView,
    SweepView,
    TrialView,
)
from gaplab.spec.varied import varied_keys
from gaplab.spec.yaml_text import dump_yaml
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage
from gaplab.storage.home import DEFAULT_HOME, Home


@dataclass(frozen=True)
class TrialDetails:
    """A trial with all that the ledger stores about it."""

    trial: TrialView
    attempts: list[AttemptView]
    evaluations: list[EvaluationView]
    losses: dict[int, dict[str, float]] = dataclasses.field(default_factory=dict)
    """Mean losses by epoch and name."""
    positives: dict[int, dict[str, float]] = dataclasses.field(default_factory=dict)
    """Scores and ranks of positive points by epoch and name."""


@dataclass(frozen=True)
class SweepDetails:
    """A sweep with its trials."""

    sweep: SweepView
    trials: list[TrialView]
    varied: list[str] = dataclasses.field(default_factory=list)
    """Dotted keys in which the trials differ."""


Details = TrialDetails | SweepDetails


def show(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Id of a trial (or its beginning), or id or name of a sweep [default: list all "
            "sweeps].",
        ),
    ] = None,
    home: HomeOption = Path(DEFAULT_HOME),
    json: JsonOption = False,
) -> None:
    """Show everything stored about a trial or a sweep."""
    folder = Home(home)
    with read_ledger(folder) as ledger:
        measured = ledger.find_measurements(name) if name else []
        found = ledger.sweeps() if name is None else [] if measured else details(ledger, name)
    console = open_console()
    if measured:
        _print_measurements(measured, console, json)
        return
    if json:
        sys.stdout.write(details_json(found) + "\n")
    elif isinstance(found, list):
        print_sweeps(found, console)
    else:
        print_details(located(found, Storage(str(folder.path))), console)


def _print_measurements(found: list[MeasurementView], console: Console, json: bool) -> None:
    """Print everything stored about detections of another tool."""
    if json:
        plain = [dataclasses.asdict(each) for each in found]
        sys.stdout.write(jsonlib.dumps(plain, indent=2, default=_plain) + "\n")
        return
    first = found[0]
    family = f" ({first.family})" if first.family else ""
    console.print(
        f"measurement {first.id}: {first.name}{family} on {first.dataset}, ground truth "
        f"{first.truth}"
    )
    notes = [f"note: {printable(note)}" for note in first.about.get("notes", [])]
    source = {key: value for key, value in first.source.items() if value}
    console.print("\n".join([*notes, dump_yaml({"source": source}).rstrip()]), soft_wrap=True)
    columns = [text("protocol", rank=0), *map(number, ("AP", "AP\nNMS", "gap", "AR"))]
    rows = [
        [
            *(each.protocol, points(each.metrics["ap"]), points(each.metrics["ap_nms"])),
            *(signed(each.metrics["gap"]), points(each.metrics.get("ar"))),
        ]
        for each in found
    ]
    console.print(plain_table(columns, rows))


def details(ledger: Reader, name: str) -> Details:
    """Return the trial or sweep that `name` means. Raises UserError if there is none."""
    found = ledger.find(name)
    if isinstance(found, SweepView):
        trials = ledger.trials(found.id)
        return SweepDetails(found, trials, varied_keys(each.config for each in trials))
    attempts = ledger.attempts(found.id)
    if attempts:  # the settings with which it ran, which a sweep may have replaced since
        found = dataclasses.replace(found, config=attempts[-1].config)
    epochs = ledger.losses(found.id), ledger.positives(found.id)
    return TrialDetails(found, attempts, ledger.evaluations(found.id, None), *epochs)


def located(found: Details, storage: Storage) -> Details:
    """Return the details with absolute paths of candidates and code, for people to copy."""
    if isinstance(found, SweepDetails):
        return found
    evaluations = [
        replace(each, candidates=storage.locate(each.candidates)) if each.candidates else each
        for each in found.evaluations
    ]
    attempts = [
        replace(each, provenance=each.provenance | {"code": code | {"uri": storage.locate(uri)}})
        if (uri := (code := code_of(each)).get("uri"))
        else each
        for each in found.attempts
    ]
    return replace(found, attempts=attempts, evaluations=evaluations)


def details_json(found: Details | list[SweepView]) -> str:
    """Return the details as JSON: datetimes in ISO 8601, paths relative to the home folder."""
    plain = [dataclasses.asdict(s) for s in found] if isinstance(found, list) else found.__dict__
    return jsonlib.dumps(plain, indent=2, default=_plain)


def print_sweeps(sweeps: list[SweepView], console: Console) -> None:
    """Print one line per sweep, newest first."""
    columns = [
        text("sweep"),
        *(number(heading) for heading in ("trials", "succeeded", "failed")),
        text("added", wrap=False),
    ]
    rows = (
        [
            *(each.id, str(each.total)),
            *(str(each.counts[s]) for s in (TrialState.SUCCEEDED, TrialState.FAILED)),
            f"{each.created_at:%Y-%m-%d %H:%M} UTC",
        ]
        for each in sweeps
    )
    console.print(
        plain_table(columns, rows) if sweeps else "no sweeps yet; start one with: gaplab run SPEC"
    )


def print_details(found: Details, console: Console) -> None:
    """Print a page about one trial or sweep."""
    if isinstance(found, SweepDetails):
        _print_sweep(found, console)
    else:
        _print_trial(found, console)


def _print_sweep(found: SweepDetails, console: Console) -> None:
    console.print(f"sweep {found.sweep.id}, added {found.sweep.created_at:%Y-%m-%d %H:%M} UTC")
    states = [each.state for each in found.trials]
    console.print(trial_table(found.trials, states, ("state", "")))
    console.print(found.sweep.spec, soft_wrap=True)


def _print_trial(found: TrialDetails, console: Console) -> None:
    trial = found.trial
    console.print(f"trial {trial.id}: {trial.assignment} on {trial.dataset}, {trial.state}")
    console.print(dump_yaml(trial.config), soft_wrap=True)
    print_attempts(found.attempts, console)
    if found.losses:
        console.print(_losses(found.losses))
    if found.positives:
        console.print(_positives(found.positives))
    _print_evaluations(found.evaluations, console)
    if not found.evaluations:
        return
    last = _last(found)
    _print_metrics(last, console)
    alike = [e for e in found.evaluations if (e.protocol, e.truth) == (last.protocol, last.truth)]
    for evaluation in _last_of_branches(alike):
        console.print(_heading(evaluation))
        console.print(_classes(evaluation))


def _last(found: TrialDetails) -> EvaluationView:
    """Return the last evaluation, if possible of the trial's own data, branch and protocol."""
    own = found.trial.protocol
    return max(
        found.evaluations, key=lambda e: (not e.truth, e.primary, e.protocol == own, e.epoch)
    )


def _print_evaluations(evaluations: list[EvaluationView], console: Console) -> None:
    """Print all evaluations; those of the crowd evaluator have a table for their own metrics."""
    crowd = [e for e in evaluations if "mmr" in e.metrics]
    coco = [e for e in evaluations if "mmr" not in e.metrics]
    if coco or not crowd:
        console.print(_evaluations(coco, "ar"))
    if crowd:
        console.print(_evaluations(crowd, "mmr", "recall"))


def _losses(losses: Mapping[int, Mapping[str, float]]) -> PlainTable:
    """Return a table of the mean losses, one line per epoch."""
    names = list(dict.fromkeys(name for each in losses.values() for name in each))
    columns = [number("epoch"), *(number(f"loss\n{name}") for name in names)]
    rows = (
        [str(epoch), *(f"{each[name]:.4g}" if name in each else "-" for name in names)]
        for epoch, each in losses.items()
    )
    return plain_table(columns, rows)


def _positives(positives: Mapping[int, Mapping[str, float]]) -> PlainTable:
    """Return a table of the scores and ranks of positive points, one line per epoch and branch."""
    columns = [
        *(number("epoch"), text("branch", wrap=False, rank=0)),
        *(number(f"positives\n{name.replace('_', ' ')}") for name in POSITIVES),
    ]
    rows = (
        [str(epoch), branch, *(f"{values[name]:.3f}" for name in POSITIVES)]
        for epoch, each in positives.items()
        for branch, values in by_branch(each).items()
    )
    return plain_table(columns, rows)


def _evaluations(evaluations: list[EvaluationView], *others: str) -> PlainTable:
    """Return a table of evaluations with AP and the metrics in `others`.

    Digests of ground truth are shown if there are any.
    """
    truth = ["truth"] if any(e.truth for e in evaluations) else []
    keys = [key for metric in others for key in (metric, f"{metric}_nms")]
    headings = [f"{LABELS[metric]}{nms}" for metric in others for nms in ("", "\nNMS")]
    columns = [
        number("epoch"),
        *(text("branch", wrap=False, rank=0), text("protocol", rank=0)),
        *(text(heading, wrap=False, rank=0) for heading in truth),
        *(number(heading, rank=0) for heading in ("AP", "AP\nNMS", "gap")),
        *(number(heading) for heading in headings),
    ]
    rows = (
        [
            *(str(e.epoch), e.branch, e.protocol, *(e.truth or "own" for _ in truth)),
            *(points(e.metrics["ap"]), points(e.metrics["ap_nms"]), signed(e.metrics["gap"])),
            *(points(e.metrics.get(key)) for key in keys),
        ]
        for e in evaluations
    )
    return plain_table(columns, rows)


def _print_metrics(evaluation: EvaluationView, console: Console) -> None:
    """Print all metrics but AP, and where the candidates are stored."""
    m, rule = evaluation.metrics, evaluation.rule
    names = LABELS | ({"ar": f"AR@{rule['max_dets']}"} if rule else {})
    columns = [text("metric"), *(number(heading) for heading in ("without", "with NMS", "gap"))]
    rows = [
        [
            *(names.get(name, name), points(m[name])),
            *(points(m.get(f"{name}_nms")), signed(m.get(f"{name}_gap"))),
        ]
        for name in _further(m)
    ]
    if rows:
        console.print(_heading(evaluation))
        console.print(plain_table(columns, rows))
    if evaluation.candidates:
        console.print(f"candidates: {evaluation.candidates}", soft_wrap=True)


def _further(metrics: Mapping[str, float | None]) -> list[str]:
    """Return the names of all metrics but AP, without those of their values with NMS and gaps."""
    ap = set(names_of("ap"))
    found = [m for m in metrics if m not in ap and _base(m) not in metrics]
    known = list(LABELS)
    return sorted(found, key=lambda m: known.index(m) if m in LABELS else len(known))


def _base(name: str) -> str | None:
    """Return the metric of which `name` is the value with NMS or the gap, if it is one."""
    base, _, suffix = name.rpartition("_")
    return base if suffix in ("nms", "gap") else None


def _classes(evaluation: EvaluationView) -> PlainTable:
    columns = [text("class"), *(number(heading) for heading in ("AP", "AP NMS", "gap"))]
    rows = ([c.name, points(c.ap), points(c.ap_nms), signed(c.gap)] for c in evaluation.classes)
    return plain_table(columns, rows)


def _last_of_branches(evaluations: list[EvaluationView]) -> list[EvaluationView]:
    last = {(e.branch, e.protocol): e for e in sorted(evaluations, key=lambda e: e.epoch)}
    return list(last.values())


def _heading(of: EvaluationView) -> str:
    return f"branch {of.branch}, epoch {of.epoch}, protocol {of.protocol}"


def _plain(value: Any) -> Any:
    """Convert a value that JSON has no form for."""
    if isinstance(value, datetime):
        return value.isoformat()
    return dataclasses.asdict(value)
