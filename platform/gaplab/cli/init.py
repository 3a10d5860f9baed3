"""`gaplab init`: look at a folder of photographs and write a spec for it."""

import json as jsonlib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaplab.cli.datasets import NameOption, data_section, data_set, is_spec, loaded
from gaplab.cli.options import JsonOption, SetOption
from gaplab.cli.render.datasets import class_table, crowding_table, split_table
from gaplab.cli.render.progress import progress_line
from gaplab.cli.render.terminal import open_console
from gaplab.errors import UserError
from gaplab.formatting import plural, printable

if TYPE_CHECKING:
    from detectors.data.base import DataOptions, Dataset, Split
    from detectors.data.summary import Counts
    from detectors.evaluation.crowding import Crowding
    from detectors.evaluation.protocol import Protocol
    from detectors.structures import ImageTruth
    from gaplab.spec.starter import InputSize

NAMED = 10
"""Classes that the comment of a spec names."""


def init(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Folder of a data set in the layout of COCO, YOLO, Pascal VOC, LVIS or "
            "CrowdHuman, or a data.yaml of YOLO.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Spec to write; it must not exist [default: the folder's name with .yaml, in the "
            "working directory].",
        ),
    ] = None,
    side: Annotated[
        int | None,
        typer.Option(
            min=32,
            max=4096,
            help="Longer side of the detector's input, in pixels [default: 160 to 640, so that "
            "nine of ten objects have a side of 8 pixels].",
        ),
    ] = None,
    name: NameOption = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Look at a folder of photographs and write a spec for it.

    Print what the data set holds and how crowded its objects are, and write a spec that trains a
    small detector under four label assignments, with an input of the pictures' aspect ratio. Every
    image is decoded. A data set with problems is refused; `--set data.on_bad=skip` leaves them out.
    """
    from gaplab.spec.starter import starter_spec, sweep_name

    if is_spec(folder):
        raise UserError(f"{folder}: is neither the folder of a data set nor a data.yaml of YOLO")
    whole = Path(os.path.abspath(folder))  # so that `..` has a name
    title = whole.name if folder.is_dir() else whole.parent.name
    sweep = sweep_name(title)
    target = output or Path(f"{sweep}.yaml")
    _check_target(target)
    with progress_line("reading pictures"):
        found = _look(_data_set(folder, name, overrides or []), side)
    counts = found.counts["train"]
    section = data_section(found.options, counts)
    spec = starter_spec(sweep, title, section, counts.images, found.size)
    _write(target, _text(spec, found))
    if json:
        sys.stdout.write(jsonlib.dumps(_plain(found, target, spec), indent=2) + "\n")
    else:
        _print(found, target, spec)


@dataclass(frozen=True)
class _Found:
    """What a data set holds."""

    options: "DataOptions"
    counts: "dict[Split, Counts]"
    crowding: "dict[Split, Crowding]"
    protocol: "Protocol"
    """Whose NMS the recall ceiling is of."""
    size: "InputSize"
    pictures: str
    """Sizes of the pictures, for people."""
    notes: Sequence[str]


def _look(options: "DataOptions", side: int | None) -> _Found:
    """Load both splits and describe them. Raises UserError with all problems."""
    from detectors.data.summary import count
    from detectors.evaluation.crowding import crowding
    from detectors.evaluation.protocol import PROTOCOLS
    from detectors.evaluation.truth import GroundTruth

    splits, protocol = loaded(options), PROTOCOLS["default"]
    truths = {split: data.truth() for split, data in splits.items()}
    crowded = {
        split: crowding(GroundTruth.of(truths[split], data.classes), protocol)
        for split, data in splits.items()
    }
    counts = {split: count(data) for split, data in splits.items()}
    size, pictures = _input(truths["train"], side)
    return _Found(options, counts, crowded, protocol, size, pictures, _notes(splits))


def _input(truths: "Sequence[ImageTruth]", side: int | None) -> "tuple[InputSize, str]":
    """Return the size of the input, and the sizes of the pictures for people."""
    from gaplab.spec.starter import input_size

    sizes = [(each.width, each.height) for each in truths]
    areas = [area for each in truths for area in each.area[~each.crowd].tolist()]
    (low, high), same = (min(sizes), max(sizes)), len(set(sizes)) == 1
    pictures = f"{low[0]}x{low[1]}" + ("" if same else f" to {high[0]}x{high[1]}")
    return input_size(sizes, areas, side), pictures


def _notes(splits: "dict[Split, Dataset]") -> list[str]:
    return list(dict.fromkeys(note for data in splits.values() for note in data.notes))


def _data_set(folder: Path, name: str | None, overrides: Sequence[str]) -> "DataOptions":
    """Return the data set. Raises UserError if the size of the input is set."""
    options = data_set(folder, name, overrides)
    problems = [
        f"--set data.{key}: the input keeps the aspect ratio of the pictures; choose its longer "
        "side with --side, or edit the spec afterwards"
        for key in ("height", "width", "portrait")
        if key in options.model_fields_set
    ]
    if problems:
        raise UserError(*problems)
    return options


def _check_target(target: Path) -> None:
    """Raise UserError unless the file can be created."""
    if os.path.lexists(target):
        raise UserError(f"{target}: already exists; remove it, or name another file with -o")
    if not target.absolute().parent.is_dir():
        raise UserError(f"{target}: its folder does not exist; create it, or name another file")


def _write(target: Path, text: str) -> None:
    """Write a file completely or not at all. Raises UserError if it can't be created."""
    from gaplab.storage.filesystem import Storage

    _check_target(target)
    Storage(str(target.absolute().parent)).save_text(target.name, text)


