"""Predict the candidates of a data set; each rank predicts a part of the images."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from detectors.data.base import Dataset
from detectors.data.loader import Batch
from detectors.data.processes import val_loader
from detectors.evaluation.protocol import Protocol
from detectors.evaluation.selection import admitted
from detectors.masks import masks_at
from detectors.memory_format import to_device
from detectors.models.output import Output
from detectors.postprocess import Best, Frame, best_pairs, describe, finite_outputs
from detectors.rle import Rles, encode
from detectors.structures import Candidates, Points
from detectors.world import World

Receive = Callable[[str, Candidates], None]
"""Takes the candidates of a branch for one batch, sorted by image."""
_TOGETHER = 128
"""Number of masks of an image that are made at once; limits the memory."""
_REMEDY = "training has diverged: lower lr, or set clip_norm"


class NonFinitePredictionsError(ValueError):
    """A detector predicted NaN or infinity. The message names the images."""


class Halted(Exception):  # noqa: N818 - nothing went wrong
    """Prediction was stopped on request before the last image."""


@dataclass(frozen=True)
class MaskRequest:
    """Which candidates get masks: those that a protocol admits, with suppression or without."""

    protocol: Protocol
    sizes: Sequence[tuple[int, int]]
    """(width, height) in pixels of each image, by its index."""


@dataclass(frozen=True)
class CandidateRequest:
    """Which candidates to predict."""

    branches: Sequence[str]
    topk: int
    """Number of candidates per level and image."""
    batch: int = 16
    """Number of images predicted at a time."""
    processes: int = 0
    """Number of processes that load images; 0: the calling process does."""
    masks: MaskRequest | None = None
    """Which candidates get masks; None: no candidate does."""


def predict(
    model: nn.Module,
    dataset: Dataset,
    request: CandidateRequest,
    world: World,
    halt: Callable[[], bool] = lambda: False,
) -> dict[str, Candidates]:
    """Predict the candidates of this rank's images, see `predict_batches`.

    Returns:
        The candidates of each requested branch, by image.
    """
    found = {branch: [Candidates.none()] for branch in request.branches}

    def receive(branch: str, candidates: Candidates) -> None:
        found[branch].append(candidates)

    predict_batches(model, dataset, request, world, receive, halt)
    return {branch: Candidates.join(parts) for branch, parts in found.items()}


@torch.no_grad()
def predict_batches(
    model: nn.Module,
    dataset: Dataset,
    request: CandidateRequest,
    world: World,
    receive: Receive,
    halt: Callable[[], bool] = lambda: False,
) -> None:
    """Predict the candidates of this rank's images (see `val_batches`). All ranks must call this.

    The candidates of a batch are made and received on the CPU while a GPU computes the next batch;
    nothing waits for it but that, once per batch.

    Args:
        model: the detector; it is set to eval mode.
        dataset: the images.
        request: which candidates to predict.
        world: the group of ranks.
        receive: called for each batch and requested branch. Each image is in one batch.
        halt: called after each batch; True stops the prediction of this rank.

    Raises:
        Halted: on every rank, after all ranks have finished, if `halt` returned True on any.
        DataError, LoaderError: an image is damaged, or a process that loads images died.
        NonFinitePredictionsError: on every rank, if predictions of any rank are not finite. Only
            on that rank does the message name the images.
    """
    model.eval()
    device = next(model.parameters()).device
    loaded = val_loader(dataset, request.batch, world, request.processes, pinned=_is_gpu(device))
    problem, halted, pending = "", False, None
    with closing(loaded) as batches:
        for indices, images in batches:
            current = _Pending.begin(model, images, indices, request, device)
            problem = pending.finish(receive) if pending else ""
            pending = current
            if problem or (halted := halt()):
                break
    if pending and not problem:
        problem = pending.finish(receive)
    _agree(problem, halted, world, device)


@dataclass(frozen=True)
class _Masks:
    """What the masks of a batch are made from, on the device."""

    features: Tensor
    parameters: Tensor
    points: Points
    request: MaskRequest

    @classmethod
    def of(cls, output: Output, branch: str, request: MaskRequest) -> "_Masks":
        """Take them from the output of a detector. Raises ValueError if it predicts no masks."""
        parameters = output.branches[branch][0].masks
        if parameters is None:
            raise ValueError("the detector predicts no masks; choose a protocol of boxes")
        return cls(output.masks[branch], parameters, output.points[branch], request)

    def added(self, number: int, found: Candidates, point: Tensor, frame: Frame) -> Candidates:
        """Return the candidates of one image with the masks that were requested.

        Candidates of several classes at one point have the same mask.

        Args:
            number: the image, as its number in the batch.
            found: its candidates.
            point: [M] int64, their points.
            frame: how its input relates to the original image.
        """
        chosen, size = admitted(found, self.request.protocol), self.request.sizes[frame.index]
        different, which = torch.unique(point[chosen], return_inverse=True)
        made, device = [Rles.none(0)], self.features.device
        for some in torch.split(different.to(device), _TOGETHER):
            image, points = torch.full_like(some, number), self.points.take(some)
            parameters = self.parameters[image, some]
            made.append(
                encode(masks_at(self.features, image, parameters, points, frame.scale, size))
            )
        column = Rles.none(len(found)).counts
        column[chosen.numpy()] = Rles.join(made).counts[which.numpy()]
        return replace(found, masks=Rles(column))


@dataclass(frozen=True)
class _Pending:
    """The candidates of a batch on their way from the device, which computes the next batch."""

    best: dict[str, tuple[Best, Points]]
    finite: list[dict[str, Tensor]]
    frames: Sequence[Frame]
    image_ids: Sequence[int]
    copied: torch.cuda.Event | None
    """Recorded after the copies; None where the device is the host."""
    masks: dict[str, _Masks]
    """What masks are made from, by branch; empty without masks."""

    @classmethod
    def begin(
        cls,
        model: nn.Module,
        images: Batch,
        indices: Sequence[int],
        request: CandidateRequest,
        device: torch.device,
    ) -> "_Pending":
        """Give the work of a batch to the device without waiting for it."""
        output = model(to_device(images.images, device), branches=request.branches)
        best, finite, masks = {}, [], dict[str, _Masks]()
        for branch in request.branches:
            predictions, points = output.branches[branch][0], output.points[branch]
            sound = finite_outputs(predictions)
            finite.append({n: each.to("cpu", non_blocking=True) for n, each in sound.items()})
            pairs = best_pairs(predictions.scores(), predictions.boxes, points.sizes, request.topk)
            best[branch] = (pairs.to_host(), points)
            if request.masks is not None:
                masks[branch] = _Masks.of(output, branch, request.masks)
        frames = [Frame(i, scale) for i, scale in zip(indices, images.scales, strict=True)]
        copied = torch.cuda.current_stream(device).record_event() if _is_gpu(device) else None
        return cls(best, finite, frames, images.image_ids, copied, masks)

    def finish(self, receive: Receive) -> str:
        """Wait for the batch and pass its candidates to `receive`.

        Returns:
            Which predictions are not finite; then nothing is passed. Empty if all are.
        """
        if self.copied is not None:
            self.copied.synchronize()
        problems = [describe(each, self.image_ids) for each in self.finite]
        if any(problems):
            return ", ".join(filter(None, problems))
        for branch, (best, points) in self.best.items():
            made = best.candidates(points.host, self.frames)
            if branch in self.masks:
                own = zip(made, best.pairs // best.classes, self.frames, strict=True)
                made = [self.masks[branch].added(n, *each) for n, each in enumerate(own)]
            receive(branch, Candidates.join(made))
        return ""


def _is_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


def _agree(problem: str, halted: bool, world: World, device: torch.device) -> None:
    """Raise an error on every rank if any rank had a problem or was halted."""
    mine = torch.tensor([bool(problem), halted], dtype=torch.float32, device=device)
    any_problem, any_halted = (world.all_reduce_mean(mine) > 0).tolist()
    if any_problem:
        message = problem or "predictions of another worker are not finite"
        raise NonFinitePredictionsError(f"{message}; {_REMEDY}")
    if any_halted:
        raise Halted
