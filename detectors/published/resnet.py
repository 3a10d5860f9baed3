"""Names of a ResNet with a feature pyramid in detectron2."""

from detectors.published.base import Names

STAGES = {"res2": "layer1", "res3": "layer2", "res4": "layer3", "res5": "layer4"}


def detectron2_resnet(published: str) -> Names:
    """Return the names of a ResNet of bottlenecks that is called `published` there."""
    names = {
        f"{published}.stem.conv1.norm": "backbone.bn1",
        f"{published}.stem.conv1": "backbone.conv1",
    }
    for theirs, ours in STAGES.items():
        block, own = f"{published}.{theirs}.{{}}", f"backbone.{ours}.{{}}"
        for i in (1, 2, 3):
            names[f"{block}.conv{i}.norm"] = f"{own}.bn{i}"
            names[f"{block}.conv{i}"] = f"{own}.conv{i}"
        names[f"{block}.shortcut.norm"] = f"{own}.downsample.1"
        names[f"{block}.shortcut"] = f"{own}.downsample.0"
    return names


def detectron2_pyramid(published: str, levels: tuple[int, ...]) -> Names:
    """Return the names of a feature pyramid; `levels` are those of its input, such as 2 for C2."""
    laterals = {f"{published}.fpn_lateral{n}": f"neck.laterals.{i}" for i, n in enumerate(levels)}
    return laterals | {
        f"{published}.fpn_output{n}": f"neck.outputs.{i}" for i, n in enumerate(levels)
    }