# --- describing -----------------------------------------------------------------------------------


def _text(spec: dict[str, Any], found: _Found) -> str:
    """Return the spec as YAML. Raises UserError for a path that YAML can't hold."""
    from gaplab.spec.starter import spec_text
    from gaplab.spec.yaml_text import YamlError

    try:
        return spec_text(spec, [*_remarks(found)])
    except YamlError as error:
        root = printable(spec["data"]["root"])
        raise UserError(f"{root}: a spec can't hold this path ({error}); rename it") from None


def _remarks(found: _Found) -> Iterator[str]:
    """Yield the comment above the spec."""
    train, val = found.counts["train"], found.counts["val"]
    classes = [f"{name} ({count})" for name, count in train.classes.items()]
    more = f", and {len(classes) - NAMED} more" if len(classes) > NAMED else ""
    yield "Written by gaplab init; change what you like, and see the result with gaplab plan."
    yield ""
    yield (
        f"{plural(train.images, 'picture')} ({found.pictures}) to train on, "
        f"{val.images} to validate."
    )
    yield f"Training objects of each class: {', '.join(classes[:NAMED])}{more}."
    yield _in_words(found)


def _in_words(found: _Found) -> str:
    """Return in one sentence what NMS would cost a perfect detector."""
    val = found.crowding["val"]
    return (
        f"Of the validation objects, {100 * val.above[0.5]:.1f} % overlap another one of their "
        f"class with IoU above 0.5; NMS at IoU {found.protocol.nms_iou:g} leaves a perfect "
        f"detector a recall of {100 * val.recall_ceiling:.1f} %."
    )


def _plain(found: _Found, target: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Return plain JSON."""
    return {
        "spec": str(target),
        "data": spec["data"],
        "input": asdict(found.size),
        "splits": {split: asdict(counts) for split, counts in found.counts.items()},
        "crowding": {split: asdict(each) for split, each in found.crowding.items()},
        "protocol": found.protocol.preset,
        "notes": found.notes,
    }


def _print(found: _Found, target: Path, spec: dict[str, Any]) -> None:
    console, size = open_console(), found.size
    console.print(split_table(found.counts))
    console.print(class_table(found.counts))
    console.print(crowding_table(found.crowding, found.protocol.nms_iou))
    for note in found.notes:
        sys.stdout.write(f"note: {printable(note)}\n")
    console.print(
        f"\npictures: {found.pictures}; input of the detector: {size.width}x{size.height}, in "
        f"which a tenth of the objects is smaller than {size.small_side:.0f} pixels"
    )
    file, trials = shlex.quote(str(target)), plural(len(spec["grid"]["assignment"]), "trial")
    sys.stdout.write(
        f"\n{printable(str(target))}: written, {trials}; next:\n"
        f"  gaplab plan {printable(file)}    # what would run, and what it would cost\n"
        f"  gaplab run {printable(file)}\n"
    )
