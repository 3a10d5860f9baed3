"""A detector, batches and data small enough to train in a test.

`main` is one of several ranks: it joins a gloo group, computes what tests compare, and saves it.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from detectors.assigners import ASSIGNERS
from detectors.assigners.base import Strategy
from detectors.data.loader import Batch
from detectors.data.mask_views import COARSE
from detectors.data.shapes import Shapes
from detectors.engine import Learner, NonFiniteLossError
from detectors.engine import train_step as make_step
from detectors.inference import CandidateRequest, predict
from detectors.models.backbones import Tiny
from detectors.models.base import DetectorOptions
from detectors.models.deformable_detr import DeformableDetrOptions
from detectors.models.dense import DenseDetector
from detectors.models.detr import DetrOptions
from detectors.models.fcos import FcosOptions
from detectors.models.gates import Centerness, MaxFilter
from detectors.models.mask_options import CondInst
from detectors.models.onenet import OneNetOptions
from detectors.models.retinanet import RetinaNetOptions
from detectors.models.sparse_rcnn import SparseRcnnOptions
from detectors.structures import Candidates, Progress, Targets
from detectors.training import Training
from detectors.world import LocalWorld, TorchWorld, World, distributed
from tests.detectors.entries import quick

CLASSES, SIDE = 3, 48
SMALL = FcosOptions(backbone=Tiny(channels=(8, 16)), channels=16, tower_convs=1, groups=4)
# Plain gradient descent: the new weights show the gradient, and rounding errors stay small.
DESCENT = Training(optimizer="sgd", momentum=0, weight_decay=0, lr=0.1, warmup_steps=0, clip_norm=5)
BRISK = Training(lr=1e-3, warmup_steps=2, ema=0.9)
TRUNK = SMALL.backbone
GATED = {"gate": MaxFilter(), "centerness": True}
OF_QUERIES = ("min_cost_many", "ms_detr", "deta")
"""Assignments that are tested with queries alone."""
SETUPS: dict[str, tuple[Strategy, DetectorOptions]] = {
    **{n: (quick(entry), SMALL) for n, entry in ASSIGNERS.items() if n not in OF_QUERIES},
    "poto with a max filter": (ASSIGNERS["poto"](), SMALL.model_copy(update=GATED)),
    "mixture with a max filter": (ASSIGNERS["mixture"](), SMALL.model_copy(update=GATED)),
    "dual with both": (
        ASSIGNERS["dual"](),
        SMALL.model_copy(update=GATED | {"gate": Centerness(convs=1, width=8)}),
    ),
    "dual with anchors": (
        ASSIGNERS["dual"].model_validate({"o2m": {"name": "retinanet"}}),
        SMALL.model_copy(update={"o2m_box": "anchor", "shared_towers": False}),
    ),
    "retinanet with its anchors": (
        ASSIGNERS["retinanet"](),
        RetinaNetOptions(backbone=TRUNK, channels=16, tower_convs=1, groups=0),
    ),
    "centernet with its head": (
        ASSIGNERS["centernet"](),
        OneNetOptions(backbone=TRUNK, channels=16, box="size_offset"),
    ),
    "queries": (
        ASSIGNERS["dual"].model_validate(
            {"o2o": {"name": "min_cost"}, "o2m": {"name": "min_cost_many", "repeats": 2}}
        ),
        DetrOptions(
            backbone=TRUNK,
            channels=32,
            encoder_layers=1,
            decoder_layers=2,
            feedforward=32,
            queries=9,
            o2m_queries=12,
            o2m_groups=2,
        ),
    ),
    "several maps": (
        ASSIGNERS["deta"](),
        DeformableDetrOptions(
            backbone=TRUNK,
            channels=16,
            encoder_layers=1,
            decoder_layers=1,
            feedforward=32,
            queries=9,
            samples=2,
            refine=True,
            two_stage=True,
        ),
    ),
    "proposals": (
        ASSIGNERS["dual"].model_validate({"o2o": {"name": "min_cost"}, "o2m": {"name": "ms_detr"}}),
        SparseRcnnOptions(
            backbone=TRUNK,
            channels=32,
            stages=2,
            feedforward=32,
            dynamic_channels=8,
            roi_side=3,
            roi_cells=4,
            queries=9,
        ),
    ),
    "masks": (
        ASSIGNERS["o2f"](),
        SMALL.model_copy(update={"masks": CondInst(channels=4, width=8, convs=1)}),
    ),
    "dual with masks": (
        ASSIGNERS["dual"](),
        SMALL.model_copy(update={"masks": CondInst(width=8, convs=0), "detach_o2o": True}),
    ),
    "cascade": (ASSIGNERS["poto"](), OneNetOptions(backbone=TRUNK, channels=16, heads=3)),
}
"""A detector for each strategy of the table, and for combinations of their options."""
IMAGES = 5
SHAPES = Shapes(size=SIDE, val_images=IMAGES, max_side=30)
TOPK = 300
"""Candidates per level."""


def detector(strategy: Strategy, options: DetectorOptions = SMALL) -> DenseDetector:
    torch.manual_seed(0)
    built = options.build(CLASSES, tuple(strategy.branches()))
    assert isinstance(built, DenseDetector)
    return built


def learner(
    strategy: Strategy,
    training: Training,
    world: World | None = None,
    model: nn.Module | None = None,
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
) -> Learner:
    built, world = model or detector(strategy), world or LocalWorld()
    return Learner.create(built, strategy, training, world, wrap)


def set_up(name: str, training: Training) -> Learner:
    """Create a learner for one of SETUPS."""
    strategy, options = SETUPS[name]
    return learner(strategy, training, model=detector(strategy, options))


def batch(counts: Sequence[int], seed: int = 0) -> Batch:
    """Create images of random noise with counts[i] random objects in image i."""
    rng = torch.Generator().manual_seed(seed)
    shape = (len(counts), 3, SIDE, SIDE)
    images = torch.randint(256, shape, generator=rng, dtype=torch.int64).to(torch.uint8)
    targets = tuple(objects(count, rng) for count in counts)
    masks = tuple(ellipses(each) for each in targets)
    return Batch(images, targets, tuple(range(len(counts))), ((1.0, 1.0),) * len(counts), masks)


def objects(count: int, rng: torch.Generator) -> Targets:
    corner = (SIDE - 12) * torch.rand(count, 2, generator=rng)
    far = corner + 4 + (SIDE - 4 - corner) * torch.rand(count, 2, generator=rng)
    labels = torch.randint(CLASSES, (count,), generator=rng)
    return Targets(torch.cat([corner, far], dim=1), labels)


def ellipses(of: Targets) -> torch.Tensor:
    """Return the masks of objects that fill the ellipses in their boxes, as those of a batch."""
    at = torch.arange(COARSE / 2, SIDE, COARSE)
    x1, y1, x2, y2 = of.boxes.T[:, :, None, None]
    x, y = (2 * at - x1 - x2) / (x2 - x1), (2 * at[:, None] - y1 - y2) / (y2 - y1)
    inside: torch.Tensor = x**2 + y**2 <= 1
    return inside


def share(whole: Batch, rank: int, size: int) -> Batch:
    return Batch(
        whole.images[rank::size],
        whole.targets[rank::size],
        whole.image_ids[rank::size],
        whole.scales[rank::size],
        whole.masks[rank::size],
    )


def progress(step: int, steps: int = 8) -> Progress:
    return Progress(step, steps, epoch=step // 2, epochs=steps // 2)


def train_step(of: Learner, whole: Batch, at: Progress) -> dict[str, float]:
    """Make a step and return the parts of its loss as numbers."""
    return {name: value.item() for name, value in make_step(of, whole, at).items()}


def steps(of: Learner, first: int, last: int) -> list[dict[str, float]]:
    """Train steps `first` to `last` - 1 of eight, each with its own batch; one has no objects."""
    counts = [[2, 0], [1, 3], [0, 0], [4, 1]]
    return [train_step(of, batch(counts[n % 4], seed=n), progress(n)) for n in range(first, last)]


def saved_and_loaded(state: Any) -> Any:
    """Save a state and load it as a checkpoint, which may hold only tensors and plain values."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


