"""A trained detector that takes pictures of any size, and the file it is saved to and loaded from.

`TrainedDetector` prepares a picture as evaluation does, predicts and selects detections, so that a
validation image gives the detections that its evaluation measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from detectors.assigners.base import Branch
from detectors.data.preparation import Preparation, Prepared
from detectors.evaluation.protocol import PROTOCOLS, Protocol
from detectors.evaluation.selection import select
from detectors.inference import CandidateRequest, MaskRequest, predict
from detectors.models import DETECTORS
from detectors.models.base import DetectorOptions
from detectors.models.output import Output
from detectors.models.weights import (
    WeightsError,
    differences,
    read_safetensors,
    write_safetensors,
)
from detectors.options import OneOf, Options
from detectors.rle import Rles, as_coco, decode
from detectors.structures import Candidates, Sample, Targets
from detectors.world import LocalWorld

HEADER = "gaplab"
"""Key of the header under which a file of weights has its `DetectorConfig`, as JSON."""


class DetectorConfig(Options):
    """What a trained detector is built from."""

    detector: Annotated[DetectorOptions, OneOf(DETECTORS)]
    """Options of the network."""
    branches: Annotated[tuple[Branch, ...], Field(min_length=1, strict=False)]
    """Branches of the network. The first one is used unless another one is named."""
    classes: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    """Names of the classes, in label order."""
    input: Preparation
    """How pictures are resized and padded."""
    protocol: Protocol = PROTOCOLS["default"]
    """How detections are selected, unless another protocol is given."""
    source: dict[str, str | int] = Field({})
    """Where the weights come from, such as trial and epoch; for people."""

    def build(self) -> nn.Module:
        """Build the network with random weights; files of initial weights are not read."""
        return _without_files(self.detector).build(len(self.classes), self.branches)


@dataclass(frozen=True)
class Detections:
    """The detections of one picture, by descending score.

    Attributes:
        boxes: [M, 4] float xyxy, pixels of the picture.
        scores: [M] float in [0, 1].
        labels: [M] int64, positions in `classes`.
        classes: names of all classes.
        size: (width, height) of the picture in pixels.
        masks: [M] masks as RLE; None: the detector predicts none. See `bitmaps`.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    size: tuple[int, int]
    masks: Rles | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """Name of the class of each detection."""
        return [self.classes[label] for label in self.labels.tolist()]

    def above(self, threshold: float) -> Self:
        """Return the detections with a score of at least `threshold`."""
        keep = self.scores >= threshold
        parts = (self.boxes[keep], self.scores[keep], self.labels[keep])
        return type(self)(*parts, self.classes, self.size, self.masks and self.masks[keep])

    def bitmaps(self) -> Tensor:
        """Return the masks: [M, height, width] bool.

        Raises:
            ValueError: the detector predicts no masks.
        """
        if self.masks is None:
            raise ValueError("the detector predicts no masks; train one with detector.masks")
        return decode(self.masks, self.size)

    def coco(self, image: int | str) -> list[dict[str, Any]]:
        """Return COCO's results: boxes as x, y, width, height, classes by name, and masks as RLE.

        Args:
            image: id of the picture (`image_id`) or its file name (`file_name`).
        """
        key = "file_name" if isinstance(image, str) else "image_id"
        sides = torch.cat([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], dim=1)
        rows = zip(self.names, sides.tolist(), self.scores.tolist(), strict=True)
        made = [{key: image, "category_name": n, "bbox": box, "score": s} for n, box, s in rows]
        if self.masks is not None:
            for row, mask in zip(made, as_coco(self.masks, [self.size] * len(self)), strict=True):
                row["segmentation"] = {**mask, "counts": mask["counts"].decode()}
        return made


