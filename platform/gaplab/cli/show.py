"""`gaplab show`: everything that the ledger stores about a trial or a sweep, or all sweeps."""

import dataclasses
import json as jsonlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from detectors.evaluation.metrics import LABELS, names_of
from gaplab.cli.options import HomeOption, JsonOption
from gaplab.cli.render.tabular import PlainTable, number, plain_table, text
from gaplab.cli.render.terminal import open_console
from gaplab.formatting import duration, flat, plural, points, signed
from gaplab.ledger import Ledger
from gaplab.ledger.views import AttemptView, EvaluationView, SweepView, TrialView
from gaplab.spec.yaml_text import dump_yaml
from gaplab.states import TrialState
from gaplab.storage.filesystem import Storage
from gaplab.storage.home import DEFAULT_HOME, Home

LAST_ATTEMPTS = 10
"""Of more attempts at a trial, only the last ones are printed."""


@dataclass(frozen=True)
class TrialDetails:
    """A trial with all of its attempts, evaluations and losses."""

    trial: TrialView
    attempts: list[AttemptView]
    evaluations: list[EvaluationView]
    losses: dict[int, dict[str, float]] = dataclasses.field(default_factory=dict)
    """Mean losses by epoch and name."""


@dataclass(frozen=True)
class SweepDetails:
    """A sweep with its trials."""

    sweep: SweepView
    trials: list[TrialView]


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
    folder = Home(home).check_ledger()
    with Ledger.open(folder.ledger_url) as ledger:
        found = ledger.sweeps() if name is None else details(ledger, name)
    console = open_console()
    if json:
        sys.stdout.write(details_json(found) + "\n")
    elif isinstance(found, list):
        print_sweeps(found, console)
    else:
        print_details(located(found, Storage(str(folder.path))), console)


def details(ledger: Ledger, name: str) -> Details:
    """Return the trial or sweep that `name` means. Raises UserError if there is none."""
    found = ledger.find(name)
    if isinstance(found, SweepView):
        return SweepDetails(found, ledger.trials(found.id))
    attempts = ledger.attempts(found.id)
    if attempts:  # the settings with which it ran, which a sweep may have replaced since
        found = dataclasses.replace(found, config=attempts[-1].config)
    evaluations, losses = ledger.evaluations(found.id, None), ledger.losses(found.id)
    return TrialDetails(found, attempts, evaluations, losses)


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
        if (uri := (code := _code(each)).get("uri"))
        else each
        for each in found.attempts
    ]
    return TrialDetails(found.trial, attempts, evaluations)


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
    columns = [
        *(text("trial"), text("assignment", rank=0), text("data set")),
        *(number(heading) for heading in ("seed", "epochs")),
        text("state", rank=0),
    ]
    rows = (
        [each.id, each.assignment, each.dataset, str(each.seed), str(each.epochs), each.state]
        for each in found.trials
    )
    console.print(plain_table(columns, rows))
    console.print(found.sweep.spec)


def _print_trial(found: TrialDetails, console: Console) -> None:
    trial = found.trial
    console.print(f"trial {trial.id}: {trial.assignment} on {trial.dataset}, {trial.state}")
    console.print(dump_yaml(trial.config))
    _print_attempts(found.attempts, console)
    if found.losses:
        console.print(_losses(found.losses))
    _print_evaluations(found.evaluations, console)
    if not found.evaluations:
        return
    last = _last(found)
    _print_metrics(last, console)
    alike = [e for e in found.evaluations if (e.protocol, e.truth) == (last.protocol, last.truth)]
    for evaluation in _last_of_branches(alike):
        console.print(_heading(evaluation))
        console.print(_classes(evaluation))


def _print_attempts(attempts: Sequence[AttemptView], console: Console) -> None:
    """Print the last attempts: where and with which code they ran, their cost, and their end.

    Below the table are the differences between the attempts.
    """
    last = attempts[-LAST_ATTEMPTS:]
    console.print(_attempts(last))
    lines = [line for attempt in last for line in _endings(attempt)]
    lines += [*_codes(last), *_changed_modules(last), *_differences(last)]
    if hidden := len(attempts) - len(last):
        lines.append(f"{plural(hidden, 'earlier attempt')}: see --json")
    for line in lines:
        console.print(line)


def _attempts(attempts: Sequence[AttemptView]) -> PlainTable:
    """Return the table of attempts; with a column of GPU time if any was used."""
    gpu = any(a.gpu_seconds for a in attempts)
    columns = [
        number("attempt"),
        text("state", wrap=False, rank=0),
        replace(text("code", wrap=False), marks=(" ",)),
        *(text(heading, rank=2) for heading in ("node", "device")),
        *(number(heading) for heading in ("wall", "CPU", *(["GPU"] if gpu else []), "memory")),
    ]
    return plain_table(columns, (_attempt(each, gpu) for each in attempts))


