"""`gaplab data`: check a data set and convert it, without training."""

import json as jsonlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaplab.cli.datasets import NameOption, data_section, data_sets, loaded, single
from gaplab.cli.options import JsonOption, ProfileOption, SetOption
from gaplab.cli.render.datasets import class_table, split_table
from gaplab.cli.render.terminal import open_console
from gaplab.errors import UserError
from gaplab.formatting import plural, printable

if TYPE_CHECKING:
    from detectors.data.summary import Summary

WRONG = 2
"""Exit code when a data set has problems."""
Source = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER|SPEC", help="Folder of a data set, or a spec for the data of its trials."
    ),
]


def data() -> None:
    """Check a data set or convert it to COCO's format, without training."""


def check(
    source: Source,
    name: NameOption = None,
    profile: ProfileOption = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Check and count a data set; print the section for a spec.

    The format of a folder is recognised by its files. Every image is decoded. The exit code is 2 if
    there are problems; the counts are then those of what `on_bad: skip` would keep.
    """
    from detectors.data.summary import summarise

    found = [summarise(each) for each in data_sets(source, name, profile, overrides or [])]
    problems = tuple(line for each in found for line in each.problems)
    if json:
        sys.stdout.write(jsonlib.dumps([_plain(each) for each in found], indent=2) + "\n")
        raise typer.Exit(WRONG if problems else 0)
    for each in found:
        _print(each)
    if problems:
        raise UserError(*problems)


def convert(
    source: Source,
    target: Annotated[
        Path, typer.Argument(metavar="NEW_FOLDER", help="Folder to create; it must not exist.")
    ],
    copy: Annotated[bool, typer.Option("--copy", help="Copy images instead of linking.")] = False,
    name: NameOption = None,
    profile: ProfileOption = None,
    overrides: SetOption = None,
) -> None:
    """Write a data set in COCO's format, with links to its images.

    The splits are written as train.json and val.json, with links in images/train and images/val. A
    data set with problems is refused; `--set data.on_bad=skip` converts the rest.
    """
    from detectors.data.base import DataError
    from detectors.data.coco_writer import write_coco
    from detectors.data.photos import PhotoDataset

    options = single(source, data_sets(source, name, profile, overrides or []))
    splits = loaded(options)
    photographs = {s: data for s, data in splits.items() if isinstance(data, PhotoDataset)}
    if len(photographs) < len(splits):
        raise UserError(f"{source}: has no image files to convert; its images are drawn")
    try:
        write_coco(photographs, target, copy=copy)
    except DataError as error:
        raise UserError(*error.problems) from None
    for split, found in photographs.items():
        sys.stdout.write(f"{target / split}.json: {plural(len(found), 'image')}\n")
    places = {f"{split}_images": f"images/{split}" for split in photographs}
    kept = options.model_dump(mode="json", exclude_defaults=True, include={"exif"})
    _print_section({"name": "coco", "root": str(target.absolute()), **places, **kept})


def _plain(summary: "Summary") -> dict[str, Any]:
    """Return a summary as plain JSON."""
    return {
        "data": _section(summary),
        "splits": {split: asdict(counts) for split, counts in summary.splits.items()},
        "notes": summary.notes,
        "problems": summary.problems,
    }


def _section(summary: "Summary") -> dict[str, Any]:
    return data_section(summary.options, summary.splits.get("train"))


def _print(summary: "Summary") -> None:
    console = open_console()
    if summary.splits:
        console.print(split_table(summary.splits))
        console.print(class_table(summary.splits))
    for note in summary.notes:
        sys.stdout.write(f"note: {printable(note)}\n")
    if summary.splits:
        _print_section(_section(summary))


def _print_section(section: dict[str, Any]) -> None:
    from gaplab.spec.yaml_text import dump_yaml

    sys.stdout.write(f"\n{dump_yaml({'data': section})}")
