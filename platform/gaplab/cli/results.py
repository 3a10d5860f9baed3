"""`gaplab leaderboard` and `gaplab compare`: results from the ledger, without importing torch."""

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from gaplab.cli.opening import read_ledger
from gaplab.cli.options import (
    MAX_EPOCH,
    BranchOption,
    CsvOption,
    HomeOption,
    HtmlOption,
    JsonOption,
    LatexOption,
    MarkdownOption,
    MetricOption,
    ParquetOption,
)
from gaplab.cli.render.comparison import compare_table, curves_table, effects_table
from gaplab.cli.render.formats import Output, chosen_form, write_output
from gaplab.cli.render.plain import (
    COMPARE_COLUMNS,
    GROUP_COLUMNS,
    LEADERBOARD_COLUMNS,
    effects_of,
    plain,
    plain_further,
    plain_group,
)
from gaplab.cli.render.progress import progress_line
from gaplab.cli.render.tables import group_table, leaderboard_table
from gaplab.errors import UserError
from gaplab.formatting import plural, printable
from gaplab.ledger import Reader
from gaplab.ledger.conditions import GFLOPS
from gaplab.ledger.selection import COST
from gaplab.ledger.views import METRICS, GpuHours, ResultRow
from gaplab.results.comparison.columns import COMPUTED, unmeasured, with_columns
from gaplab.results.comparison.compare import Group, mixed_instructions
from gaplab.results.comparison.compare import compare as compare_groups
from gaplab.results.comparison.curves import over_epochs
from gaplab.results.comparison.effects import main_effects
from gaplab.results.comparison.keys import default_keys
from gaplab.results.comparison.leaderboard import Epoch, Query, row_filter
from gaplab.results.comparison.leaderboard import board as find_board
from gaplab.results.comparison.leaderboard import groups as find_groups
from gaplab.results.comparison.leaderboard import leaderboard as find_rows
from gaplab.results.comparison.leaderboard import notes as selection_notes
from gaplab.results.intervals import MIN_IMAGES, Metric, Resampled
from gaplab.spec.varied import varied_values
from gaplab.storage.home import DEFAULT_HOME, Home

SweepOption = Annotated[str | None, typer.Option(help="Only trials of this sweep (id or name).")]
DatasetOption = Annotated[str | None, typer.Option(help="Only trials on this data set.")]
AssignmentOption = Annotated[str | None, typer.Option(help="Only trials with this assignment.")]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CONDITION",
        help="Only trials for which this holds: KEY=VALUE, or a condition on spec keys and metrics "
        'such as \'alpha >= 0.5 and assignment.name in ("poto", "o2f") and ap > 35\'; repeatable.',
    ),
]
EpochOption = Annotated[
    str,
    typer.Option(
        help='"last", "best" (highest AP without NMS), a number, or "gpu-hours=2.5" for the last '
        "one within so many GPU-hours."
    ),
]
ProtocolOption = Annotated[
    str | None,
    typer.Option(
        help="Protocol under which the gap was measured, see `gaplab protocols` [default: that of "
        "the spec of --sweep, otherwise default]."
    ),
]
TruthOption = Annotated[
    str,
    typer.Option(
        metavar="DIGEST",
        help="Results of `gaplab reevaluate --other-truth`: the digest that it printed [default: "
        "those against the trials' own data].",
    ),
]


def _sorts(incomplete: str) -> list[str]:
    """Return the usual names that `--sort` completes."""
    names = (*METRICS, *COMPUTED, COST)
    return [name for name in names if name.startswith(incomplete) and name != GFLOPS]


def leaderboard(  # noqa: PLR0913 - every argument is an option of the command
    sort: Annotated[
        str,
        typer.Option(
            help="Sort by this metric, cost or spec key, best first.", autocompletion=_sorts
        ),
    ] = "ap",
    top: Annotated[int, typer.Option(min=0, help="Rows to show; 0 for all.")] = 50,
    metric: MetricOption = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY", help="Show mean and deviation per value of this key; repeatable."
        ),
    ] = None,
    pareto: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="METRIC COST", help="Only rows that no other row beats in both, as: ap cost."
        ),
    ] = None,
    sweep: SweepOption = None,
    dataset: DatasetOption = None,
    assignment: AssignmentOption = None,
    where: WhereOption = None,
    epoch: EpochOption = "last",
    protocol: ProtocolOption = None,
    branch: BranchOption = None,
    truth: TruthOption = "",
    home: HomeOption = Path(DEFAULT_HOME),
    csv: CsvOption = False,
    json: JsonOption = False,
    parquet: ParquetOption = None,
    markdown: MarkdownOption = False,
    latex: LatexOption = False,
    html: HtmlOption = False,
) -> None:
    """List AP, AP with NMS and the NMS gap: one row per trial.

    The highest AP without NMS comes first. Metrics are percent points. The gap is AP without NMS
    minus AP with NMS: the closer to 0, the less the detector needs NMS.
    """
    form = chosen_form(
        csv=csv, json=json, parquet=parquet, markdown=markdown, latex=latex, html=html
    )
    query = Query(
        protocol=protocol,
        sweep=sweep,
        sort=sort,
        where=where or (),
        epoch=_row_epoch(epoch),
        branch=branch,
        dataset=dataset,
        assignment=assignment,
        truth=truth,
        top=top or None,
        pareto=pareto,
    )
    if group and (metric or pareto):
        raise UserError(
            "--group: groups have AP, AP with NMS, the gap and AR only; leave out --metric and "
            f"--pareto, or show means with: gaplab compare --by {group[0]} --metric NAME"
        )
    with read_ledger(Home(home)) as ledger:
        output = _groups(ledger, group, query) if group else _rows(ledger, metric or [], query)
    write_output(output, form)


