"""`gaplab reevaluate`, `explain` and `protocols`: new questions to candidates that are there."""

import json as jsonlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gaplab.cli.options import HomeOption, JsonOption
from gaplab.ledger import Ledger
from gaplab.storage.home import DEFAULT_HOME, Home

BranchOption = Annotated[str | None, typer.Option(help="o2o, o2m or o2f [default: every branch].")]
EpochOption = Annotated[
    int | None, typer.Option(min=1, help="Epoch whose candidates to use [default: the last kept].")
]
_PROTOCOL = "A preset's name, a mapping as in '{preset: defcn, nms_iou: 0.5}', or a YAML file"


def reevaluate(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Trials, or sweeps for all of theirs.")
    ],
    protocol: Annotated[
        list[str] | None,
        typer.Option(help=f"{_PROTOCOL}; repeatable [default: every preset]."),
    ] = None,
    branch: BranchOption = None,
    epoch: EpochOption = None,
    home: HomeOption = Path(DEFAULT_HOME),
    json: JsonOption = False,
) -> None:
    """Measure trials under other protocols, from the candidates they kept; trains nothing."""
    from detectors.evaluation.protocol import PROTOCOLS
    from gaplab.cli.explaining import reevaluations_table
    from gaplab.results.reevaluate import find_sources, find_trials, reevaluate
    from gaplab.spec.protocols import parse_protocols
    from gaplab.storage.filesystem import Storage

    place = Home(home)
    protocols = parse_protocols(protocol) if protocol else list(PROTOCOLS.values())
    console = Console(stderr=True)
    with Ledger.open(place.ledger_url) as ledger, console.status("reading candidates") as status:
        trials = find_trials(ledger, names)
        sources = find_sources(ledger, trials, epoch, branch)
        found = []
        for each in reevaluate(ledger, sources, protocols, Storage(str(place.path))):
            found.append(each)
            status.update(f"{len(found)} of {len(sources) * len(protocols)} evaluations")
            if json:
                _say(jsonlib.dumps(asdict(each), default=str))
    if not json:
        assignments = {trial.id: trial.assignment for trial in trials}
        Console(markup=False).print(reevaluations_table(found, assignments))
        _say(f"{place.command('mirror')} copies new evaluations to MLflow")


def explain(
    name: Annotated[str, typer.Argument(metavar="TRIAL", help="Id of a trial, or its beginning.")],
    protocol: Annotated[str, typer.Option(help=f"{_PROTOCOL}.")] = "default",
    branch: Annotated[
        str | None, typer.Option(help="o2o, o2m or o2f [default: the one kept at inference].")
    ] = None,
    epoch: EpochOption = None,
    home: HomeOption = Path(DEFAULT_HOME),
    json: JsonOption = False,
) -> None:
    """Why a trial has the gap it has: score gap, duplicates an object, where duplicates sit."""
    from gaplab.cli.explaining import print_explanation
    from gaplab.results.explain import explain
    from gaplab.spec.protocols import parse_protocol

    rule = parse_protocol(protocol)
    with Ledger.open(Home(home).ledger_url) as ledger:
        found = explain(ledger, name, rule, epoch, branch)
    if json:
        _say(jsonlib.dumps(asdict(found), indent=2))
    else:
        print_explanation(found, Console(highlight=False, markup=False))


def protocols(home: HomeOption = Path(DEFAULT_HOME), json: JsonOption = False) -> None:
    """The ways to measure a gap: presets, and what the ledger's other protocols stand for."""
    from detectors.evaluation.protocol import PROTOCOLS
    from gaplab.cli.explaining import print_protocols
    from gaplab.spec.protocols import rule_of

    with Ledger.open(Home(home).ledger_url) as ledger:
        known = {key: rule_of(preset) for key, preset in PROTOCOLS.items()} | ledger.protocols()
    if json:
        _say(jsonlib.dumps(known, indent=2))
    else:
        print_protocols(known, Console(highlight=False, markup=False))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
