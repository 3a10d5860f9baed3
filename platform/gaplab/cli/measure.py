"""`gaplab measure`: AP with and without NMS of detections that any tool wrote."""

import json as jsonlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from gaplab.cli.options import HomeOption, JsonOption
from gaplab.cli.render.measurements import (
    check_line,
    heads_table,
    protocols_table,
    sentence,
    spread,
    tables,
)
from gaplab.cli.render.progress import progress_line
from gaplab.cli.render.score_gap import print_score_gap
from gaplab.cli.render.terminal import open_console
from gaplab.errors import UserError
from gaplab.formatting import one_line, plural, printable
from gaplab.storage.home import DEFAULT_HOME, Home

if TYPE_CHECKING:
    from detectors.evaluation.protocol import Protocol
    from gaplab.results.measurement.inputs import InputOptions
    from gaplab.results.measurement.measure import Measured

FilesArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="DETECTIONS [ANNOTATIONS]",
        help="Detections before NMS: results in COCO's JSON (.json, .json.gz), a Parquet file, or "
        "a folder of Parquet files or YOLO labels; then the annotations. With --annotations: one "
        "or two of them.",
    ),
]


def measure(  # noqa: PLR0913 - every argument is an option of the command
    files: FilesArgument,
    annotations: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="COCO JSON, .odgt of CrowdHuman, data.yaml of YOLO, or the folder of a data set.",
        ),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a preset (see `gaplab protocols`), a mapping such as '{preset: defcn, "
            "nms_iou: 0.5}', or a YAML file; repeatable [default: default]."
        ),
    ] = None,
    all_protocols: Annotated[
        bool, typer.Option("--all-protocols", help="Measure under every preset that can be used.")
    ] = False,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Keep the result in the ledger under this name; one for each file."),
    ] = None,
    family: Annotated[
        list[str] | None,
        typer.Option(help="How labels were assigned, such as o2o or o2m; one for each file."),
    ] = None,
    dataset: Annotated[
        str, typer.Option(help="Label of the data set [default: the name of its folder].")
    ] = "",
    split: Annotated[
        Literal["train", "val"], typer.Option(help="Split of annotations that have several.")
    ] = "val",
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the pictures, where annotations do not say their sizes."),
    ] = None,
    boxes: Annotated[
        Literal["xywh", "xyxy"] | None,
        typer.Option(help="How boxes are written [default: xywh in JSON; in Parquet by column]."),
    ] = None,
    categories: Annotated[
        Literal["auto", "id", "name", "index", "index1", "coco91"],
        typer.Option(
            help="How categories are matched: by id, name, position from 0 (index) or from 1 "
            "(index1), or COCO's ids up to 90 (coco91); auto: what matches most."
        ),
    ] = "auto",
    on_bad: Annotated[
        Literal["refuse", "skip"],
        typer.Option(help="Whether rows that can't be used end the command or are left out."),
    ] = "refuse",
    allow_suppressed: Annotated[
        bool,
        typer.Option("--allow-suppressed", help="Measure detections that NMS was applied to."),
    ] = False,
    resamples: Annotated[
        int,
        typer.Option(min=0, max=100_000, help="Resamples of the images for intervals; 0: none."),
    ] = 1000,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Compare the metrics with those of pycocotools, which is slow."
        ),
    ] = False,
    home: HomeOption = Path(DEFAULT_HOME),
    json: JsonOption = False,
) -> None:
    """Measure how much detections of any tool need NMS.

    Print AP with and without NMS, the NMS gap with its 95 % interval over images, what a user sees
    at a score threshold, and whether the detector needs NMS. The detections must be those before
    NMS. Two files of one data set, one-to-many and one-to-one, also give the head gap: AP of the
    first with NMS minus AP of the second without.
    """
    detections, truth = _paths(files, annotations)
    names, families = (
        _one_each("--name", name or [], detections),
        _one_each("--family", family or [], detections),
    )
    if families and not names:
        raise UserError("--family: is kept in the ledger with a name; give --name, too")
    folder = Home(home)
    if names and not folder.missing:
        folder.check()
    from gaplab.results.measurement.inputs import InputOptions
    from gaplab.spec.protocols import parse_protocols
    from gaplab.storage.detections import ReadOptions

    options = InputOptions(ReadOptions(boxes, categories, on_bad), split, images, dataset)
    chosen = parse_protocols(protocol or ["default"]) if not all_protocols else []
    with progress_line("reading detections") as show:
        ways = _Ways(chosen, allow_suppressed, resamples, check)
        found = _measured(detections, truth, options, ways, show)
    if names:
        _keep(folder, found, names, families)
    _print_json(found) if json else _print_all(found)
    if any(each.checked and not each.checked.agrees for measured in found for each in measured):
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Ways:
    """How inputs are measured; no protocols: under all that can be used."""

    protocols: "Sequence[Protocol]"
    allow_suppressed: bool
    resamples: int
    check: bool


