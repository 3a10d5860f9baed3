"""`gaplab ui` and `mirror`: the same trials in MLflow."""

import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from gaplab.cli.options import HomeOption
from gaplab.ledger import Ledger
from gaplab.storage.home import DEFAULT_HOME, Home


def ui(
    sweep: Annotated[
        str | None, typer.Argument(help="Id or name of a sweep [default: the newest].")
    ] = None,
    home: HomeOption = Path(DEFAULT_HOME),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Bring MLflow up to date, serve it on this machine, and print the link to a sweep's runs."""
    from gaplab.mirror.replay import Mirror
    from gaplab.mirror.server import running_server

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so the server ends too
    place = Home(home)
    with Ledger.open(place.ledger_url) as ledger:
        name = ledger.find_sweep(sweep).name if sweep else _newest(ledger)
        mirror = Mirror(place)
        for view in ledger.sweeps():
            mirror.replay(ledger, view.id)
    with running_server(place, port) as base_url:
        _say(f"MLflow: {mirror.link(base_url, name)}\nCtrl-C stops it.")
        _wait()


def mirror(
    sweep: Annotated[
        str | None, typer.Argument(help="Id or name of a sweep [default: all of them].")
    ] = None,
    home: HomeOption = Path(DEFAULT_HOME),
) -> None:
    """Copy what MLflow lacks from the ledger; the ledger is the truth, MLflow may be deleted."""
    from gaplab.mirror.replay import Mirror

    place = Home(home)
    with Ledger.open(place.ledger_url) as ledger:
        views = [ledger.find_sweep(sweep)] if sweep else ledger.sweeps()
        copy = Mirror(place)
        for view in views:
            _say(f"{view.id}: {copy.replay(ledger, view.id)} changes")


def _newest(ledger: Ledger) -> str | None:
    sweeps = ledger.sweeps()
    return sweeps[0].name if sweeps else None


def _wait() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        _say("")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
