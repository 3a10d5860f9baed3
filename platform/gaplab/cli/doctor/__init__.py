"""What can be wrong with a machine, its packages and its settings, before a sweep finds out.

A file for each subject: facts are gathered by its `look` or the like, and judged by pure functions.
"""

import os
from pathlib import Path

from gaplab.cli.doctor.cluster import check_access
from gaplab.cli.doctor.cluster import look as look_at_ray
from gaplab.cli.doctor.finding import Finding
from gaplab.cli.doctor.folder import check_folder
from gaplab.cli.doctor.folder import look as look_at_folder
from gaplab.cli.doctor.ledger import ledger_findings
from gaplab.cli.doctor.machine import check_machine, this_machine
from gaplab.cli.doctor.ports import check_ports
from gaplab.cli.doctor.sockets import listeners
from gaplab.cli.doctor.tracking import check_tracking
from gaplab.cli.doctor.versions import check_versions, installed, wanted

__all__ = ["Finding", "examine"]


def examine(home: Path, address: str) -> list[Finding]:
    """Everything `gaplab doctor` says of this machine; makes and changes nothing.

    home: the home folder, also one that isn't there; address: as `gaplab run --address` takes it.
    """
    place = home.expanduser().resolve()
    return [
        *check_machine(this_machine()),
        *check_versions(installed(), wanted()),
        *check_folder(look_at_folder(place)),
        *ledger_findings(place),
        *check_access(look_at_ray(address, os.environ)),
        *check_ports(listeners()),
        *check_tracking(os.environ, f"sqlite:///{place / 'mlflow.db'}"),
    ]