def _attempt(a: AttemptView, gpu: bool) -> list[str]:
    """Return the cells of one attempt."""
    seconds = (a.wall_seconds, a.cpu_seconds, *([a.gpu_seconds] if gpu else []))
    return [
        *(str(a.number), a.state, _commit(a), a.node, a.device),
        *("-" if each is None else duration(each) for each in seconds),
        "-" if a.peak_memory_mib is None else f"{a.peak_memory_mib:.0f} MiB",
    ]


def _endings(attempt: AttemptView) -> list[str]:
    """Return the notes of an attempt, and why it ended."""
    fault = f" ({attempt.fault})" if attempt.fault else ""
    ending = f"attempt {attempt.number} {attempt.state}{fault}: {attempt.reason}"
    notes = [f"attempt {attempt.number}: {note}" for note in attempt.notes]
    return notes + ([ending] if attempt.reason else [])


def _code(attempt: AttemptView) -> dict[str, Any]:
    code: dict[str, Any] = attempt.provenance.get("code", {})
    return code


def _commit(attempt: AttemptView) -> str:
    """Return `1a2b3c4d` or `1a2b3c4d dirty`; without a commit `=` and a digest of the modules."""
    code = _code(attempt)
    if code.get("commit"):
        state = {True: " dirty", False: "", None: " ?"}[code["dirty"]]
        return f"{code['commit'][:8]}{state}"
    return f"={code['sources'][:8]}" if code else "-"


def _codes(attempts: Sequence[AttemptView]) -> list[str]:
    """Return a line per code that is not exactly a commit, and a line if the codes differ."""
    found = _group(attempts, lambda a: jsonlib.dumps(_code(a)))
    lines = [_changes(jsonlib.loads(code), numbers) for code, numbers in found.items()]
    if len(found) > 1:
        codes = ", ".join(f"{name} ({n})" for name, n in _group(attempts, _version).items())
        modules = _group(attempts, lambda a: str(a.provenance.get("sources")))
        same = "; the modules of gaplab and detectors were the same" if len(modules) == 1 else ""
        lines.append(f"attempts ran with different code: {codes}{same}")
    return [line for line in lines if line]


def _version(attempt: AttemptView) -> str:
    return f"{_commit(attempt)} {_code(attempt).get('digest', '')}".strip()


def _changes(code: dict[str, Any], numbers: str) -> str:
    """Return a line about the changes on top of a commit; empty if there are none."""
    parts = []
    if code.get("uri"):
        parts.append(f"changes {code['digest']} on top of {code['commit'][:8]}: {code['uri']}")
    if code.get("left_out"):
        parts.append(f"changed but not kept: {', '.join(code['left_out'])}")
    if code.get("note"):
        parts.append(code["note"])
    return f"code of attempt {numbers}: {'; '.join(parts)}" if parts else ""


def _changed_modules(attempts: Sequence[AttemptView]) -> list[str]:
    """Return a line per attempt whose worker imported other modules than its driver."""
    return [
        f"attempt {a.number}: its worker had other modules of gaplab or detectors than its driver"
        for a in attempts
        if a.provenance.get("sources", _code(a).get("sources")) != _code(a).get("sources")
    ]


def _differences(attempts: Sequence[AttemptView]) -> list[str]:
    """Return the versions, hardware, settings and data that differ between attempts.

    Attempts that ended before they reported any are not compared.
    """
    reported = [a for a in attempts if "packages" in a.provenance]
    facts = [
        {k: v for k, v in a.provenance.items() if k not in ("code", "sources")} for a in reported
    ]
    lines = _unequal(attempts, [a.config for a in attempts]) + _unequal(reported, facts)
    return ["not the same in all attempts:", *(f"  {line}" for line in lines)] if lines else []


def _unequal(attempts: Sequence[AttemptView], facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line per key of `facts`, one for each attempt, whose values are not all the same."""
    known = {a.id: flat(each) for a, each in zip(attempts, facts, strict=True)}
    lines = []
    for key in dict.fromkeys(key for each in known.values() for key in each):
        values = _group(attempts, lambda a, key=key: _text(known[a.id].get(key, "-")))  # type: ignore[misc]
        if len(values) > 1:
            lines.append(f"{key}: " + ", ".join(f"{v} ({n})" for v, n in values.items()))
    return lines


def _text(value: Any) -> str:
    """Return text as it is, and any other value as JSON."""
    return value if isinstance(value, str) else jsonlib.dumps(value)


def _group(attempts: Sequence[AttemptView], key: Callable[[AttemptView], str]) -> dict[str, str]:
    """Return the numbers of the attempts for each value of `key`."""
    found: dict[str, list[str]] = {}
    for each in attempts:
        found.setdefault(key(each), []).append(str(each.number))
    return {value: ", ".join(numbers) for value, numbers in found.items()}


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
        console.print(f"candidates: {evaluation.candidates}")


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
