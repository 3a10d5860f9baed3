"""`gaplab reevaluate`, `explain` and `protocols`: measure stored candidates, without training."""

import json as jsonlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from detectors.evaluation.protocol import PROTOCOLS, TOOLS
from gaplab.cli.opening import read_ledger, read_ledger_if_any
from gaplab.cli.options import MAX_EPOCH, BranchOption, HomeOption, JsonOption
from gaplab.cli.render.progress import progress_line
from gaplab.cli.render.score_gap import print_score_gap
from gaplab.cli.render.tabular import PlainTable, number, plain_table, text
from gaplab.cli.render.terminal import open_console
from gaplab.errors import UserError
from gaplab.formatting import points, signed
from gaplab.ledger import Ledger
from gaplab.ledger.views import EvaluationView, MeasurementView
from gaplab.spec.protocols import parse_protocol, parse_protocols, protocol_key, rule_of
from gaplab.spec.yaml_text import flow_yaml
from gaplab.storage.filesystem import Storage
from gaplab.storage.home import DEFAULT_HOME, Home

if TYPE_CHECKING:
    from detectors.evaluation.diagnosis import Diagnosis
    from detectors.evaluation.protocol import Protocol
    from gaplab.results.candidates.explain import Explanation
    from gaplab.results.candidates.reevaluate import Source
    from gaplab.results.candidates.truth import TruthOptions

EpochOption = Annotated[
    int | None,
    typer.Option(
        min=1, max=MAX_EPOCH, help="Epoch whose candidates to use [default: the last one stored]."
    ),
]
DataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="data.KEY=VALUE",
        help="Where the data is now, as in data.root=/new/folder; repeatable.",
    ),
]
OtherOption = Annotated[
    bool,
    typer.Option(
        "--other-truth",
        help="Measure against the data as it is, whatever the trial was trained on. Results are "
        "kept apart from others, under a digest of the ground truth.",
    ),
]
USUAL = tuple(
    name for name, each in PROTOCOLS.items() if name not in TOOLS and each.evaluator != "masks"
)
"""Protocols of `reevaluate` if none is given: those of papers for boxes."""
_PROTOCOL = "Name of a preset, a mapping such as '{preset: defcn, nms_iou: 0.5}', or a YAML file"


def reevaluate(  # noqa: PLR0913 - every argument is an option of the command
    names: Annotated[
        list[str], typer.Argument(metavar="NAME", help="Trials, or sweeps for all their trials.")
    ],
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{_PROTOCOL}; repeatable [default: every paper's preset that the "
            "candidates serve, and the trial's own protocol]."
        ),
    ] = None,
    branch: Annotated[
        str | None, typer.Option(help="o2o, o2m or o2f [default: every branch].")
    ] = None,
    epoch: EpochOption = None,
    settings: DataOption = None,
    other_truth: OtherOption = False,
    home: HomeOption = Path(DEFAULT_HOME),
    json: JsonOption = False,
) -> None:
    """Measure trials under other protocols, without training.

    The candidates that a trial stored at its last epoch are measured again. An evaluation that the
    ledger already has is not repeated; metrics that an earlier release did not measure are added.
    The data must be that of the training; it may have moved.
    """
    from gaplab.results.candidates.truth import TruthOptions

    folder = Home(home).check().check_ledger()
    truth = TruthOptions(tuple(settings or ()), other_truth)
    rules = parse_protocols(protocol or USUAL)
    wanted = _Wanted(rules, not protocol, branch, epoch, truth)
    with (
        Ledger.open(folder.ledger_url, create=False) as ledger,
        progress_line("reading candidates") as show,
    ):
        subjects = _find(ledger, Storage(str(folder.path)), names, wanted)
        found = []
        for each in _evaluations(ledger, Storage(str(folder.path)), subjects, wanted):
            found.append(each)
            show(f"{len(found)} of {len(subjects) * len(wanted.protocols)} evaluations")
            if json:
                _print(jsonlib.dumps(asdict(each), default=str))
    notes = "".join(f"{line}\n" for line in _left_out(found, len(subjects), wanted))
    if json:
        sys.stderr.write(notes)
    else:
        _print_reevaluations(found, subjects, folder)
        sys.stdout.write(notes)


@dataclass(frozen=True)
class _Wanted:
    """What is measured again, and how. `branch` and `epoch` as for `find_sources`."""

    protocols: "Sequence[Protocol]"
    fitting: bool
    """Whether to leave out protocols that candidates do not serve."""
    branch: str | None
    epoch: int | None
    truth: "TruthOptions"


