"""What trials cost in arithmetic, known before any was run."""

from collections.abc import Sequence

from detectors.data.base import DataError
from gaplab.modelcosts import training_cost
from gaplab.records import TrialRecord
from gaplab.spec import Experiment
from gaplab.sweep import experiment_of

PASSES = 3
"""A training step costs a forward pass and a backward pass twice as dear."""
V100 = 8e12
"""Operations a second of one V100 in fp32, all losses included: OneNet reports 21 hours on eight
for 36 epochs of FCOS on COCO, which is this within 15 %."""
CORE = 28e9
"""The same of one CPU core on the drawn shapes, measured: 24 to 33e9."""


def training_operations(experiment: Experiment) -> float | None:
    """Multiplications and additions of all training steps; None where the images are not counted
    or the detector can't be built here.

    Of convolutions alone, at the data's full size, all branches included.
    """
    images = experiment.data.expected().images
    if not images:
        return None
    try:
        once = training_cost(experiment)
    except DataError:  # a trunk whose library is missing
        return None
    return 2.0 * once.multiply_adds * PASSES * images * experiment.training.epochs


def compute_line(trials: Sequence[TrialRecord]) -> str | None:
    """Cost of `trials` in one line, in hours of the hardware they ask for; None for none."""
    experiments = [experiment_of(trial) for trial in trials]
    counts = [(each, training_operations(each)) for each in experiments]
    on_gpu = [n for each, n in counts if n is not None and each.resources.gpus_per_worker]
    on_cpu = [n for each, n in counts if n is not None and not each.resources.gpus_per_worker]
    parts = [
        f"{sum(found):.1e} operations, about {sum(found) / rate / 3600:,.1f} hours of one {what}"
        for found, rate, what in ((on_gpu, V100, "V100"), (on_cpu, CORE, "CPU core"))
        if found
    ]
    unknown = len(trials) - len(on_gpu) - len(on_cpu)
    if unknown:
        why = "data of unknown size, or a detector that can't be built here"
        parts.append(f"{unknown} trials left out ({why})")
    return f"by arithmetic: {'; '.join(parts)}" if trials else None
