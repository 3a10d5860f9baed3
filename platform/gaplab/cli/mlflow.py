"""`gaplab ui` and `gaplab mirror`: the results of the ledger in MLflow."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from gaplab.cli.environment import print_ignored
from gaplab.cli.opening import read_ledger
from gaplab.cli.options import HomeOption
from gaplab.errors import UserError
from gaplab.formatting import plural
from gaplab.mirror.replay import Mirror
from gaplab.mirror.server import running_server
from gaplab.storage.home import DEFAULT_HOME, Home


def ui(
    sweep: Annotated[
        str | None,
        typer.Argument(metavar="SWEEP", help="Id or name of a sweep [default: the newest]."),
    ] = None,
    home: HomeOption = Path(DEFAULT_HOME),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Serve the results in MLflow on this machine.

    MLflow is updated from the ledger first. The printed link leads to the runs of the sweep.
    Without the permission to write to the home folder, MLflow's data is made in a temporary folder.
    """
    _end_on_signals()
    folder = Home(home).check().check_ledger()
    print_ignored(folder)
    with writable_copy(folder) as place:
        with read_ledger(folder) as ledger:
            shown = ledger.find_sweep(sweep) if sweep else next(iter(ledger.sweeps()), None)
            copy = Mirror(place)
            for view in ledger.sweeps():
                copy.replay(ledger, view.id)
            copy.replay_measurements(ledger)
        with running_server(place, port) as base_url:
            _wait(f"MLflow: {copy.link(base_url, shown)}\nStop it with Ctrl-C.")


def mirror(
    sweep: Annotated[
        str | None,
        typer.Argument(metavar="SWEEP", help="Id or name of a sweep [default: all sweeps]."),
    ] = None,
    home: HomeOption = Path(DEFAULT_HOME),
) -> None:
    """Copy results that MLflow lacks from the ledger.

    The ledger is complete without MLflow, so MLflow's data may be deleted and copied again.
    """
    folder = Home(home).check().check_ledger()
    print_ignored(folder)
    if not _is_writable(folder):
        raise UserError(
            f"--home {folder.path}: you have no permission to write MLflow's data there; ask its "
            f"owner, or see the results with: {folder.command('ui')}"
        )
    with read_ledger(folder) as ledger:
        views = [ledger.find_sweep(sweep)] if sweep else ledger.sweeps()
        copy = Mirror(folder)
        for view in views:
            written = copy.replay(ledger, view.id)
            result = f"updated: {plural(written, 'item')}" if written else "is up to date"
            _print(f"{view.id}: MLflow {result}")
        if not sweep and (written := copy.replay_measurements(ledger)):
            _print(f"measurements: MLflow updated: {plural(written, 'item')}")


def _is_writable(home: Home) -> bool:
    """Return whether this user may write MLflow's data in the home folder."""
    files = (home.path, home.mlflow_path, home.mlflow_artifacts, home.path / "mlflow.lock")
    return all(os.access(each, os.W_OK) for each in files if each.exists())


@contextmanager
def writable_copy(home: Home) -> Iterator[Home]:
    """Yield where to keep MLflow's data: the home, or a temporary folder if it can't be written."""
    if _is_writable(home):
        yield home
        return
    with TemporaryDirectory(prefix="gaplab-ui-") as folder:
        _print(f"you cannot write to {home.path}: MLflow's data is in {folder} while this runs")
        yield Home(Path(folder))


def _end_on_signals() -> None:
    """Exit at SIGTERM and SIGHUP, which ends the server, too. SIGHUP stays ignored where it is."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: sys.exit(128 + number))


def _wait(line: str) -> None:
    """Print a line and wait for Ctrl-C, which may come as soon as the line is printed."""
    try:
        _print(line)
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        _print("")


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
