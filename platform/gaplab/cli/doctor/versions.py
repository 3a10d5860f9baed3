"""Installed packages against what gaplab asks for, and against versions with known holes."""

from collections.abc import Mapping
from importlib import metadata
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from gaplab.cli.doctor.finding import Finding


class Hole(NamedTuple):
    """A published hole that can matter here, and the first version without it."""

    package: str
    good: str
    advisory: str
    what: str


HOLES = (
    Hole("torch", "2.6.0", "CVE-2025-32434", "torch.load runs code in spite of weights_only"),
    Hole("torch", "2.10.0", "CVE-2026-24747", "a checkpoint corrupts memory under weights_only"),
    Hole("ray", "2.52.0", "CVE-2025-62593", "a web page may submit jobs to the dashboard"),
    Hole("ray", "2.54.0", "CVE-2026-27482", "a web page may delete jobs through the dashboard"),
    Hole("ray", "2.55.0", "CVE-2026-41486", "the schema of a Parquet file runs code"),
    Hole("ray", "2.56.0", "CVE-2026-57516", "a WebDataset archive runs code"),
    Hole("mlflow", "3.10.0", "CVE-2026-2652", "routes of the server go past its authentication"),
    Hole("mlflow", "3.17.2", "CVE-2026-53995", "the file store writes outside its folder"),
    Hole("pyarrow", "14.0.1", "CVE-2023-47248", "the schema of a Parquet file runs code"),
    Hole("pillow", "12.1.1", "CVE-2026-25990", "a PSD image writes out of bounds"),
    Hole("pillow", "12.3.0", "CVE-2026-59199", "pasting and cropping write out of bounds"),
    Hole("pillow", "13.0.0", "CVE-2026-96639", "an image of several frames writes out of bounds"),
    Hole("pyyaml", "5.4", "CVE-2020-14343", "a YAML file runs code in the full loader"),
    Hole("pydantic", "2.4.0", "CVE-2024-3772", "an e-mail address takes for ever to check"),
    Hole("sqlalchemy", "1.3.0", "CVE-2019-7164", "SQL injection through order_by"),
)
"""From the advisories' own pages. To add one: a line here, and its case in the tests."""
PACKAGES = (
    *("torch", "ray", "mlflow", "sqlalchemy", "psycopg"),
    *("pyarrow", "pydantic", "pillow", "pyyaml"),
)


def installed() -> dict[str, str | None]:
    """Version of each of `PACKAGES`, None where it isn't installed."""
    return {name: _version(name) for name in PACKAGES}


def wanted() -> dict[str, SpecifierSet]:
    """The versions that gaplab's own metadata asks for, by package."""
    needs = [Requirement(text) for text in metadata.requires("gaplab") or ()]
    always = [each for each in needs if each.marker is None or each.marker.evaluate({"extra": ""})]
    return {canonicalize_name(each.name): each.specifier for each in always}


def check_versions(
    found: Mapping[str, str | None], asked: Mapping[str, SpecifierSet]
) -> list[Finding]:
    """One finding a package, in the order of `found`."""
    return [_check(name, text, asked.get(name)) for name, text in found.items()]


def _check(name: str, text: str | None, asked: SpecifierSet | None) -> Finding:
    if text is None:
        return Finding("problem", name, "not installed", "pip install gaplab again")
    version = Version(text)
    if open_holes := [h for h in HOLES if h.package == name and version < Version(h.good)]:
        known = ", ".join(f"{hole.advisory} ({hole.what})" for hole in open_holes)
        good = max((hole.good for hole in open_holes), key=Version)
        return Finding("problem", name, f"{text} has {known}", f"install {good} or newer")
    if asked is not None and not asked.contains(version, prereleases=True):
        remedy = f"gaplab asks for {name}{asked}"
        return Finding("warn", name, f"{text} is not what gaplab is tested with", remedy)
    return Finding("ok", name, text)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
