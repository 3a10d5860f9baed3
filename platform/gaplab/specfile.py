"""Spec files: a YAML file, a profile, and `--set`, read into a checked `Spec`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gaplab.errors import UserError
from gaplab.layers import Layer, located, merge
from gaplab.overrides import override, varied_sections
from gaplab.problems import Problem, explain, shown, unknown, unknown_key
from gaplab.spec import Experiment, Spec
from gaplab.sweep import base_problems, resolve
from gaplab.yamlfile import MAX_BYTES, YamlError, parse_yaml

DEFAULT_PROFILE = "laptop"

_SWEEP_KEYS = [key for key in Spec.model_fields if key != "base"]


def load_spec(path: Path, profile: str | None = None, overrides: Sequence[str] = ()) -> Spec:
    """Read the spec at `path` with a profile laid over it, by default `laptop` where there is one.

    overrides: `key=value` each, the value in YAML; they come last (see `overrides.override`).
    Raises UserError with every problem of the file, its profile and its trials, one line each.
    """
    written = _read(path)
    raw, layers = _profiled(path, written, profile)
    raw, added = override(raw, overrides)
    spec, problems = _checked(raw)
    if spec is not None:
        problems += resolve(spec)[1]
    else:
        problems += base_problems(_base(raw), varied_sections(raw))
    if problems or spec is None:
        lines = [located(problem, [*layers, *added]) for problem in problems]
        raise UserError(*dict.fromkeys(lines))
    return spec


def _read(path: Path) -> dict[str, Any]:
    """The mapping in a file of at most MAX_BYTES."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1).decode("utf-8-sig")
        found = parse_yaml(text)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text") from None
    except YamlError as error:
        raise UserError(f"{path.name}: {error}") from None
    if found is None:
        raise UserError(f"{path.name}: is empty; a spec needs name, data, detector and assignment")
    if not isinstance(found, dict):
        raise UserError(f"{path.name}: must be a mapping, got {shown(found)}")
    return found


def _profiled(
    path: Path, written: dict[str, Any], profile: str | None
) -> tuple[dict[str, Any], list[Layer]]:
    """The file with the profile laid over it, and the layers this came from."""
    base = {key: value for key, value in written.items() if key != "profiles"}
    layers = [Layer(base, f"{path.name}: ")]
    profiles = written.get("profiles", {})
    if not isinstance(profiles, Mapping):
        raise UserError(f"{path.name}: profiles: must be a mapping, got {shown(profiles)}")
    name = profile or (DEFAULT_PROFILE if DEFAULT_PROFILE in profiles else None)
    if name is None:
        return base, layers
    if name not in profiles:
        raise UserError(f"{path.name}: profiles: {unknown(name, profiles)}")
    if not isinstance(profiles[name], Mapping):
        text = f"must be a mapping, got {shown(profiles[name])}"
        raise UserError(f"{path.name}: profiles.{name}: {text}")
    layers.append(Layer(profiles[name], f"{path.name}: ", ("profiles", name)))
    return merge(base, profiles[name]), layers


def _base(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: raw[key] for key in raw if key in Experiment.model_fields}


def _checked(raw: Mapping[str, Any]) -> tuple[Spec | None, list[Problem]]:
    """The spec, unless its own keys are wrong; sections are not looked into."""
    valid = [*_SWEEP_KEYS, *Experiment.model_fields]
    strange = [key for key in raw if key not in valid]
    advice = [*valid, "profiles"]
    problems = [Problem((key,), unknown_key(key, advice), True) for key in strange]
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
