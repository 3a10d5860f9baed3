"""`gaplab data`: check a data set and convert it, without training."""

import json as jsonlib
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaplab.cli.options import JsonOption, ProfileOption, SetOption
from gaplab.cli.render.tabular import PlainTable, number, plain_table, text
from gaplab.cli.render.terminal import open_console
from gaplab.errors import UserError
from gaplab.formatting import plural, printable

if TYPE_CHECKING:
    from detectors.data.base import DataOptions, Dataset, Split
    from detectors.data.summary import Counts, Summary

WRONG = 2
"""Exit code when a data set has problems."""
SHOWN = 20
"""Classes that are listed; --json lists all."""
LOOKED_FOR = (
    "data.yaml (YOLO), Annotations/*.xml (Pascal VOC), annotation_train.odgt (CrowdHuman), or "
    "JSON files in COCO's format whose names or folders say train and val"
)


Source = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER|SPEC", help="Folder of a data set, or a spec for the data of its trials."
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option("--as", metavar="NAME", help="Format, if a folder has several: coco, yolo, ..."),
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

    found = [summarise(each) for each in _data_sets(source, name, profile, overrides or [])]
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

    options = _single(source, _data_sets(source, name, profile, overrides or []))
    splits = _loaded(options)
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


# --- finding data sets ----------------------------------------------------------------------------


def _data_sets(
    source: Path, name: str | None, profile: str | None, overrides: Sequence[str]
) -> "list[DataOptions]":
    """Return the data sets of a folder or a spec.

    Raises:
        UserError: nothing is recognised, more than one data set is, or the spec has problems.
    """
    from detectors.data.recognise import yolo_section
    from gaplab.spec.files import load_spec

    own = yolo_section(source) if source.is_file() else None
    if own is None and (source.is_file() or source.suffix in (".yaml", ".yml")):
        variants = load_spec(source, profile, overrides).variants
        return list(dict.fromkeys(each.sections["data"].value for each in variants))
    if profile:
        raise UserError(f"{source}: --profile needs a spec, not a data set")
    return [_validated(own or _recognised(source, name), overrides)]


def _recognised(source: Path, name: str | None) -> dict[str, Any]:
    """Return the `data` section for a folder. Raises UserError unless it has one data set."""
    from detectors.data.base import DataError
    from detectors.data.recognise import recognise

    try:
        found = recognise(source)
    except DataError as error:
        raise UserError(*error.problems) from None
    wanted = [each for each in found if name in (None, each["name"])]
    if not wanted:
        raise UserError(f"{source}: no data set is recognised here; looked for {LOOKED_FOR}")
    if len(wanted) > 1:
        names = "; ".join(_shown(each) for each in wanted)
        raise UserError(
            f"{source}: has several data sets ({names}); choose one with --as or a spec"
        )
    return wanted[0]


def _validated(section: dict[str, Any], overrides: Sequence[str]) -> "DataOptions":
    """Return the options of a section after `--set`. Raises UserError for a wrong key or value."""
    from pydantic import ValidationError

    from gaplab.spec.fields import single_field_model
    from gaplab.spec.models import Experiment
    from gaplab.spec.overrides import override
    from gaplab.spec.problems import to_problem

    raw, _ = override({"data": section}, overrides)
    if others := ", ".join(raw.keys() - {"data"}):
        raise UserError(f"--set {others}: only keys of `data` can be set for a folder")
    model = single_field_model(Experiment, "data")
    try:
        options: DataOptions = model.model_validate(raw).data  # type: ignore[attr-defined]
    except ValidationError as error:
        raise UserError(*(f"--set {to_problem(e, model)}" for e in error.errors())) from None
    return options


def _shown(section: dict[str, Any]) -> str:
    options = (f"{key}: {value}" for key, value in section.items() if key not in ("name", "root"))
    return ", ".join((section["name"], *options))


def _single(source: Path, found: "list[DataOptions]") -> "DataOptions":
    if len(found) > 1:
        names = ", ".join(each.label for each in found)
        raise UserError(f"{source}: has several data sets ({names}); choose one with --set")
    return found[0]


def _loaded(options: "DataOptions") -> "dict[Split, Dataset]":
    """Load both splits. Raises UserError with the problems of both."""
    from detectors.data.base import DataError
    from detectors.data.photo_files import SPLITS

    found: dict[Split, Dataset] = {}
    problems: list[str] = []
    for split in SPLITS:
        try:
            found[split] = options.load(split)
        except DataError as error:
            problems += error.problems
    if problems:
        raise UserError(*dict.fromkeys(problems))
    return found


# --- printing -------------------------------------------------------------------------------------


def _plain(summary: "Summary") -> dict[str, Any]:
    """Return a summary as plain JSON."""
    return {
        "data": _section(summary),
        "splits": {split: asdict(counts) for split, counts in summary.splits.items()},
        "notes": summary.notes,
        "problems": summary.problems,
    }


def _section(summary: "Summary") -> dict[str, Any]:
    """Return the `data` section for a spec: the options that differ from their defaults."""
    section = summary.options.model_dump(mode="json", exclude_defaults=True)
    first = summary.splits.get("train")
    planned = (
        {"planned_images": first.images, "planned_classes": len(first.classes)} if first else {}
    )
    known = {key: v for key, v in planned.items() if key in type(summary.options).model_fields}
    return {"name": summary.options.model_dump()["name"], **section, **known}


def _print(summary: "Summary") -> None:
    console = open_console()
    if summary.splits:
        console.print(_split_table(summary.splits))
        console.print(_class_table(summary.splits))
    for note in summary.notes:
        sys.stdout.write(f"note: {printable(note)}\n")
    if summary.splits:
        _print_section(_section(summary))


def _print_section(section: dict[str, Any]) -> None:
    from gaplab.spec.yaml_text import dump_yaml

    sys.stdout.write(f"\n{dump_yaml({'data': section})}")


def _split_table(splits: "dict[Split, Counts]") -> PlainTable:
    keys = ("images", "empty", "objects", "crowd", "small", "medium", "large")
    rows = [[split, *(str(getattr(each, key)) for key in keys)] for split, each in splits.items()]
    legend = "empty: images without objects; small, medium, large: objects, as in COCO"
    return plain_table([text("split"), *map(number, keys)], rows, caption=legend)


def _class_table(splits: "dict[Split, Counts]") -> PlainTable:
    names = list(next(iter(splits.values())).classes)
    rows = [[name, *(str(each.classes[name]) for each in splits.values())] for name in names]
    more = f"the first {SHOWN} of {len(rows)} classes; --json lists all"
    caption = more if len(rows) > SHOWN else ""
    return plain_table([text("class"), *map(number, splits)], rows[:SHOWN], caption=caption)
