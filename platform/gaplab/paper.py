"""What a paper printed: the rows of its tables, from a JSON file."""

import json
from pathlib import Path

from pydantic import ConfigDict, ValidationError

from detectors.options import Options
from gaplab.errors import UserError
from gaplab.problems import explain

FILE = "paper_results.json"
_SIZES = {"ap_small": "aps", "ap_medium": "apm", "ap_large": "apl"}
"""Our name of a metric -> the file's."""


class PaperRow(Options):
    """One row of a paper's table; what else the file says of it is not read."""

    model_config = ConfigDict(extra="ignore")

    id: str
    row: str = ""
    """What the paper calls it."""
    metrics: dict[str, float]
    """Percent points: without NMS, and with it under names that end in `_nms`."""

    def number(self, metric: str) -> float | None:
        """The metric of our name `metric`; a gap is the difference of what stands with and without.

        AP is AP50 where the row has no other, as on CrowdHuman, whose AP is one at this overlap.
        """
        name = "ap_gap" if metric == "gap" else metric
        if name.endswith("_gap"):
            pair = [self.number(name.removesuffix("_gap") + suffix) for suffix in ("", "_nms")]
            return None if None in pair else round(pair[0] - pair[1], 4)  # type: ignore[operator]
        base = name.removesuffix("_nms")
        here = "ap50" if base == "ap" and self.metrics.keys().isdisjoint({"ap", "ap_nms"}) else base
        return self.metrics.get(_SIZES.get(here, here) + name[len(base) :])

    def names(self) -> set[str]:
        """The metrics that it has, by our names."""
        ours = {theirs: name for name, theirs in _SIZES.items()}
        bases = {"ap", *(name.removesuffix("_nms") for name in self.metrics)}
        found = {f"{ours.get(base, base)}{end}" for base in bases for end in ("", "_nms", "_gap")}
        return {name for name in found if self.number(name) is not None}


class _PaperFile(Options):
    model_config = ConfigDict(extra="ignore")

    rows: list[PaperRow]


def nearest_paper(spec: Path) -> Path | None:
    """`paper_results.json` in the folder of `spec`, or in the nearest folder above that has one."""
    folders = spec.resolve().parents
    return next((path for folder in folders if (path := folder / FILE).is_file()), None)


def read_paper(path: Path) -> dict[str, PaperRow]:
    """The rows of the file at `path` by id. Raises UserError, one line for each problem."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # not JSON, or not UTF-8
        raise UserError(f"{path}: is not JSON: {error}") from None
    try:
        rows = _PaperFile.model_validate(content).rows
    except ValidationError as error:
        found = [explain(each, _PaperFile) for each in error.errors(include_url=False)]
        raise UserError(*(f"{path}: {problem}" for problem in found)) from None
    ids = [row.id for row in rows]
    if twice := sorted({each for each in ids if ids.count(each) > 1}):
        raise UserError(*(f"{path}: rows: id {each} stands here twice" for each in twice))
    return dict(zip(ids, rows, strict=True))
