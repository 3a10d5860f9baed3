"""The examples of the public API that run a sweep, and those that read its results."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sweeps.bench import TIMEOUT, Bench

pytestmark = pytest.mark.timeout(TIMEOUT)
ROOT = Path(__file__).resolve().parents[2]


def test_a_sweep_is_run_and_its_results_are_read(tmp_path: Path, bench: Bench) -> None:
    """The examples of `leaderboard` and `compare` read what the example of `run_sweep` trained."""
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    environment = bench.variables() | {"PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("GAPLAB_LEDGER")
    names = ("gaplab.run_sweep", "gaplab.leaderboard", "gaplab.compare")
    done = subprocess.run(
        [sys.executable, "-m", "tests.doctests", *names],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert (tmp_path / ".gaplab" / "ledger.db").is_file()