@dataclass(frozen=True)
class _Subjects:
    """The candidates of trials, and the measurements of each set of detections."""

    sources: "Sequence[Source]"
    measured: Sequence[Sequence[MeasurementView]]

    def __len__(self) -> int:
        return len(self.sources) + len(self.measured)

    def labels(self) -> dict[str, str]:
        """Return the assignment of each trial and the name of each measurement, by id."""
        trials = {each.trial.id: each.trial.assignment for each in self.sources}
        return trials | {views[0].id: views[0].name for views in self.measured}


def _find(ledger: Ledger, storage: Storage, names: Sequence[str], wanted: _Wanted) -> _Subjects:
    """Return what the names mean. Raises UserError with all problems."""
    from gaplab.results.candidates.reevaluate import find_sources, find_trials
    from gaplab.results.candidates.truth import OWN
    from gaplab.results.measurement.remeasure import split_names

    measured, others = split_names(ledger, names)
    if measured and (wanted.branch, wanted.epoch, wanted.truth) != (None, None, OWN):
        raise UserError(
            f"{measured[0][0].name}: a measurement, which has no branch, epoch and data of a "
            "trial; leave out --branch, --epoch, --set and --other-truth"
        )
    trials = find_trials(ledger, others)
    return _Subjects(find_sources(ledger, storage, trials, wanted.epoch, wanted.branch), measured)


def _evaluations(
    ledger: Ledger, storage: Storage, subjects: _Subjects, wanted: _Wanted
) -> Iterator[EvaluationView]:
    """Measure what has not been measured, and yield all evaluations. Raises UserError."""
    from gaplab.results.candidates.reevaluate import reevaluate
    from gaplab.results.measurement.remeasure import remeasure

    rules, fit = wanted.protocols, wanted.fitting
    yield from reevaluate(ledger, subjects.sources, rules, storage, wanted.truth, fitting=fit)
    yield from remeasure(ledger, subjects.measured, rules, storage, fitting=fit)


def _left_out(found: Sequence[EvaluationView], subjects: int, wanted: _Wanted) -> Iterator[str]:
    """Yield a line about the protocols that some candidates were not measured under."""
    done = Counter(each.protocol for each in found)
    lacking = {key: subjects - done[key] for key in map(protocol_key, wanted.protocols)}
    names = [f"{key} ({count} of {subjects})" for key, count in lacking.items() if count]
    if names:
        yield (
            f"Left out, because these candidates lack what the protocol needs: {', '.join(names)}; "
            "name it with --protocol to see what it needs"
        )


def explain(  # noqa: PLR0913 - every argument is an option of the command
    name: Annotated[str, typer.Argument(metavar="TRIAL", help="Id of a trial, or its beginning.")],
    protocol: Annotated[str, typer.Option(help=f"{_PROTOCOL}.")] = "default",
    branch: BranchOption = None,
    epoch: EpochOption = None,
    settings: DataOption = None,
    other_truth: OtherOption = False,
    home: HomeOption = Path(DEFAULT_HOME),
    json: JsonOption = False,
) -> None:
    """Show where the NMS gap of a trial comes from.

    First AP with NMS among the candidates of one level, of adjacent levels, of all levels, and of
    all classes; then the duplicates per object and the score gap.
    """
    from gaplab.results.candidates.explain import explain
    from gaplab.results.candidates.truth import TruthOptions
    from gaplab.results.measurement.remeasure import explain_measurement

    options = TruthOptions(tuple(settings or ()), other_truth)
    rule = parse_protocol(protocol)
    folder = Home(home)
    with read_ledger(folder) as ledger:
        measured = ledger.find_measurements(name)
        if measured:
            found = explain_measurement(measured[0], rule)
        else:
            found = explain(ledger, Storage(str(folder.path)), name, rule, epoch, branch, options)
    if json:
        _print(jsonlib.dumps(asdict(found), indent=2))
    else:
        print_explanation(found, open_console())


def protocols(home: HomeOption = Path(DEFAULT_HOME), json: JsonOption = False) -> None:
    """List the protocols under which a gap can be measured.

    These are the presets and other protocols that trials in the ledger were measured under.
    """
    with read_ledger_if_any(Home(home)) as ledger:
        known = {key: rule_of(preset) for key, preset in PROTOCOLS.items()} | ledger.protocols()
    if json:
        _print(jsonlib.dumps(known, indent=2))
    else:
        open_console().print(protocols_table(known))


