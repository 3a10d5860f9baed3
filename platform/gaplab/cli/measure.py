"""`gaplab measure`: AP with and without NMS of detections that any tool wrote."""

import json as jsonlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gaplab.cli.options import HomeOption, JsonOption
from gaplab.cli.render.progress import progress_line
from gaplab.cli.render.tabular import PlainTable, number, plain_table, text
from gaplab.cli.render.terminal import open_console
from gaplab.errors import UserError
from gaplab.formatting import one_line, plural, points, printable, signed
from gaplab.storage.home import DEFAULT_HOME, Home

if TYPE_CHECKING:
    from detectors.evaluation.operating import OperatingPoint
    from detectors.evaluation.protocol import Protocol
    from gaplab.results.heads import Heads, Paired
    from gaplab.results.inputs import InputOptions
    from gaplab.results.measure import Measured

FilesArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="DETECTIONS [ANNOTATIONS]",
        help="Results in COCO's JSON (.json, .json.gz), a Parquet file, or a folder of Parquet "
        "files or YOLO labels; then the annotations. With --annotations: one or two of them.",
    ),
]
_METRICS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar")


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
    home: HomeOption = Path(DEFAULT_HOME),
    json: JsonOption = False,
) -> None:
    """Measure how much detections of any tool need NMS.

    Print AP with and without NMS, the NMS gap with its 95 % interval over images, what a user sees
    at a score threshold, and whether the detector needs NMS. Two files of one data set, one-to-many
    and one-to-one, also give the head gap: AP of the first with NMS minus AP of the second without.
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
    from gaplab.results.inputs import InputOptions
    from gaplab.spec.protocols import parse_protocols
    from gaplab.storage.detections import ReadOptions

    options = InputOptions(ReadOptions(boxes, categories, on_bad), split, images, dataset)
    chosen = parse_protocols(protocol or ["default"]) if not all_protocols else []
    with progress_line("reading detections") as show:
        found = _measured(detections, truth, options, chosen, allow_suppressed, resamples, show)
    if names:
        _keep(folder, found, names, families)
    _print_json(found) if json else _print_all(found)


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


def _measured(  # noqa: PLR0913 - the options of the command
    detections: Sequence[Path],
    annotations: Path,
    options: "InputOptions",
    protocols: "Sequence[Protocol]",
    allow_suppressed: bool,
    resamples: int,
    show: Any,
) -> "list[list[Measured]]":
    """Return the measurements of each file, by protocol. Raises UserError with all problems."""
    from gaplab.results.inputs import open_inputs
    from gaplab.results.measure import measure, shortcomings_of, usable_protocols

    inputs = open_inputs(detections, annotations, options)
    protocols = protocols or usable_protocols(inputs)
    problems = [p for each in inputs for p in shortcomings_of(each, protocols, allow_suppressed)]
    if problems:
        raise UserError(*dict.fromkeys(problems))
    show("measuring")
    return [
        measure(each, protocols, allow_suppressed=allow_suppressed, resamples=resamples)
        for each in inputs
    ]


def _keep(
    home: Home,
    found: "Sequence[Sequence[Measured]]",
    names: Sequence[str],
    families: Sequence[str],
) -> None:
    from gaplab.ledger import Ledger
    from gaplab.results.measure import keep
    from gaplab.storage.filesystem import Storage

    folder = home.create()
    storage = Storage(str(folder.path))
    with Ledger.open(folder.ledger_url) as ledger:
        for measured, name, family in zip(found, names, families or [""] * len(names), strict=True):
            for each in measured:
                keep(ledger, storage, each, name, family)


# --- printing -------------------------------------------------------------------------------------


def _print_json(found: "Sequence[Sequence[Measured]]") -> None:
    from gaplab.results.heads import compare_heads, plain_heads
    from gaplab.results.measure import plain

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
    from gaplab.results.heads import compare_heads

    console = open_console()
    for measured in found:
        _print(_title(measured[0]))
        for note in measured[0].input.notes:
            _print(f"note: {printable(note)}")
        if len(measured) > 1:
            console.print(protocols_table(measured))
            continue
        for table in tables(measured[0]):
            console.print(table)
        _print(sentence(measured[0]))
    if len(found) > 1:
        for first, second in zip(*found, strict=True):
            console.print(heads_table(compare_heads(first, second)))


def _title(measured: "Measured") -> str:
    given, findings = measured.input, measured.input.detections.findings
    return printable(
        f"{given.detections.where}: {plural(findings.rows, 'detection')} on "
        f"{plural(findings.images, 'image')} of {given.annotations.where}"
    )


def tables(measured: "Measured") -> Iterator[PlainTable]:
    """Yield the tables about one measurement."""
    yield metrics_table(measured)
    yield thresholds_table(measured)
    if any(each.objects for each in measured.summary.crowding):
        yield crowding_table(measured)


def metrics_table(measured: "Measured") -> PlainTable:
    """Return AP and AR without NMS, with NMS, and the gap."""
    from detectors.evaluation.metrics import label, names_of
    from gaplab.spec.protocols import protocol_key

    metrics = measured.summary.gap.metrics
    shown = [name for name in _METRICS if metrics.get(name) is not None]
    shown += [name for name in ("mmr", "recall") if name in metrics and name not in shown]
    rows = []
    for name in shown:
        without, with_nms, gap = (metrics.get(each) for each in names_of(name))
        interval = _interval(measured.gap_interval) if name == "ap" else ""
        rows.append([label(name), points(without), points(with_nms), signed(gap) + interval])
    headings = [number("without\nNMS"), number("with\nNMS"), text("gap", wrap=False)]
    caption = f"protocol {protocol_key(measured.protocol)}; percent points"
    return plain_table([text("metric", wrap=False), *headings], rows, caption=caption)


def thresholds_table(measured: "Measured") -> PlainTable:
    """Return what a user sees at score thresholds, without NMS and with it."""
    rows = []
    for heading, column in (
        ("without", measured.summary.without),
        ("with", measured.summary.with_nms),
    ):
        rows += [[heading, f"{each.threshold:.3g}", *_cells(each)] for each in column.points]
        if column.best_f1 is not None:
            best = column.best_f1
            rows.append([heading, f"{best.threshold:.3g} (best F1)", *_cells(best)])
    numbers = ("duplicates\nper object", "of any\nclass", "missed\n%", "count\nerror", "F1\n%")
    columns = [text("NMS", wrap=False), text("score", wrap=False), *map(number, numbers)]
    caption = "at a score threshold; count error: detections minus objects of an image, absolute"
    return plain_table(columns, rows, caption=caption)


def _cells(point: "OperatingPoint") -> list[str]:
    decimals = (point.duplicates, point.duplicates_any_class, point.count_error)
    duplicates, any_class, count = ("-" if v is None else f"{v:.2f}" for v in decimals)
    return [duplicates, any_class, points(point.missed), count, points(point.f1)]


def crowding_table(measured: "Measured") -> PlainTable:
    """Return AP and duplicates on objects whose nearest neighbour overlaps them."""
    rows = []
    for each in measured.summary.crowding:
        aps = (points(each.ap), points(each.ap_nms), signed(each.gap))
        seen = ("-" if p.duplicates is None else f"{p.duplicates:.2f}" for p in each.without[:1])
        rows.append([f"above {each.above:g}", f"{each.share:.1f}", str(each.images), *aps, *seen])
    numbers = ("objects\n%", "images", "AP", "AP\nNMS", "gap", "duplicates\nper object")
    columns = [text("IoU of\nneighbour", wrap=False), *map(number, numbers)]
    return plain_table(columns, rows, caption="crowded objects; AP on the images that hold them")


def protocols_table(measured: "Sequence[Measured]") -> PlainTable:
    """Return one line per protocol."""
    from gaplab.spec.protocols import protocol_key

    rows = []
    for each in measured:
        metrics = each.summary.gap.metrics
        values = (points(metrics["ap"]), points(metrics["ap_nms"]))
        gap = signed(metrics["gap"]) + _interval(each.gap_interval)
        rows.append([protocol_key(each.protocol), *values, gap, each.verdict])
    columns = [text("protocol", rank=0), number("AP"), number("AP\nNMS")]
    columns += [text("gap", wrap=False), text("needs\nNMS", wrap=False)]
    return plain_table(columns, rows, caption="percent points; [95 % interval over images]")


def heads_table(heads: "Heads") -> PlainTable:
    """Return the head gap and the differences of two inputs."""
    labels = {"ap": "AP", "ap_nms": "AP NMS", "gap": "NMS gap", "duplicates": "duplicates"}
    rows = [["head gap: first with NMS minus second without", *_pair(heads.head_gap)]]
    rows += [[f"{labels[n]}: first minus second", *_pair(p)] for n, p in heads.differences.items()]
    columns = [text("difference", rank=0), number("value"), text("95 % interval", wrap=False)]
    return plain_table(columns, rows, caption="percent points; duplicates per object, without NMS")


def _pair(pair: "Paired") -> tuple[str, str]:
    value = "-" if pair.value is None else f"{pair.value:+.2f}"
    low_high = pair.interval
    return value, "" if low_high is None else f"[{low_high.low:+.2f}, {low_high.high:+.2f}]"


def sentence(measured: "Measured") -> str:
    """Return the verdict in one sentence."""
    word = {"yes": "yes", "no": "no", "undecided": "not decided"}[measured.verdict]
    gap = measured.summary.gap.metrics["gap"]
    why = "" if measured.gap_interval else "; no interval over images"
    if measured.input.detections.findings.suppressed is not None:
        why = "; the detections were suppressed already"
    return f"needs NMS: {word}, {signed(gap)} AP{_interval(measured.gap_interval)}{why}"


def _interval(found: Any) -> str:
    return "" if found is None else f" [{signed(found.low)}, {signed(found.high)}]"


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
