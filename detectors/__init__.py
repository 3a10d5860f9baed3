"""Dense detectors, their label assignments, and how much they still need NMS. Pure PyTorch."""

RESULTS_VERSION = 1
"""Part of every trial's id. It goes up when a change alters results; old rows are marked stale."""
