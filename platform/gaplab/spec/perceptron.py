"""Specs of experiments with perceptrons (000 section 4). They are no sweeps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from detectors.options import Options
from detectors.perceptron import PerceptronOptions
from gaplab.errors import UserError
from gaplab.spec.problems import Problem, problems_of
from gaplab.spec.yaml_text import YamlError, parse_yaml, read_text

KEY = "perceptron"
"""The key by which such a spec differs from that of a sweep."""


class PerceptronSpec(Options):
    """A spec: rows with different options, trained on the same images."""

    name: str = Field(min_length=1)
    """Name of the experiment."""
    question: str = ""
    """The question that it answers."""
    perceptron: PerceptronOptions = PerceptronOptions()
    """Options of all rows."""
    rows: dict[str, PerceptronOptions] = Field(min_length=1)
    """Names of rows, each with the options in which it differs."""


def is_perceptron(path: Path) -> bool:
    """Return whether a file is such a spec. False for one that can't be read."""
    try:
        text = read_text(path)
        content = parse_yaml(text) if KEY in text else None
    except (OSError, YamlError):
        return False
    return isinstance(content, dict) and KEY in content


def read_perceptron(path: Path) -> PerceptronSpec:
    """Read a spec of perceptrons.

    Raises:
        UserError: the file can't be read or is not valid; one line per problem.
    """
    try:
        content = parse_yaml(read_text(path))
    except (OSError, YamlError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{path}: {why}") from None
    if not isinstance(content, dict) or KEY not in content:
        raise UserError(
            f"{path}: not a spec of perceptrons, which has the key {KEY}; run others with: gaplab "
            f"run {path}"
        )
    try:
        return PerceptronSpec.model_validate(_with_shared(content))
    except ValidationError as error:
        found = [_shown(each, content) for each in problems_of(error, PerceptronSpec)]
        raise UserError(*dict.fromkeys(f"{path}: {each}" for each in found)) from None


def _with_shared(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec with the shared options in each row."""
    shared, rows = content[KEY], content.get("rows")
    if not isinstance(shared, dict) or not isinstance(rows, dict):
        return dict(content)
    merged = {name: shared | own if isinstance(own, dict) else own for name, own in rows.items()}
    return {**content, "rows": merged}


def _shown(problem: Problem, content: Mapping[str, Any]) -> Problem:
    """Return a problem of a row that has the value from the shared options as one of these."""
    first, *rest = problem.path or ("",)
    shared, rows = content[KEY], content.get("rows")
    if first == "rows" and len(rest) == 2 and isinstance(rows, dict) and isinstance(shared, dict):
        row, key = rest
        own = rows.get(row)
        if isinstance(own, dict) and key not in own and key in shared:
            return Problem((KEY, key), problem.text, problem.of_key)
    return problem
