"""Starting from another detector's backbone, neck and towers."""

import pytest
import torch
from torch import nn

from detectors.models.extractor import load_extractor
from detectors.models.fcos import FcosOptions
from detectors.models.gates import MaxFilter
from detectors.models.onenet import OneNetOptions
from detectors.models.weights import WeightsError


def built(options: FcosOptions | OneNetOptions, *branches: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return options.build(3, branches)


def test_everything_but_predictors_gates_and_level_scales_is_copied() -> None:
    """From FCOS (o2m, centerness) to a dual detector with a gate: other predictors, same rest.

    A scale of 0.5 halves a logarithm in FCOS as first published, and a distance here.
    """
    source = built(FcosOptions(centerness=True, box="exp"), "o2m", seed=0)
    with torch.no_grad():
        source.get_parameter("head.scales").fill_(0.5)
    detector = built(FcosOptions(gate=MaxFilter()), "o2o", "o2m", seed=1)
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    load_extractor(detector, source.state_dict(), "there")
    given = source.state_dict()
    for key, value in detector.state_dict().items():
        private = key.startswith(("head.predictors.", "head.scales"))
        assert torch.equal(value, before[key] if private else given[key]), key
    moved = [key for key in before if not torch.equal(before[key], detector.state_dict()[key])]
    parts = {".".join(key.split(".")[:2]) for key in moved}
    assert {"backbone.stem", "neck.laterals", "head.towers"} <= parts


def test_single_level_detectors_are_copied_too() -> None:
    source, detector = (built(OneNetOptions(), "o2o", seed=seed) for seed in (0, 1))
    load_extractor(detector, source.state_dict(), "there")
    stage = "head.stages.0.weight"
    assert torch.equal(detector.state_dict()[stage], source.state_dict()[stage])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (FcosOptions(channels=16), "of another shape neck.laterals.0.weight"),
        (FcosOptions(tower_convs=3), "unexpected head.towers.shared.cls.2.0.0.weight"),
        (FcosOptions(shared_towers=False), "missing head.towers.shared.cls.0.0.0.weight"),
    ],
)
def test_another_shape_is_refused_in_one_line_and_changes_nothing(
    other: FcosOptions, message: str
) -> None:
    detector = built(FcosOptions(), "o2o", seed=1)
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    with pytest.raises(WeightsError) as raised:
        load_extractor(detector, built(other, "o2o", seed=0).state_dict(), "abc.pth")
    (line,) = raised.value.problems
    assert line.startswith("abc.pth: not the feature extractor of this detector: ")
    assert message in line
    assert line.endswith("; correct `init_from`")
    assert "\n" not in line
    assert all(torch.equal(before[key], value) for key, value in detector.state_dict().items())
