"""`gaplab perceptron`: the convergence analysis of 000 section 4 as an experiment."""

import json as jsonlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaplab.cli.options import JsonOption
from gaplab.cli.render.progress import progress_line
from gaplab.cli.render.tabular import PlainTable, number, plain_table, text
from gaplab.cli.render.terminal import open_console
from gaplab.errors import UserError
from gaplab.formatting import plural, points, printable
from gaplab.storage.filesystem import Storage

if TYPE_CHECKING:
    from gaplab.results.papers.perceptron import Outcomes


def perceptron(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The spec, a YAML file.")] = Path(
        "experiments/000/s4_perceptron.yaml"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, counted from 0.")] = 3,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Also write figures: an HTML file."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure how one-to-one assignment converges (000 section 4).

    Perceptrons learn from samples in a unit ball, one of which is positive. Nothing is stored in
    the home folder. `gaplab claims` checks what the paper claims about them.
    """
    from gaplab.results.papers.perceptron import check_seeds, measure
    from gaplab.spec.perceptron import read_perceptron

    if output is not None and output.is_dir():
        raise UserError(f"-o {output}: is a folder; give the name of a file, such as s4.html")
    check_seeds(seeds)
    experiment = read_perceptron(spec)
    with progress_line("training perceptrons") as show:
        found = measure(experiment, seeds, show)
    if output is not None:
        from gaplab.results.report.perceptron import perceptron_page

        path = Path(os.path.abspath(output))
        Storage(str(path.parent)).save_text(path.name, perceptron_page(experiment, found))
    if json:
        plain = {row: {s: each.values for s, each in own.items()} for row, own in found.items()}
        sys.stdout.write(jsonlib.dumps(plain, indent=2) + "\n")
        return
    open_console().print(outcome_table(found))


def outcome_table(found: "Outcomes") -> PlainTable:
    """Return a table with a line per metric and a column per row of the spec."""
    from gaplab.results.papers.perceptron import METRICS, mean_over_seeds

    columns = [text("metric", wrap=False), *map(number, map(printable, found)), text("meaning")]
    rows = [
        [name, *(points(mean_over_seeds(found, row, name)) for row in found), meaning]
        for name, meaning in METRICS.items()
    ]
    seeds = len(next(iter(found.values())))
    return plain_table(columns, rows, caption=f"means over images and {plural(seeds, 'seed')}")
