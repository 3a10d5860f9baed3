"""The parts of a detector by name, and how to freeze them (`training.freeze`)."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from detectors.assigners.base import Branch
from detectors.cost import without_weights
from detectors.models.base import DetectorOptions

_HEAD = "head"
Parts = Mapping[str, Sequence[str]]
"""Name of a part -> the names of its modules and parameters in the detector."""


def parts_of(detector: nn.Module) -> Parts:
    """Return the parts of a detector.

    They are its children (backbone, neck, mask_branch) and those of its head (scales; stages of
    OneNet). A child of the head that holds one module per branch is divided by what these modules
    have in common: towers into cls_tower and box_tower, predictors into cls_predictor,
    box_predictor and, where there are any, gate_predictor, centerness_predictor and
    controller_predictor (that of masks). A part belongs to all branches.
    """
    found: dict[str, list[str]] = {}
    for part, name in _named_parts(detector):
        found.setdefault(part, []).append(name)
    return found


def _named_parts(detector: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield pairs of a part, and the name of one of its modules or parameters."""
    yield from ((name, name) for name, _ in detector.named_children() if name != _HEAD)
    head = detector.get_submodule(_HEAD)
    yield from ((name, f"{_HEAD}.{name}") for name, _ in head.named_parameters(recurse=False))
    for name, child in head.named_children():
        if not isinstance(child, nn.ModuleDict):
            yield name, f"{_HEAD}.{name}"
            continue
        for path, module in _one_by_one(child):
            for inner, _ in module.named_children():
                yield f"{inner}_{name.removesuffix('s')}", f"{_HEAD}.{name}.{path}.{inner}"


def _one_by_one(modules: nn.ModuleDict) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of each branch, of which there may be one per layer, with their names."""
    for branch, module in modules.items():
        if isinstance(module, nn.ModuleList):
            yield from ((f"{branch}.{i}", each) for i, each in enumerate(module))
        else:
            yield branch, module


def names_in(detector: nn.Module, parts: Collection[str]) -> tuple[str, ...]:
    """Return the names of the modules and parameters of some parts of a detector.

    Raises:
        ValueError: the detector has no such part. The message names all that it has.
    """
    found = parts_of(detector)
    if wrong := [part for part in parts if part not in found]:
        noun = "part" if len(wrong) == 1 else "parts"
        raise ValueError(f"unknown {noun} {', '.join(wrong)}; choose from {', '.join(found)}")
    return tuple(name for part in parts for name in found[part])


def within(name: str, names: Sequence[str]) -> bool:
    """Return whether a parameter, buffer or module is one of `names`, or inside of one."""
    return any(name == each or name.startswith(f"{each}.") for each in names)


def freeze(detector: nn.Module, parts: Collection[str]) -> tuple[nn.Module, ...]:
    """Exclude parts of a detector from training.

    Their parameters get no gradient, so an optimiser that is created afterwards leaves them out:
    neither steps nor weight decay change them.

    Returns:
        The modules that must be in eval mode during training, for their running statistics.

    Raises:
        ValueError: a part is unknown, or nothing is left to train.
    """
    if not parts:
        return ()
    names = names_in(detector, parts)
    for name, parameter in detector.named_parameters():
        if within(name, names):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in detector.parameters()):
        raise ValueError(f"{', '.join(parts)}: leaves nothing to train; name fewer parts")
    return tuple(module for name, module in detector.named_modules() if within(name, names))


def check_gpu(detector: nn.Module) -> None:
    """Raise ValueError if the detector is not on a GPU, where alone norms can be synchronised."""
    device = next(detector.parameters()).device
    if device.type != "cuda":
        raise ValueError(
            f"sync_batch_norm needs GPUs, and the detector is on {device.type}; set it to false"
        )


def synchronise_norms(detector: nn.Module, frozen: Collection[nn.Module]) -> None:
    """Replace batch norm that is trained by one with statistics over all ranks.

    Args:
        detector: a detector in training mode.
        frozen: its modules that are not trained.
    """
    for module in [each for each in detector.modules() if each not in frozen]:
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm) and child.training and child not in frozen:
                shared = nn.SyncBatchNorm.convert_sync_batchnorm(child)  # type: ignore[no-untyped-call]
                setattr(module, name, shared)


@cache
def check_freeze(
    options: DetectorOptions, branches: tuple[Branch, ...], parts: tuple[str, ...]
) -> None:
    """Check `parts` for a detector that is not built yet, without reading weights.

    It is built on the CPU: the first use of PyTorch's meta device takes seconds.

    Raises:
        ValueError: see `freeze`.
        DataError: the backbone's library can't be used.
    """
    with torch.random.fork_rng(devices=[]):
        freeze(without_weights(options).build(1, branches), parts)
