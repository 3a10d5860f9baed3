"""Measure planning 10,000 trials: read the file, check every trial and compute its id. Measure
`gaplab plan` of 100,000: also look them up in the ledger, estimate their cost, print the first.

Times are CPU seconds of this process, so that they do not depend on other load of the machine.
"""

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from gaplab.cli.plan import SHOWN, make_plan, print_plan
from gaplab.spec.files import load_spec
from gaplab.spec.sweep import expand
from gaplab.storage.home import Home

HEAD = "name: large\ndata: {name: shapes}\ndetector: {name: fcos}\n"
GRIDS = {
    "whole sections, when": f"""
  assignment: [{{name: fcos}}, {{name: center}}, {{name: poto}}, {{name: o2f}}, {{name: dual}}]
  training.lr: {[i / 1000 for i in range(1, 21)]}
  training.momentum: [0.8, 0.9]
  seed: {list(range(50))}
when: {{training.momentum: {{training.optimizer: adamw, assignment.name: [poto, fcos, o2f,
  center, dual]}}}}
""",
    "leaves": f"""
  assignment.name: [poto]
  assignment.alpha: {[i / 10 for i in range(10)]}
  assignment.radius: {[1 + i / 10 for i in range(10)]}
  seed: {list(range(100))}
""",
    "all sections different": f"""
  assignment.name: [poto]
  assignment.alpha: {[i / 100 for i in range(100)]}
  assignment.radius: {[1 + i / 100 for i in range(100)]}
""",
}


@pytest.mark.parametrize("form", list(GRIDS))
def test_planning_ten_thousand_trials(form: str, tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_text(f"{HEAD}grid:{GRIDS[form]}")
    start = time.process_time()
    sweep = expand(load_spec(path))
    seconds = time.process_time() - start
    print(f"\n10,000 trials ({form}): {seconds:.2f} CPU s")  # noqa: T201
    assert len(sweep.trials) == 10_000
    assert seconds < 2


def test_the_plan_of_a_hundred_thousand_trials(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    grid = GRIDS["leaves"].replace(f"{list(range(100))}", f"{list(range(1000))}")
    path.write_text(f"max_trials: 100000\n{HEAD}grid:{grid}")
    start = time.process_time()
    plan = make_plan(path, None, [], Home(tmp_path / "none"))
    print_plan(plan, Console(file=io.StringIO()), SHOWN)
    seconds = time.process_time() - start
    print(f"\nplan of 100,000 trials: {seconds:.2f} CPU s")  # noqa: T201
    assert len(plan.sweep.trials) == 100_000
    assert seconds < 4
