"""The cost of an attempt is that of this attempt, also in a process that trained another one."""

import mmap

from detectors.world import LocalWorld
from gaplab.records import Machine
from gaplab.trial.run import CostMeter

MIB = 2**20


def fill(mebibytes: int) -> None:
    """Hold so much memory for a moment, outside of the heap, which might keep it."""
    with mmap.mmap(-1, mebibytes * MIB) as memory:
        for page in range(0, len(memory), mmap.PAGESIZE):
            memory[page] = 1


def test_the_peak_of_memory_is_that_since_the_meter_was_made() -> None:
    machine = Machine("node", "cpu", 1, 0.0)
    first = CostMeter(LocalWorld(), machine)
    fill(256)
    before = first.read().peak_memory_mib
    second = CostMeter(LocalWorld(), machine)
    fill(32)
    assert second.read().peak_memory_mib < before - 128
    fill(256)
    assert second.read().peak_memory_mib > before - 64