def _paths(files: Sequence[Path], annotations: Path | None) -> tuple[list[Path], Path]:
    """Return the detections and the annotations. Raises UserError."""
    if annotations is not None:
        if len(files) > 2:
            raise UserError(f"{len(files)} files of detections; compare two at most")
        return [*files], annotations
    if len(files) != 2:
        raise UserError(
            "name the detections and the annotations: gaplab measure DETECTIONS ANNOTATIONS, or "
            "gaplab measure A B --annotations ANNOTATIONS"
        )
    return [files[0]], files[1]


def _one_each(option: str, values: Sequence[str], files: Sequence[Path]) -> list[str]:
    """Return one value per file, or none. Raises UserError."""
    if values and len(values) != len(files):
        raise UserError(f"{option}: given {len(values)} times for {plural(len(files), 'file')}")
    if any(not one_line(value) or not value.isprintable() for value in values):
        raise UserError(f"{option}: must not be empty or have control characters")
    return [*values]


def _measured(
    detections: Sequence[Path],
    annotations: Path,
    options: "InputOptions",
    ways: _Ways,
    show: Any,
) -> "list[list[Measured]]":
    """Return the measurements of each file, by protocol. Raises UserError with all problems."""
    from gaplab.results.measurement.inputs import open_inputs
    from gaplab.results.measurement.measure import (
        checkable,
        measure,
        shortcomings_of,
        usable_presets,
    )

    inputs = open_inputs(detections, annotations, options)
    protocols = ways.protocols or usable_presets(inputs)
    allow = ways.allow_suppressed
    problems = [p for each in inputs for p in shortcomings_of(each, protocols, allow)]
    if ways.check and not any(checkable(each) for each in protocols):
        problems.append("--check: pycocotools measures COCO's AP only; choose another protocol")
    if problems:
        raise UserError(*dict.fromkeys(problems))
    show("measuring")
    return [
        measure(
            each, protocols, allow_suppressed=allow, resamples=ways.resamples, oracle=ways.check
        )
        for each in inputs
    ]


def _keep(
    home: Home,
    found: "Sequence[Sequence[Measured]]",
    names: Sequence[str],
    families: Sequence[str],
) -> None:
    from gaplab.ledger import Ledger
    from gaplab.results.measurement.measure import keep
    from gaplab.storage.filesystem import Storage

    folder = home.create()
    storage = Storage(str(folder.path))
    with Ledger.open(folder.ledger_url) as ledger:
        for measured, name, family in zip(found, names, families or [""] * len(names), strict=True):
            for each in measured:
                keep(ledger, storage, each, name, family)


# --- printing -------------------------------------------------------------------------------------


def _print_json(found: "Sequence[Sequence[Measured]]") -> None:
    from gaplab.results.measurement.heads import compare_heads, plain_heads
    from gaplab.results.measurement.measure import plain

    rows: list[Any] = [[plain(each) for each in measured] for measured in found]
    rows = [each[0] if len(each) == 1 else each for each in rows]
    if len(found) == 1:
        document = rows[0]
    else:
        pairs = [plain_heads(compare_heads(a, b)) for a, b in zip(*found, strict=True)]
        document = {"first": rows[0], "second": rows[1]}
        document |= pairs[0] if len(pairs) == 1 else {"comparisons": pairs}
    sys.stdout.write(jsonlib.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _print_all(found: "Sequence[Sequence[Measured]]") -> None:
    from gaplab.results.measurement.heads import compare_heads

    console = open_console()
    for measured in found:
        _print_input(measured, console)
    if len(found) > 1:
        for first, second in zip(*found, strict=True):
            console.print(heads_table(compare_heads(first, second)))


def _print_input(measured: "Sequence[Measured]", console: Console) -> None:
    """Print what was measured of one input, under one or several protocols."""
    _print(_title(measured[0]))
    for note in measured[0].input.notes:
        _print(f"note: {printable(note)}")
    if len(measured) > 1:
        console.print(protocols_table(measured))
        _print(spread(measured))
    else:
        for table in tables(measured[0]):
            console.print(table)
        print_score_gap(measured[0].summary.score_gap, console)
    for each in measured:
        if each.checked is not None:
            _print(check_line(each))
    if len(measured) == 1:
        _print(sentence(measured[0]))


def _title(measured: "Measured") -> str:
    given, findings = measured.input, measured.input.detections.findings
    return printable(
        f"{given.detections.where}: {plural(findings.rows, 'detection')} on "
        f"{plural(findings.images, 'image')} of {given.annotations.where}"
    )


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
