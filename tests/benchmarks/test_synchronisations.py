"""Print how often a training step of each strategy waits for its device; see `detectors`."""

import sys

from detectors.engine import train_step
from detectors.synchronisations import count_synchronisations
from tests.detectors import miniature as mini

LIMIT = 2


def test_host_synchronisations_per_step() -> None:
    found = {}
    for name, (strategy, _) in mini.SETUPS.items():
        learner = mini.set_up(name, mini.BRISK)
        learner.log_every = sys.maxsize
        mini.steps(learner, 0, 1)
        with count_synchronisations() as waits:
            train_step(learner, mini.batch([3, 2]), mini.progress(1))
        assigners = len(learner.strategy.branches()) + len(strategy.auxiliary())
        found[name] = waits.total()
        sys.stdout.write(f"\n{name}: {waits.total()} per step, {assigners} assigners")
    sys.stdout.write("\n")
    assert all(count <= LIMIT for count in found.values())
