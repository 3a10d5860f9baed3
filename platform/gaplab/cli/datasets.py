"""Find and load the data sets that commands name: folders, data.yaml files and specs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaplab.errors import UserError

if TYPE_CHECKING:
    from detectors.data.base import DataOptions, Dataset, Split
    from detectors.data.summary import Counts

LOOKED_FOR = (
    "data.yaml (YOLO), Annotations/*.xml (Pascal VOC), annotation_train.odgt (CrowdHuman), or "
    "JSON files in COCO's format whose names or folders say train and val"
)
NameOption = Annotated[
    str | None,
    typer.Option("--as", metavar="NAME", help="Format, if a folder has several: coco, yolo, ..."),
]


def data_sets(
    source: Path, name: str | None, profile: str | None, overrides: Sequence[str]
) -> "list[DataOptions]":
    """Return the data sets of a folder or a spec.

    Raises:
        UserError: nothing is recognised, more than one data set is, or the spec has problems.
    """
    from gaplab.spec.files import load_spec

    if is_spec(source):
        variants = load_spec(source, profile, overrides).variants
        return list(dict.fromkeys(each.sections["data"].value for each in variants))
    if profile:
        raise UserError(f"{source}: --profile needs a spec, not a data set")
    return [data_set(source, name, overrides)]


def is_spec(source: Path) -> bool:
    """Return whether a path is that of a spec, not of a folder or of YOLO's data.yaml."""
    from detectors.data.recognise import yolo_section

    named = source.is_file() or source.suffix in (".yaml", ".yml")
    return named and not (source.is_file() and yolo_section(source))


def data_set(source: Path, name: str | None, overrides: Sequence[str]) -> "DataOptions":
    """Return the data set of a folder, or of YOLO's data.yaml.

    Raises:
        UserError: nothing is recognised, or more than one data set is.
    """
    from detectors.data.recognise import yolo_section

    own = yolo_section(source) if source.is_file() else None
    return _validated(own or _recognised(source, name), overrides)


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
    from gaplab.spec.problems import problems_of

    raw, _ = override({"data": section}, overrides)
    if others := ", ".join(raw.keys() - {"data"}):
        raise UserError(f"--set {others}: only keys of `data` can be set for a folder")
    model = single_field_model(Experiment, "data")
    try:
        options: DataOptions = model.model_validate(raw).data  # type: ignore[attr-defined]
    except ValidationError as error:
        raise UserError(*(f"--set {each}" for each in problems_of(error, model))) from None
    return options


def _shown(section: dict[str, Any]) -> str:
    options = (f"{key}: {value}" for key, value in section.items() if key not in ("name", "root"))
    return ", ".join((section["name"], *options))


def single(source: Path, found: "list[DataOptions]") -> "DataOptions":
    """Return the only data set. Raises UserError if there are several."""
    if len(found) > 1:
        names = ", ".join(each.label for each in found)
        raise UserError(f"{source}: has several data sets ({names}); choose one with --set")
    return found[0]


def loaded(options: "DataOptions") -> "dict[Split, Dataset]":
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


def data_section(options: "DataOptions", train: "Counts | None") -> dict[str, Any]:
    """Return the `data` section for a spec: the options that differ from their defaults.

    Args:
        options: the data set.
        train: what the training split holds; None: nothing.
    """
    section = options.model_dump(mode="json", exclude_defaults=True)
    planned = (
        {"planned_images": train.images, "planned_classes": len(train.classes)} if train else {}
    )
    known = {key: v for key, v in planned.items() if key in type(options).model_fields}
    return {"name": options.model_dump()["name"], **section, **known}