UNEVEN = batch([3, 0, 2, 0, 1])
"""On two ranks, one has three images with objects and the other two without."""


FROZEN = {
    "the location": ("box_predictor", "box_tower", "scales"),
    "most": ("backbone", "neck", "cls_tower", "box_tower", "scales", "cls_predictor"),
}
"""What `training.freeze` may name."""


SAVING: dict[str, dict[str, Any]] = {
    "in parts": {"accumulate": 2},
    "blocks": {"recompute": True},
}
"""Options of a training that save memory."""


def one_step(name: str, rank: int, size: int, **changes: Any) -> dict[str, Any]:
    """Return loss parts, weights and positives after one step on this rank's share of UNEVEN.

    `changes` are those of DESCENT.
    """
    strategy, options = SETUPS[name]
    training = DESCENT.model_copy(update=changes)
    model = detector(strategy, options)
    if size > 1:
        mine = learner(strategy, training, TorchWorld(), model, distributed)
    else:
        mine = learner(strategy, training, LocalWorld(), model)
    parts = train_step(mine, share(UNEVEN, rank, size), progress(0))
    return {
        "parts": parts,
        "positives": {branch: mine.positives(branch) for branch in strategy.branches()},
        "scores": mine.scores(),
        "model": mine.bare.state_dict(),
        "averaged": mine.averaged.state_dict(),
    }


