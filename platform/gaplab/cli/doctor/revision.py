"""The version of a ledger's tables."""

from gaplab.cli.doctor.finding import Finding
from gaplab.ledger.migrate import HEAD


def check_version(where: str, version: str | None) -> Finding:
    """The version of a ledger's tables against the one that this gaplab knows."""
    if version is None:
        return Finding("ok", "ledger", f"{where} is empty; the first command makes its tables")
    if version > HEAD:
        what = f"{where} is of version {version}, this gaplab knows up to {HEAD}"
        return Finding("problem", "ledger", what, "upgrade gaplab")
    later = "" if version == HEAD else f"; the next command upgrades it to {HEAD}"
    return Finding("ok", "ledger", f"{where}, version {version}{later}")
