"""Variables of Ray and MLflow in the environment that a command does not use."""

import os
import sys
from collections.abc import Iterator, Mapping

from gaplab.storage.home import Home

_LOCAL, _AUTO = "local", "auto"


def print_ignored(home: Home, address: str | None = None) -> None:
    """Print a line to standard error for each variable that has no effect on this command.

    Args:
        home: the home folder, to whose database runs are copied.
        address: the value of `--address`; None for a command that does not use Ray.
    """
    for line in ignored(os.environ, home, address):
        sys.stderr.write(f"gaplab: {line}\n")


def ignored(environ: Mapping[str, str], home: Home, address: str | None) -> Iterator[str]:
    """Yield a line for each variable that has no effect. Values may hold passwords: none is shown.

    Args:
        environ: the environment.
        home: the home folder.
        address: as for `print_ignored`.
    """
    if environ.get("MLFLOW_TRACKING_URI", "") not in ("", home.mlflow_uri):
        command = home.command("ui")
        yield (
            f"MLFLOW_TRACKING_URI is ignored: runs are copied to {home.mlflow_path}; see them "
            f"with: {command}"
        )
    named = environ.get("RAY_ADDRESS", "")
    if address in (None, _AUTO) or named in ("", address):
        return
    used = "a cluster of its own" if address == _LOCAL else f"--address {address}"
    yield f"RAY_ADDRESS is ignored: this command uses {used}; add --address auto to use it"
