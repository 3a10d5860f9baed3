"""Compute activations again in the backward pass instead of keeping them: less memory, more time.

Both ways give the gradients that the detector has without them, to the last bit where only blocks
are computed again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from detectors.models.output import Output
from detectors.structures import Predictions


class InParts(nn.Module):
    """A detector that computes a batch in parts and keeps the activations of no part.

    The predictions of all parts are joined, so the loss is that of the whole batch, with its
    numbers of positive points and objects. The backward pass computes each part again and then its
    gradients, one part after the other. Only batch norm that is trained sees parts instead of the
    batch; its running statistics are updated once per part.

    Args:
        module: the detector.
        parts: number of parts; a batch of fewer images has as many parts as images.
    """

    def __init__(self, module: nn.Module, parts: int) -> None:
        super().__init__()
        self.module, self.parts = module, parts

    def forward(self, images: Tensor) -> Output:
        """Compute predictions for images [B, 3, H, W]; see `DenseDetector.forward`."""
        return _joined(
            [_again(self.module, self.module, part) for part in images.chunk(self.parts)]
        )


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the detector inside of DDP, or of another wrapper with it as `module`."""
    inner = getattr(model, "module", model)
    return inner.module if isinstance(inner, InParts) else inner


def recompute_blocks(detector: nn.Module) -> int:
    """Let the blocks of a detector compute their activations again in the backward pass.

    A block is a member of a sequence or list of modules, such as a residual block, a convolution of
    a tower with its norm, or a layer of a transformer, that has two or more layers with parameters
    and is trained. A copy of the detector (`copy.deepcopy`) does so, too.

    Returns:
        The number of blocks.
    """
    blocks = list(_blocks(detector))
    for block in blocks:
        block.forward = MethodType(_forward_again, block)
    return len(blocks)


def _forward_again(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Call the `forward` of the class of a block, and again in the backward pass."""
    return _again(module, MethodType(type(module).forward, module), *args, **kwargs)


def _again(module: nn.Module, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function of `module`, and again in the backward pass."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(module)

    return checkpoint(function, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost blocks, see `recompute_blocks`."""
    for child in module.children():
        listed = isinstance(module, nn.Sequential | nn.ModuleList)
        if listed and not isinstance(child, nn.ModuleList) and _layers(child) > 1:
            yield child
        else:
            yield from _blocks(child)


def _layers(module: nn.Module) -> int:
    """Return the number of layers with parameters; 0 if none of these is trained."""
    if not any(parameter.requires_grad for parameter in module.parameters()):
        return 0
    return sum(bool(each._parameters) for each in module.modules())


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch norm, which the first pass has updated."""
    norms = [each for each in module.modules() if isinstance(each, _BatchNorm)]
    before = [(each.momentum, each.num_batches_tracked) for each in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def _joined(outputs: Sequence[Output]) -> Output:
    """Return the output of a batch, given those of its parts."""
    first = outputs[0]
    branches = {
        name: tuple(
            _concatenated([output.branches[name][head] for output in outputs])
            for head in range(len(heads))
        )
        for name, heads in first.branches.items()
    }
    proposals = {
        name: (points, _concatenated([output.proposals[name][1] for output in outputs]))
        for name, (points, _) in first.proposals.items()
    }
    masks = {name: torch.cat([output.masks[name] for output in outputs]) for name in first.masks}
    return Output(first.points, branches, proposals, masks)


def _concatenated(parts: Sequence[Predictions]) -> Predictions:
    columns = {name: [getattr(part, name) for part in parts] for name in vars(parts[0])}
    return Predictions(
        **{name: torch.cat(each) for name, each in columns.items() if each[0] is not None}
    )