def _rows(ledger: Reader, metrics: Sequence[str], query: Query) -> Output:
    """Return the rows of a leaderboard, after the notes about them."""
    board = find_board(ledger, **query)
    rows = with_columns(ledger, board.rows, metrics, board.wanted)
    _warn([*board.notes, *unmeasured(board.rows, metrics)])
    table = leaderboard_table(rows, metrics, board.varied, board.total)
    plain_rows = [plain(row) | varied_values(row.config, board.varied) for row in rows]
    return Output(plain_rows, [table], [*LEADERBOARD_COLUMNS, *board.varied])


def _warn(notes: Sequence[str]) -> None:
    """Write notes to standard error, one line each."""
    sys.stderr.write("".join(f"gaplab: {printable(note)}\n" for note in notes))


def _groups(ledger: Reader, keys: Sequence[str], query: Query) -> Output:
    """Return means and deviations of groups of trials."""
    found, wanted = find_groups(ledger, keys, **query)
    _warn(selection_notes(ledger, wanted, nothing=not found))
    rows = [plain_group(each, wanted.protocol) for each in found]
    return Output(rows, [group_table(found, keys, wanted.protocol)], [*keys, *GROUP_COLUMNS])


def compare(  # noqa: PLR0913 - every argument is an option of the command
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Group trials by this spec key; repeatable [default: all keys in which they "
            "differ, without the seed].",
        ),
    ] = None,
    sort: Annotated[
        Literal["gap", "ap", "ap_nms"],
        typer.Option(help="Sort by the mean of this metric, best group first."),
    ] = "ap",
    to: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VALUE",
            help="Compare to the group with this value, such as poto or alpha=0.5; repeatable "
            "[default: the best group].",
        ),
    ] = None,
    effects: Annotated[
        bool, typer.Option("--effects", help="Show which key explains how much of the spread.")
    ] = False,
    over: Annotated[
        Literal["epochs"] | None, typer.Option(help="Show the means at every evaluated epoch.")
    ] = None,
    metric: MetricOption = None,
    resamples: Annotated[
        int, typer.Option(min=0, help="Resamples of the images for intervals; 0 for none.")
    ] = 1000,
    sweep: SweepOption = None,
    dataset: DatasetOption = None,
    where: WhereOption = None,
    epoch: EpochOption = "last",
    protocol: ProtocolOption = None,
    branch: BranchOption = None,
    truth: TruthOption = "",
    home: HomeOption = Path(DEFAULT_HOME),
    csv: CsvOption = False,
    json: JsonOption = False,
    parquet: ParquetOption = None,
    markdown: MarkdownOption = False,
    latex: LatexOption = False,
    html: HtmlOption = False,
) -> None:
    """Compare groups of trials: means, spread, 95 % intervals.

    Intervals are over seeds where a group has several, else over at least 20 images (paired
    bootstrap). A star needs several seeds; p values of differences are corrected for their number.
    """
    form = chosen_form(
        csv=csv, json=json, parquet=parquet, markdown=markdown, latex=latex, html=html
    )
    if effects and over:
        raise UserError("--effects and --over: give one of them")
    if metric and (effects or over):
        raise UserError(f"--metric {metric[0]}: --effects and --over show AP and the gap only")
    if over and epoch != "last":
        raise UserError("--over and --epoch: give one of them")
    at, folder = _row_epoch(epoch), Home(home)
    with read_ledger(folder) as ledger:
        query = Query(
            sweep=sweep,
            dataset=dataset,
            where=where or (),
            epoch=at,
            protocol=protocol,
            branch=branch,
            truth=truth,
        )
        rows, wanted = find_rows(ledger, **query), row_filter(ledger, **query)
        _warn([*selection_notes(ledger, wanted, nothing=not rows), *unmeasured(rows, metric or ())])
        rows = with_columns(ledger, rows, metric or (), wanted)
        keys = by or default_keys(rows)
        if over:
            write_output(_curves(over_epochs(ledger, rows, keys, sort, branch), keys), form)
            return
    with progress_line("comparing trials") as show:
        resampling = Resampling(0 if effects else resamples, folder.path, show)
        groups = compare_groups(rows, keys, sort, resampling, to or ())
    _warn([*resampling.problems(), *mixed_instructions(groups)])
    found = _effects(groups) if effects else _compared(groups, keys, sort, to, metric or [])
    write_output(found, form)


