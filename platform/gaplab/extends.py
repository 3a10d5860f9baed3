"""A spec file and the files that it extends: read, and named as messages call them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaplab.errors import UserError
from gaplab.problems import shown
from gaplab.yamlfile import MAX_BYTES, YamlError, parse_yaml

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