def error_of_diverged_weights(rank: int) -> str:
    """Return the error of rank `rank` when only the last rank's weights are not finite."""
    strategy = ASSIGNERS["poto"]()
    mine = learner(strategy, DESCENT, TorchWorld())
    if rank == dist.get_world_size() - 1:
        next(mine.bare.parameters()).data.fill_(torch.nan)
    try:
        train_step(mine, share(UNEVEN, rank, dist.get_world_size()), progress(0))
    except NonFiniteLossError as error:
        return str(error)
    return ""


def predicted(
    world: World, model: nn.Module | None = None, batch: int = 1
) -> dict[str, Candidates]:
    """Predict the candidates of this rank's share of five images.

    A batch has one image by default, so that sums do not depend on the batch.
    """
    model = model or detector(ASSIGNERS["dual"]())
    return predict(model, SHAPES.load("val"), CandidateRequest(["o2o", "o2m"], TOPK, batch), world)


def assert_same(a: Candidates, b: Candidates) -> None:
    for name, column in vars(a).items():
        other = getattr(b, name)
        if name == "masks":
            assert (column and [*column.counts]) == (other and [*other.counts])
        else:
            assert torch.equal(column, other), name


def assert_together(ranks: list[dict[str, Candidates]], alone: dict[str, Candidates]) -> None:
    """Check that each image is on one rank, and that all ranks find what a single one finds."""
    for branch in ("o2o", "o2m"):
        images = [set(rank[branch].image.tolist()) for rank in ranks]
        assert images == [set(range(IMAGES)[r :: len(ranks)]) for r in range(len(ranks))]
        assert_same(Candidates.join([rank[branch] for rank in ranks]), alone[branch])


def broken() -> DenseDetector:
    """Build a detector whose boxes are not finite."""
    model = detector(ASSIGNERS["dual"]())
    model.get_parameter("head.scales").data.fill_(torch.nan)
    return model


def error_of_predictions(rank: int) -> str:
    """Return the error of rank `rank` when only the last rank's predictions are not finite."""
    try:
        predicted(TorchWorld(), broken() if rank == dist.get_world_size() - 1 else None)
    except ValueError as error:
        return str(error)
    return ""


def main(rank: int, size: int, folder: Path) -> None:
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", store, rank=rank, world_size=size)
    world = TorchWorld()
    value = torch.tensor([1.0, 10.0], requires_grad=True) * (rank + 1)
    found = {
        "world": (world.rank, world.size),
        "mean": world.all_reduce_mean(value),
        "gathered": world.gather({"rank": rank}),
        "steps": {name: one_step(name, rank, size) for name in SETUPS},
        "frozen": {
            name: one_step("dual", rank, size, freeze=parts) for name, parts in FROZEN.items()
        },
        "saving": {name: one_step("dual", rank, size, **change) for name, change in SAVING.items()},
        "diverged": error_of_diverged_weights(rank),
        "predicted": predicted(world),
        "unpredictable": error_of_predictions(rank),
    }
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()