def _compared(
    groups: Sequence[Group],
    keys: Sequence[str],
    metric: Metric,
    to: Sequence[str] | None,
    further: Sequence[str],
) -> Output:
    table = compare_table(groups, metric, " ".join(to) if to else "best", further)
    rows = [plain(group) | plain_further(group, further) for group in groups]
    return Output(rows, [table], [*keys, *COMPARE_COLUMNS])


def _effects(groups: Sequence[Group]) -> Output:
    grids = main_effects(groups)
    rows = [row for grid in grids for row in effects_of(grid)]
    tables = [effects_table(grid) for grid in grids] or [compare_table([])]
    return Output(rows, tables, ("key", "levels"))


def _curves(groups: Sequence[Group], keys: Sequence[str]) -> Output:
    tables = [curves_table(groups, metric) for metric in ("ap", "gap")]
    return Output([plain(group) for group in groups], tables, [*keys, *COMPARE_COLUMNS])


_ADDED = "gaplab reevaluate TRIAL adds it where candidates are"


class Resampling:
    """Computes the AP of rows on resamples of their images, each row once.

    Args:
        resamples: The number of resamples; 0 for none.
        home: The home folder, which holds the files of matches.
        report: Called with a line before each computation, which may take seconds.
    """

    def __init__(self, resamples: int, home: Path, report: Callable[[str], None]) -> None:
        self._resamples, self._home, self._report = resamples, home, report
        self._made: dict[str, Resampled | None] = {}
        self._without: dict[str, ResultRow] = {}
        self._unread: list[str] = []
        self._images: dict[str, set[str]] = defaultdict(set)
        self._truths: dict[str, set[str]] = defaultdict(set)
        self._few: dict[str, int] = {}

    def __call__(self, row: ResultRow) -> Resampled | None:
        """Return the AP of `row` on the resamples.

        None if there are no resamples, or if the row's matches are not stored or can't be read;
        `problems` has a line about each of those.
        """
        if not self._resamples:
            return None
        if not row.matches:
            self._without[row.trial] = row
            return None
        if row.matches not in self._made:
            self._made[row.matches] = self._resample(row)
        return self._made[row.matches]

    def problems(self) -> list[str]:
        """Return why intervals over images are missing, one line per reason."""
        lines = list(self._unread)
        if self._without:
            crowd = any("mmr" in row.more for row in self._without.values())
            why = "the crowd evaluator writes none" if crowd else "not stored; " + _ADDED
            lines.append(
                f"{plural(len(self._without), 'trial')} without a match file ({why}): "
                "no interval over images"
            )
        lines += [
            f"{dataset}: intervals need at least {MIN_IMAGES} validation images, this data set has "
            f"{images}"
            for dataset, images in self._few.items()
        ]
        for dataset, digests in self._images.items():
            if len(digests) > 1:
                lines.append(
                    f"{dataset}: trials were measured on {len(digests)} different sets of images: "
                    "no interval of their differences"
                )
            elif len(self._truths[dataset] - {""}) > 1:
                lines.append(
                    f"{dataset}: trials were measured against different annotations of the same "
                    "images: no interval of their differences; measure all of them against one "
                    "with: gaplab reevaluate NAME --other-truth"
                )
        return lines

    def _resample(self, row: ResultRow) -> Resampled | None:
        # Imported here: a leaderboard, and intervals over seeds, need neither NumPy nor PyArrow.
        from detectors.evaluation.bootstrap import replicates
        from gaplab.storage.filesystem import Storage
        from gaplab.storage.matches import read_matches

        try:
            about, without, with_nms = read_matches(Storage(str(self._home)).locate(row.matches))
        except UserError as error:
            self._unread += [f"{problem}; no interval over images" for problem in error.problems]
            return None
        self._images[row.dataset].add(about.images)
        self._truths[row.dataset].add(about.truth)
        if about.count < MIN_IMAGES:
            self._few[row.dataset] = about.count
        self._report(f"resampling the images of trial {row.trial[:8]}")
        made = replicates(without, with_nms, self._resamples)
        return Resampled(about.images, about.count, made, about.truth)


def _row_epoch(value: str) -> Epoch:
    """Parse `--epoch`. Raises UserError."""
    if value == "last" or value == "best":
        return value  # type: ignore[return-value]
    if value.isdecimal() and len(value) <= len(str(MAX_EPOCH)) and 1 <= int(value) <= MAX_EPOCH:
        return int(value)
    hours = re.fullmatch(r"gpu-hours=([0-9]{1,9}(?:\.[0-9]{1,9})?)", value)
    if hours:
        return GpuHours(float(hours[1]))
    raise UserError(
        f'--epoch {value}: must be "last", "best", a number from 1 to {MAX_EPOCH}, or '
        '"gpu-hours=" with a number'
    )
