"""Measure planning 10,000 trials: read the file, check every trial and compute its id.

Times are CPU seconds of this process, so that they do not depend on other load of the machine.
"""

import time
from pathlib import Path

import pytest

from gaplab.spec.files import load_spec
from gaplab.spec.sweep import expand

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
