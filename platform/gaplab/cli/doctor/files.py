"""The files that a ledger names: whether they are in the home folder."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from gaplab.cli.doctor.finding import Finding, ok, problem, warn
from gaplab.errors import UserError
from gaplab.ledger import Reader
from gaplab.storage.filesystem import Storage
from gaplab.storage.home import Home

_SHOWN = 3


@dataclass(frozen=True)
class StoredFiles:
    """Facts about the candidates and matches of all evaluations."""

    home: str
    total: int
    missing: Sequence[str]
    shared: bool  # whether other homes may use the same ledger


def inspect_files(home: Home) -> StoredFiles | None:
    """Look for every file; None if there is no ledger of this version to read."""
    if not home.has_ledger:
        return None
    try:
        with Reader.open(home.ledger_url) as ledger:
            stored = sorted(ledger.stored_files())
    except UserError:  # `check_ledger` reports it
        return None
    storage = Storage(str(home.path))
    local = [each for each in stored if "://" not in each]
    missing = [each for each in local if not os.path.exists(storage.locate(each))]
    shared = bool(os.environ.get("GAPLAB_LEDGER"))
    return StoredFiles(str(home.path), len(local), missing, shared)


def check_files(files: StoredFiles | None) -> list[Finding]:
    """Return a finding about the files; none if they are not known."""
    if files is None:
        return []
    if not files.missing:
        return [ok("files", f"all {files.total} that the ledger names are in {files.home}")]
    more = ", ..." if len(files.missing) > _SHOWN else ""
    which = ", ".join(files.missing[:_SHOWN]) + more
    what = f"{len(files.missing)} of {files.total} are not in {files.home}: {which}"
    if files.shared:
        return [warn("files", what, "for their trials, give the --home in which they were trained")]
    remedy = "copy the whole home folder; without them, reevaluate, explain and intervals fail"
    return [problem("files", what, remedy)]