def _print_reevaluations(found: Sequence[EvaluationView], subjects: _Subjects, home: Home) -> None:
    """Print the table, and the commands that show or copy what is new."""
    open_console().print(reevaluations_table(found, subjects.labels()))
    for truth in sorted({e.truth for e in found if e.truth and e.attempt}):
        command = home.command("leaderboard", "--truth", truth)
        _print(f"Measured against other ground truth. Show the results with: {command}")
    if not all(e.truth and e.attempt for e in found):
        _print(f"Copy new evaluations to MLflow with: {home.command('mirror')}")


def reevaluations_table(
    found: Sequence[EvaluationView], assignments: Mapping[str, str]
) -> PlainTable:
    """Return a table with one line per evaluation, in the order given.

    The epoch is shown if there are several, metrics of crowds and digests of other ground truth if
    there are any.
    """
    crowd = {"mMR": "mmr", "recall": "recall"} if any("mmr" in e.metrics for e in found) else {}
    epochs = ["epoch"] if len({e.epoch for e in found}) > 1 else []
    truth = ["truth"] if any(e.truth for e in found) else []
    columns = [
        text("trial", wrap=False),
        text("assign-\nment"),
        text("branch", wrap=False, rank=0),
        text("protocol", rank=0),
        *(text(heading, wrap=False, rank=0) for heading in truth),
        *(number(heading) for heading in (*epochs, "AP", "AP\nNMS", "gap", *crowd)),
    ]
    rows = (
        [
            *(e.trial[:8], assignments[e.trial], e.branch, e.protocol),
            *(e.truth or "own" for _ in truth),
            *(str(e.epoch) for _ in epochs),
            *(points(e.metrics["ap"]), points(e.metrics["ap_nms"]), signed(e.metrics["gap"])),
            *(points(e.metrics[m]) if m in e.metrics else "" for m in crowd.values()),
        ]
        for e in found
    )
    return plain_table(columns, rows)


def protocols_table(known: Mapping[str, Mapping[str, Any]]) -> PlainTable:
    """Return one line per protocol: `default` in full, of the others what differs from it."""
    rows = ([key, _rule(key, known)] for key in known)
    caption = "rules of other protocols: what differs from the default"
    return plain_table([text("protocol"), text("rule")], rows, caption=caption)


def _rule(key: str, known: Mapping[str, Mapping[str, Any]]) -> str:
    usual = {} if key == "default" else known["default"]
    return flow_yaml({n: v for n, v in known[key].items() if n not in usual or v != usual[n]})


def print_explanation(found: "Explanation", console: Console) -> None:
    """Print a page about the gap of one trial."""
    diagnosis = found.diagnosis
    at = f", epoch {found.epoch}, branch {found.branch}" if found.epoch else ""
    console.print(
        f"{'trial' if found.epoch else 'measurement'} {found.trial}: {found.assignment} on "
        f"{found.dataset}{at}, protocol {found.protocol}"
        + (f", ground truth {found.truth}" if found.truth else "")
    )
    if found.training:
        console.print(
            f"training in that epoch: {found.training['positives_per_object']:.2f} positive points "
            f"per object; {found.training['objects_unassigned']:.1f} % of objects without any"
        )
    console.print(_steps(diagnosis))
    if found.recall_ceiling is not None:
        console.print(
            f"recall of the ground-truth boxes after this NMS: {found.recall_ceiling:.1f} %"
        )
    console.print(_duplicates(diagnosis))
    print_score_gap(diagnosis.score_gap, console)


def _steps(diagnosis: "Diagnosis") -> PlainTable:
    """Return AP as NMS covers more candidates, with the share of each step in the gap."""
    rows = [["nothing", points(diagnosis.ap), "", ""]]
    before = diagnosis.ap
    for step in diagnosis.steps:
        share = "-" if step.share is None else f"{100 * step.share:.0f} %"
        rows.append([step.name, points(step.ap), signed(step.ap - before), share])
        before = step.ap
    numbers = (number(heading) for heading in ("AP", "gain", "of the gap"))
    flat = "" if diagnosis.levels else "these boxes have no level, so there are no steps of levels"
    return plain_table([text("NMS among"), *numbers], rows, caption=flat)


def _duplicates(diagnosis: "Diagnosis") -> PlainTable:
    rows = []
    for at in diagnosis.duplicates:
        reached = at.threshold is not None and at.duplicates is not None
        cells = (f"{at.threshold:.3f}", f"{at.duplicates:.2f}") if reached else ("not reached", "-")
        rows.append([f"{100 * at.recall:.0f} %", *cells])
    numbers = (number(heading) for heading in ("at score", "duplicates\nper object"))
    return plain_table([text("recall\nwithout NMS"), *numbers], rows)


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
