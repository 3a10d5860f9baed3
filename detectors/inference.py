"""From a trained detector to candidates of a whole data set, on one rank or many."""

from collections.abc import Sequence

import torch
from torch import nn

from detectors.data.base import Dataset
from detectors.data.loader import Batch, val_batches
from detectors.engine import to_device
from detectors.evaluation.protocol import Protocol
from detectors.models.fcos import Output
from detectors.postprocess import candidates, check_finite
from detectors.structures import Candidates, Predictions
from detectors.world import World


@torch.no_grad()
def predict(
    model: nn.Module,
    dataset: Dataset,
    branches: Sequence[str],
    protocol: Protocol,
    world: World,
    batch: int = 16,
) -> dict[str, list[Candidates]]:
    """Candidates of every image for every branch, in data set order, on rank 0; {} elsewhere.

    Each rank predicts its own share of the images. Raises ValueError for non-finite predictions.
    """
    model.eval()
    device = next(model.parameters()).device
    sizes = [(truth.width, truth.height) for truth in dataset.truth()]
    mine: dict[str, dict[int, Candidates]] = {branch: {} for branch in branches}
    for indices, images in val_batches(dataset, batch, world.rank, world.size):
        output = model(to_device(images.images, device), branches=branches)
        for branch in branches:
            found = _candidates(output, branch, images, protocol, [sizes[i] for i in indices])
            mine[branch].update(zip(indices, found, strict=True))
    return _merge(world.gather(mine))


def _candidates(
    output: Output,
    branch: str,
    batch: Batch,
    protocol: Protocol,
    sizes: Sequence[tuple[int, int]],
) -> list[Candidates]:
    predictions = output.branches[branch]
    check_finite(predictions, batch.image_ids)
    points = output.points.to("cpu")
    logits, boxes = predictions.logits.cpu(), predictions.boxes.cpu()
    return [
        candidates(Predictions(logits[i], boxes[i]), points, protocol, batch.scales[i], sizes[i])
        for i in range(len(sizes))
    ]


def _merge(ranks: list[dict[str, dict[int, Candidates]]]) -> dict[str, list[Candidates]]:
    """Every image of all ranks once, in data set order; {} for no ranks."""
    merged: dict[str, list[Candidates]] = {}
    for branch in ranks[0] if ranks else ():
        by_index = {i: found for rank in ranks for i, found in rank[branch].items()}
        merged[branch] = [by_index[i] for i in sorted(by_index)]
    return merged
