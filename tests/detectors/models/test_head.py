import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.models.head import FcosHead, HeadShape

SHAPE = HeadShape(channels=16, convs=2, groups=4)
SIZES = [(4, 5), (2, 3)]


def head(*branches: str, seed: int = 0) -> FcosHead:
    torch.manual_seed(seed)
    return FcosHead(SHAPE, (4, 8), num_classes=3, branches=branches)


def levels(seed: int = 1) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 16, h, w, generator=rng) for h, w in SIZES]


def test_shapes_for_each_branch_asked_for() -> None:
    found = head("o2o", "o2m")(levels(), ["o2m"])
    assert list(found) == ["o2m"]
    logits, distances = found["o2m"]
    assert logits.shape == (2, 26, 3)
    assert distances.shape == (2, 26, 4)


def test_equals_the_convolutions_written_out_point_by_point() -> None:
    built, given = head("o2o"), levels()
    with torch.no_grad():
        built.scales.copy_(torch.tensor([0.5, 2.0]))
    predictor = built.predictors["o2o"]
    cls_conv, box_conv = predictor.get_submodule("cls"), predictor.get_submodule("box")
    logits, distances = built(given, ["o2o"])["o2o"]
    n = 0
    for level, ((height, width), stride) in enumerate(zip(SIZES, (4, 8), strict=True)):
        cls = cls_conv(built.cls_tower(given[level]))
        box = box_conv(built.box_tower(given[level]))
        for y in range(height):
            for x in range(width):
                torch.testing.assert_close(logits[:, n], cls[:, :, y, x])
                wanted = F.softplus(box[:, :, y, x] * (0.5, 2.0)[level] + 1) * stride
                torch.testing.assert_close(distances[:, n], wanted)
                n += 1
    assert n == logits.shape[1]


def test_scores_start_at_the_prior_and_distances_near_a_stride() -> None:
    logits, distances = head("o2o")(levels(), ["o2o"])["o2o"]
    scores = logits.sigmoid()
    assert scores.mean().item() == pytest.approx(0.01, rel=0.1)
    assert scores.max().item() < 0.05
    strides = torch.tensor([4.0] * 20 + [8.0] * 6)[:, None]
    in_strides = distances / strides
    assert in_strides.min().item() > 0.5
    assert in_strides.max().item() < 3


def test_distances_are_positive_for_extreme_features() -> None:
    built = head("o2o")
    with torch.no_grad():
        built.scales.fill_(1e3)
    _, distances = built(levels(), ["o2o"])["o2o"]
    assert (distances >= 0).all()
    assert distances.isfinite().all()


def test_asking_for_one_branch_changes_nothing_about_it() -> None:
    built, given = head("o2o", "o2m"), levels()
    alone, both = built(given, ["o2o"])["o2o"], built(given, ["o2o", "o2m"])["o2o"]
    assert all(torch.equal(a, b) for a, b in zip(alone, both, strict=True))


def test_a_predictor_is_all_that_a_branch_has_of_its_own() -> None:
    one, two = head("o2o").state_dict(), head("o2o", "o2m").state_dict()
    assert all(torch.equal(two[name], weight) for name, weight in one.items())
    own = {
        f"predictors.o2m.{part}.{kind}" for part in ("cls", "box") for kind in ("weight", "bias")
    }
    assert set(two) - set(one) == own
