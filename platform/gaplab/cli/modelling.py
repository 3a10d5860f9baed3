"""What `gaplab models` shows."""

import json
from collections.abc import Sequence

from rich.console import Console

from gaplab.cli.render.tabular import plain_table
from gaplab.launch.costs import ModelLine


def models_json(lines: Sequence[ModelLine]) -> str:
    """The lines as one JSON array."""
    return json.dumps([line.plain() for line in lines], indent=2)


def print_models(lines: Sequence[ModelLine], console: Console) -> None:
    """Weights in millions and multiply-adds in 10^9: with all branches, then with the one kept."""
    heads = (
        "weights\nM",
        "trainable\nM",
        "multiply-\nadds G",
        "inference\nM",
        "multiply-\nadds, G",
    )
    table = plain_table("used by", "detector", *heads, whole=("used by", "detector"))
    for line in lines:
        more = len(line.names) - 1
        names = line.names[0] + (f" and {more} more" if more else "")
        table.add_row(names, line.detector, *_weighed(line))
    sizes = dict.fromkeys(f"{height} x {width}" for height, width in (line.size for line in lines))
    table.caption = (
        f"first in training, with all branches; multiply-adds: of convolutions and matrix products "
        f"for one image of {' or '.join(sizes)}"
    )
    table.caption_justify = "left"
    console.print(table)
    for line in lines:
        if line.problem:
            console.print(f"{', '.join(line.names)}: {line.problem}", soft_wrap=True)


def _weighed(line: ModelLine) -> list[str]:
    train, infer = line.training, line.inference
    if train is None or infer is None:
        return ["-"] * 5
    weights = (train.parameters, train.trainable, infer.parameters)
    first, second, third = (f"{count / 1e6:.2f}" for count in weights)
    once, kept = (f"{cost.multiply_adds / 1e9:.4g}" for cost in (train, infer))
    return [first, second, once, third, kept]
