"""What an attempt costs."""

import resource
import time

from detectors.world import World
from gaplab.records import Cost, Machine


class Meter:
    """Counts from its creation; one on every rank."""

    def __init__(self, world: World, machine: Machine) -> None:
        self._world, self._machine = world, machine
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Cost:
        """Cost so far on rank 0 (elsewhere meaningless); must be called by all ranks.

        CPU seconds are summed over ranks, memory is the largest rank's peak resident set. GPU
        seconds are wall time times the GPUs held, busy or not.
        """
        wall = time.perf_counter() - self._wall
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        ranks = self._world.gather((time.process_time() - self._cpu, peak)) or [(0.0, 0.0)]
        return Cost(
            cpu_seconds=sum(cpu for cpu, _ in ranks),
            gpu_seconds=wall * self._machine.gpus,
            wall_seconds=wall,
            peak_memory_mib=max(memory for _, memory in ranks),
        )
