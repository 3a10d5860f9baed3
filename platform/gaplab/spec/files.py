"""Read spec files: a YAML file, the files it extends, a profile, and `--set`.

`load_spec` is the way in. It reports all problems at once, each as one line that starts with the
file, the profile or the `--set` it comes from.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gaplab.errors import UserError
from gaplab.records import SweepRecord
from gaplab.spec.fields import dotted_keys
from gaplab.spec.merge import Layer, describe_problem, merge
from gaplab.spec.models import Experiment, Spec
from gaplab.spec.overrides import override, varied_sections
from gaplab.spec.perceptron import KEY as PERCEPTRON
from gaplab.spec.problems import Problem, format_value, problems_of, unknown, unknown_dotted
from gaplab.spec.resolve import ResolvedSpec, SpecError, base_problems, resolve
from gaplab.spec.yaml_text import YamlError, parse_yaml, read_text

DEFAULT_PROFILE = "laptop"
MAX_DEPTH = 4
"""Number of files that a spec may extend, directly or indirectly."""

_SWEEP_KEYS = [key for key in Spec.model_fields if key != "base"]
_FILE_KEYS = ("extends", "profiles")


def load_spec(
    path: str | os.PathLike[str], profile: str | None = None, overrides: Sequence[str] = ()
) -> ResolvedSpec:
    """Read and validate a spec file.

    Later layers override earlier ones: the files that the spec extends, the spec, the profile of
    each of these files in the same order, and `overrides`.

    Args:
        path: the YAML file.
        profile: name of a profile; by default `laptop`, if one of the files has it.
        overrides: `key=value` each, with the value in YAML (see `overrides.override`).

    Raises:
        UserError: with every problem of the files, their profiles and the trials, one line each.

    Examples:
        >>> import gaplab
        >>> quick = ["training.epochs=2"]
        >>> resolved = gaplab.load_spec("experiments/quickstart.yaml", overrides=quick)
        >>> resolved.spec.name
        'quickstart'
    """
    return _load(_layers(_read_files(Path(path)), profile), overrides)


def with_overrides(sweep: SweepRecord, overrides: Sequence[str]) -> ResolvedSpec:
    """Return the spec of a stored sweep with other values.

    Raises:
        UserError: with every problem, one line each.
    """
    return _load([Layer(parse_yaml(sweep.spec), f"sweep {sweep.id}: ")], overrides)


def _load(layers: Sequence[Layer], overrides: Sequence[str]) -> ResolvedSpec:
    raw, added = override(reduce(merge, (layer.tree for layer in layers)), overrides)
    resolved, problems = _resolved(raw)
    if resolved is None or problems:
        lines = [describe_problem(problem, [*layers, *added]) for problem in problems]
        raise UserError(*dict.fromkeys(lines))
    return resolved


def stored_spec(sweep: SweepRecord) -> Spec:
    """Return the spec of a sweep, with the settings that it was run with last.

    Raises:
        UserError: if this version of gaplab can't read it.
    """
    raw = parse_yaml(sweep.spec)
    spec, problems = _validated(raw if isinstance(raw, dict) else {})
    if spec is None or problems:
        raise UserError(*(f"sweep {sweep.id}: {problem}" for problem in problems))
    return spec


# --- files ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _SpecFile:
    """The content of one file."""

    name: str
    """Path relative to the folder of the spec, for messages."""
    content: Mapping[str, Any]
    """Everything but `extends` and `profiles`."""
    profiles: Mapping[str, Mapping[str, Any]]


def _read_files(path: Path) -> list[_SpecFile]:
    """Read the file at `path` and those it extends, the file that extends nothing first.

    Raises:
        UserError: if a file can't be read or is not valid, if the files extend each other in a
            circle, or if more than `MAX_DEPTH` files are extended.
    """
    found, paths, start = list[_SpecFile](), list[Path](), path.parent
    names, label = [path.name], str(path)
    while True:
        paths.append(path)
        content = _read_mapping(path, names[-1], label)
        found.append(_spec_file(names[-1], content))
        if "extends" not in content:
            return found[::-1]
        path = _extended_path(path, names[-1], content["extends"])
        names.append(os.path.relpath(path, start))
        label = f"{names[-2]}: extends: {content['extends']}"
        chain = " -> ".join(names)
        if any(path.resolve() == other.resolve() for other in paths):
            raise UserError(f"{names[-2]}: extends: is circular: {chain}")
        if len(paths) > MAX_DEPTH:
            raise UserError(f"{names[-2]}: extends: more than {MAX_DEPTH} files deep: {chain}")


def _extended_path(path: Path, name: str, extends: Any) -> Path:
    """Return the path of the file that the file at `path` extends."""
    if not isinstance(extends, str) or not extends:
        text = f"must be a path relative to this file, got {format_value(extends)}"
        raise UserError(f"{name}: extends: {text}")
    return path.parent / extends


def _read_mapping(path: Path, name: str, label: str) -> dict[str, Any]:
    """Return the mapping in a file.

    Args:
        path: the file.
        name: start of messages about its content.
        label: start of messages about a file that can't be opened.
    """
    try:
        found = parse_yaml(read_text(path))
    except IsADirectoryError:
        raise UserError(f"{label}: is a folder; give the path of a YAML file") from None
    except OSError as error:
        raise UserError(f"{label}: {error.strerror}") from None
    except YamlError as error:
        raise UserError(f"{name}: {error}") from None
    if found is None:
        raise UserError(f"{name}: is empty; a spec needs name, data, detector and assignment")
    if not isinstance(found, dict):
        raise UserError(f"{name}: must be a mapping, got {format_value(found)}")
    if PERCEPTRON in found:
        raise UserError(f"{name}: trains perceptrons, no detectors; use: gaplab perceptron {path}")
    return found


def _spec_file(name: str, raw: Mapping[str, Any]) -> _SpecFile:
    profiles = raw.get("profiles", {})
    if not isinstance(profiles, Mapping):
        raise UserError(f"{name}: profiles: must be a mapping, got {format_value(profiles)}")
    for profile, values in profiles.items():
        if not isinstance(values, Mapping):
            text = f"must be a mapping, got {format_value(values)}"
            raise UserError(f"{name}: profiles.{profile}: {text}")
    content = {key: raw[key] for key in raw if key not in _FILE_KEYS}
    return _SpecFile(name, content, profiles)


def _layers(files: Sequence[_SpecFile], profile: str | None) -> list[Layer]:
    """Return the layers of a spec in the order in which they are merged.

    Raises:
        UserError: for a profile that no file has.
    """
    layers = [Layer(file.content, f"{file.name}: ") for file in files]
    known = list(dict.fromkeys(name for file in files for name in file.profiles))
    name = profile or (DEFAULT_PROFILE if DEFAULT_PROFILE in known else None)
    if name is None:
        return layers
    if name not in known:
        raise UserError(f"{files[-1].name}: profiles: {unknown(name, known)}")
    return layers + [
        Layer(file.profiles[name], f"{file.name}: ", ("profiles", name))
        for file in files
        if name in file.profiles
    ]


# --- validation -----------------------------------------------------------------------------------


def _resolved(raw: Mapping[str, Any]) -> tuple[ResolvedSpec | None, list[Problem]]:
    """Resolve a spec as far as its problems allow, and return all of them."""
    spec, problems = _validated(raw)
    if spec is None:
        return None, problems + base_problems(_base(raw), varied_sections(raw))
    try:
        return resolve(spec), problems
    except SpecError as error:
        return None, [*problems, *error.found]


def _validated(raw: Mapping[str, Any]) -> tuple[Spec | None, list[Problem]]:
    """Validate the sweep's own keys of a spec, but not its sections.

    Returns:
        The spec, or None if a value is wrong, and all problems; unknown keys are among them.
    """
    valid = [*_SWEEP_KEYS, *Experiment.model_fields]
    problems = [_unknown_top_key(key, valid) for key in raw if key not in valid]
    own = {key: raw[key] for key in _SWEEP_KEYS if key in raw}
    try:
        return Spec.model_validate({**own, "base": _base(raw)}), problems
    except ValidationError as error:
        return None, problems + [_without_zip_form(each) for each in problems_of(error, Spec)]


def _unknown_top_key(key: str, valid: Sequence[str]) -> Problem:
    if key in _FILE_KEYS:  # of a file's own top level these are removed before
        return Problem((key,), "unknown key; only allowed at the top level of a file", True)
    known = [*valid, *_FILE_KEYS, *dotted_keys(Experiment), *dotted_keys(Spec)]
    text = unknown_dotted(key, (each for each in known if each != "base"), [*valid, *_FILE_KEYS])
    return Problem((key,), text, True)


def _base(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: raw[key] for key in raw if key in Experiment.model_fields}


def _without_zip_form(problem: Problem) -> Problem:
    """Remove the step by which pydantic names the form of `zip` (one group or several)."""
    path = problem.path
    return Problem(path[:1] + path[2:], problem.text) if path[0] == "zip" else problem
