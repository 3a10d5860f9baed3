"""Spec files: a YAML file, what it extends, a profile, and `--set`, read into a checked `Spec`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gaplab.errors import UserError
from gaplab.records import SweepRecord
from gaplab.spec.merge import Layer, located, merge
from gaplab.spec.models import Experiment, Spec
from gaplab.spec.overrides import override, varied_sections
from gaplab.spec.problems import Problem, explain, shown, unknown, unknown_key
from gaplab.spec.resolve import ResolvedSpec, SpecError, base_problems, resolve
from gaplab.spec.yaml_text import MAX_BYTES, YamlError, parse_yaml

MAX_DEPTH = 4
"""Files below a spec."""


@dataclass(frozen=True)
class SpecFile:
    """What stands in one file, without `extends`."""

    name: str
    """What messages call it: its path as seen from the folder of the spec."""
    content: Mapping[str, Any]
    profiles: Mapping[str, Mapping[str, Any]]


def read_files(path: Path) -> list[SpecFile]:
    """The file at `path` and those below it, the lowest first.

    Raises UserError where one can't be read or has no such form, and where they form a circle or
    are more than MAX_DEPTH below the first.
    """
    found, paths, start = list[SpecFile](), list[Path](), path.parent
    names, told = [path.name], str(path)
    while True:
        paths.append(path)
        content = _read(path, names[-1], told)
        found.append(_file(names[-1], content))
        if "extends" not in content:
            return found[::-1]
        path = _below(path, names[-1], content["extends"])
        names.append(os.path.relpath(path, start))
        told = f"{names[-2]}: extends: {content['extends']}"
        if any(path.resolve() == other.resolve() for other in paths):
            raise UserError(f"{names[-2]}: extends: goes in a circle: {' -> '.join(names)}")
        if len(paths) > MAX_DEPTH:
            chain = " -> ".join(names)
            raise UserError(f"{names[-2]}: extends: more than {MAX_DEPTH} files deep: {chain}")


def _below(path: Path, name: str, extends: Any) -> Path:
    """The path that the file at `path` extends."""
    if not isinstance(extends, str) or not extends:
        text = f"must be a path relative to this file, got {shown(extends)}"
        raise UserError(f"{name}: extends: {text}")
    return path.parent / extends


def _read(path: Path, name: str, told: str) -> dict[str, Any]:
    """The mapping in a file of at most MAX_BYTES; `told` names a file that can't be opened."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1).decode("utf-8-sig")
        found = parse_yaml(text)
    except OSError as error:
        raise UserError(f"{told}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{told}: is not UTF-8 text") from None
    except YamlError as error:
        raise UserError(f"{name}: {error}") from None
    if found is None:
        raise UserError(f"{name}: is empty; a spec needs name, data, detector and assignment")
    if not isinstance(found, dict):
        raise UserError(f"{name}: must be a mapping, got {shown(found)}")
    return found


def _file(name: str, written: Mapping[str, Any]) -> SpecFile:
    profiles = written.get("profiles", {})
    if not isinstance(profiles, Mapping):
        raise UserError(f"{name}: profiles: must be a mapping, got {shown(profiles)}")
    for profile, values in profiles.items():
        if not isinstance(values, Mapping):
            text = f"must be a mapping, got {shown(values)}"
            raise UserError(f"{name}: profiles.{profile}: {text}")
    content = {key: written[key] for key in written if key not in ("profiles", "extends")}
    return SpecFile(name, content, profiles)


DEFAULT_PROFILE = "laptop"

_SWEEP_KEYS = [key for key in Spec.model_fields if key != "base"]
_OF_FILES = ("extends", "profiles")
_ONLY_OF_FILES = "unknown key; it can only stand at the top of a file"


def load_spec(
    path: Path, profile: str | None = None, overrides: Sequence[str] = ()
) -> ResolvedSpec:
    """Read the spec at `path` with a profile laid over it, by default `laptop` where there is one.

    A file that it `extends` lies below it, and that file's profile below its own.
    overrides: `key=value` each, the value in YAML; they come last (see `overrides.override`).
    Raises UserError with every problem of the files, their profiles and the trials, a line each.
    """
    layers = _layers(read_files(path), profile)
    raw, added = override(reduce(merge, (layer.tree for layer in layers)), overrides)
    resolved, problems = _resolved(raw)
    if resolved is None or problems:
        lines = [located(problem, [*layers, *added]) for problem in problems]
        raise UserError(*dict.fromkeys(lines))
    return resolved


def _resolved(raw: Mapping[str, Any]) -> tuple[ResolvedSpec | None, list[Problem]]:
    """Resolve a spec as far as its problems allow, and return all of them."""
    spec, problems = _checked(raw)
    if spec is None:
        return None, problems + base_problems(_base(raw), varied_sections(raw))
    try:
        return resolve(spec), problems
    except SpecError as error:
        return None, [*problems, *error.found]


def stored_spec(sweep: SweepRecord) -> Spec:
    """The spec that a sweep was made from. Raises UserError where this gaplab can't read it."""
    raw = parse_yaml(sweep.spec)
    spec, problems = _checked(raw if isinstance(raw, dict) else {})
    if spec is None or problems:
        raise UserError(*(f"sweep {sweep.id}: {problem}" for problem in problems))
    return spec


def _layers(files: Sequence[SpecFile], profile: str | None) -> list[Layer]:
    """What the files say, in the order in which it counts: first all files, then their profiles.

    Raises UserError for a profile that no file has.
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


def _base(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: raw[key] for key in raw if key in Experiment.model_fields}


def _checked(raw: Mapping[str, Any]) -> tuple[Spec | None, list[Problem]]:
    """The spec, unless its own keys are wrong; sections are not looked into."""
    valid = [*_SWEEP_KEYS, *Experiment.model_fields]
    advice = [*valid, *_OF_FILES]
    problems = [
        Problem((key,), _ONLY_OF_FILES if key in _OF_FILES else unknown_key(key, advice), True)
        for key in raw
        if key not in valid
    ]
    own = {key: raw[key] for key in _SWEEP_KEYS if key in raw}
    try:
        return Spec.model_validate({**own, "base": _base(raw)}), problems
    except ValidationError as error:
        found = [explain(each, Spec) for each in error.errors(include_url=False)]
        return None, problems + [_without_form(problem) for problem in found]


def _without_form(problem: Problem) -> Problem:
    """The same problem without the step by which pydantic names the form of `zip`."""
    path = problem.path
    return Problem(path[:1] + path[2:], problem.text) if path[0] == "zip" else problem