class TrainedDetector(nn.Module):
    """A detector with trained weights, in eval mode.

    Attributes:
        network: the module that was trained.
        config: what it was built from.

    Args:
        network: as `config.build()` returns it, with trained weights.
        config: what it was built from.
    """

    def __init__(self, network: nn.Module, config: DetectorConfig) -> None:
        super().__init__()
        self.network, self.config = network, config
        self.requires_grad_(False).eval()

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], config: DetectorConfig, where: str) -> Self:
        """Build a detector from a state dict.

        Args:
            weights: the state dict of the network.
            config: what the network is built from.
            where: where the weights come from, for messages.

        Raises:
            WeightsError: names or shapes are not those of the network.
        """
        network = config.build()
        if problems := differences(network.state_dict(), weights):
            raise WeightsError([f"{where}: not the weights of this detector: {problems[0]}"])
        network.load_state_dict(weights, strict=False)
        return cls(network, config)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in label order."""
        return self.config.classes

    def forward(self, images: Tensor, branches: Sequence[str] | None = None) -> Output:
        """Compute raw predictions of images [B, 3, H, W] uint8 RGB (see `DetectorConfig.input`).

        Args:
            images: the batch.
            branches: names of the branches to compute; None: the first one.
        """
        found: Output = self.network(images, branches=branches or self.config.branches[:1])
        return found

    def prepare(self, image: Any) -> Prepared:
        """Resize and pad a picture for `forward`. Raises ImageError if it can't be used."""
        return self.config.input(image)

    def candidates(
        self, image: Any, *, topk: int | None = None, branch: str | None = None
    ) -> Candidates:
        """Predict the raw candidates of a picture, before any suppression.

        Args:
            image: see `detections`.
            topk: number of candidates per pyramid level; None: `pre_nms_topk` of the protocol.
            branch: the branch that predicts; None: the first one.

        Raises:
            ImageError: the picture can't be used.
            NonFinitePredictionsError: predictions are NaN or infinite.
        """
        topk = topk or self.config.protocol.pre_nms_topk
        return self._candidates(self.prepare(image), topk, branch)

    def detections(
        self,
        image: Any,
        *,
        nms: bool = False,
        threshold: float = 0.0,
        protocol: Protocol | None = None,
        branch: str | None = None,
    ) -> Detections:
        """Detect the objects of a picture.

        Args:
            image: the path of a file, an image of Pillow, or an array of uint8: [height, width, 3]
                RGB or [height, width] grey.
            nms: whether duplicates are suppressed as the protocol says.
            threshold: lowest score, in addition to the protocol's score floor.
            protocol: how detections are selected; None: that of `config`.
            branch: the branch that predicts; None: the first one.

        Returns:
            At most `max_dets` of the protocol, by descending score.

        Raises:
            ImageError: the picture can't be used.
            NonFinitePredictionsError: predictions are NaN or infinite.
            ValueError: the detector has no such branch.
        """
        return self.both(image, threshold=threshold, protocol=protocol, branch=branch)[nms]

    def both(
        self,
        image: Any,
        *,
        threshold: float = 0.0,
        protocol: Protocol | None = None,
        branch: str | None = None,
    ) -> tuple[Detections, Detections]:
        """Return the detections without NMS and with NMS; see `detections`."""
        rule, prepared = protocol or self.config.protocol, self.prepare(image)
        masks = MaskRequest(rule, [prepared.size]) if self.config.detector.segments else None
        found = self._candidates(prepared, rule.pre_nms_topk, branch, masks)
        without, suppressed = (
            self._detections(select(found, rule, [prepared.size], suppress), prepared)
            for suppress in (False, True)
        )
        return without.above(threshold), suppressed.above(threshold)

    def _candidates(
        self, prepared: Prepared, topk: int, branch: str | None, masks: MaskRequest | None = None
    ) -> Candidates:
        name = branch or self.config.branches[0]
        if name not in self.config.branches:
            known = ", ".join(self.config.branches)
            raise ValueError(f"branch {name!r}: the detector has {known}")
        request = CandidateRequest((name,), topk, masks=masks)
        return predict(self.network, _OnePicture(prepared), request, LocalWorld())[name]

    def _detections(self, found: Candidates, prepared: Prepared) -> Detections:
        columns = (found.boxes, found.scores, found.labels)
        return Detections(*columns, self.classes, prepared.size, found.masks)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the weights in the format safetensors, with `config` in its header.

        Raises:
            OSError: the file can't be written.
        """
        header = {HEADER: portable(self.config).model_dump_json()}
        write_safetensors(Path(path), self.network.state_dict(), header)


def load_detector(path: str | PathLike[str]) -> TrainedDetector:
    """Load a detector that `TrainedDetector.save` or `gaplab weights` wrote.

    Raises:
        WeightsError: the file can't be read, has no description of its detector in the header, or
            its weights don't fit that.
    """
    weights, header = read_safetensors(Path(path))
    if HEADER not in header:
        raise WeightsError(
            [
                f"{path}: weights without a description of their detector; write it with `gaplab "
                "weights`"
            ]
        )
    try:
        config = DetectorConfig.model_validate_json(header[HEADER])
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise WeightsError(
            [f"{path}: {where}: {error.errors()[0]['msg']}; write it with this version of gaplab"]
        ) from None
    return TrainedDetector.of(weights, config, str(path))


class _OnePicture:
    """A data set of one prepared picture without objects; see `Dataset`."""

    def __init__(self, prepared: Prepared) -> None:
        self.classes: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()
        targets = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        self._sample = Sample(0, prepared.image, targets, prepared.scale)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int, /) -> Sample:
        return self._sample

    def truth(self) -> list[Any]:
        return []


def _without_files(options: DetectorOptions) -> DetectorOptions:
    """Return options whose backbone starts from random weights; validators are not run."""
    return _with_weights(options, "")


def portable(config: DetectorConfig) -> DetectorConfig:
    """Return a configuration that names files of initial weights without their folders."""
    named = getattr(getattr(config.detector, "backbone", None), "weights", "")
    return config.model_copy(update={"detector": _with_weights(config.detector, Path(named).name)})


def _with_weights(options: DetectorOptions, name: str) -> DetectorOptions:
    backbone: Any = getattr(options, "backbone", None)
    if not getattr(backbone, "weights", ""):
        return options
    return options.model_copy(update={"backbone": backbone.model_copy(update={"weights": name})})
