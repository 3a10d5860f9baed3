"""Installed packages against the versions that gaplab requires."""

import sysconfig
from collections.abc import Mapping
from importlib import metadata

from packaging.requirements import Requirement

from gaplab.cli.doctor.finding import Finding, ok, problem, warn


def installed() -> dict[Requirement, str | None]:
    """Return the installed version of each package that gaplab requires, None if it is missing."""
    needs = [Requirement(text) for text in metadata.requires("gaplab") or ()]
    always = [each for each in needs if each.marker is None or each.marker.evaluate({"extra": ""})]
    return {each: _version(each.name) for each in always}


def check_packages(versions: Mapping[Requirement, str | None]) -> list[Finding]:
    """Return one finding per required package, and how to look for known vulnerabilities."""
    audit = f"pipx run pip-audit --path {sysconfig.get_path('purelib')}"
    note = ok("vulnerabilities", f"not checked here; run: {audit}")
    return [*(_check(need, version) for need, version in versions.items()), note]


def _check(need: Requirement, version: str | None) -> Finding:
    if version is None:
        return problem(need.name, "not installed", f"pip install '{need}'")
    if not need.specifier.contains(version, prereleases=True):
        what = f"version {version}, but gaplab requires {need.specifier}"
        return warn(need.name, what, f"pip install '{need}'")
    return ok(need.name, version)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
