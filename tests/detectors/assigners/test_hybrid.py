import pytest
import torch
from pydantic import ValidationError

from detectors.assigners.base import Assigner
from detectors.assigners.fcos import Fcos
from detectors.assigners.hybrid import Hybrid, require_focal_loss
from detectors.assigners.min_cost import MinCost
from detectors.assigners.min_cost_many import MinCostMany
from detectors.assigners.o2f import O2F
from detectors.assigners.o2m import O2M
from detectors.assigners.poto import Poto
from detectors.models.points import pyramid_points
from detectors.structures import Predictions, Progress, Targets

POINTS = pyramid_points([(8, 8), (4, 4)], (4, 8), torch.device("cpu"))
RNG = torch.Generator().manual_seed(0)
PREDICTIONS = Predictions(
    torch.randn(len(POINTS), 2, generator=RNG), torch.cat([POINTS.xy - 6, POINTS.xy + 6], 1)
)
TARGETS = Targets(torch.tensor([[2.0, 2.0, 20.0, 20.0]]), torch.tensor([1]))


def used_assigner(hybrid: Hybrid, progress: Progress) -> type[Assigner]:
    """Return the assigner whose assignment is used; the two assignments differ here."""
    found, first, then = (
        each.assign(POINTS, PREDICTIONS, TARGETS, progress).object
        for each in (hybrid, hybrid.first, hybrid.then)
    )
    assert not torch.equal(first, then)
    return type(hybrid.first) if torch.equal(found, first) else type(hybrid.then)


@pytest.mark.parametrize(
    ("rho", "epochs", "first"),
    [(0.5, 4, 2), (0.5, 5, 3), (0.0, 4, 0), (1.0, 4, 4), (0.75, 12, 9), (0.2, 1, 1)],
)
def test_the_first_assigner_is_used_below_its_share_of_epochs(
    rho: float, epochs: int, first: int
) -> None:
    hybrid = Hybrid(rho=rho)
    stages = [Progress(3 * e + 1, 3 * epochs, e, epochs) for e in range(epochs)]
    found = [used_assigner(hybrid, progress) for progress in stages]
    assert found == [Fcos] * first + [Poto] * (epochs - first)


def test_every_step_of_an_epoch_has_the_same_assigner() -> None:
    found = [used_assigner(Hybrid(), Progress(step, 20, step // 10, 2)) for step in range(20)]
    assert found == [Fcos] * 10 + [Poto] * 10


def test_there_is_one_branch_kept_for_inference() -> None:
    hybrid = Hybrid()
    (branch,) = hybrid.branches().items()
    assert branch[0] == "o2o"
    assert branch[1].assigner is hybrid
    assert branch[1].weight == 1.0
    assert hybrid.loss == hybrid.first.loss == hybrid.then.loss == "focal"


@pytest.mark.parametrize(
    ("first", "then", "needed"),
    [
        (MinCostMany(), MinCost(), False),
        (Fcos(), MinCost(), True),
        (MinCostMany(), Poto(), True),
    ],
)
def test_it_needs_positions_if_a_part_does(first: Assigner, then: Assigner, needed: bool) -> None:
    assert Hybrid(first=first, then=then).needs_positions == needed


def test_parts_are_chosen_by_name_with_their_options() -> None:
    spec = {"first": {"name": "fcos", "radius": 2.5}, "then": {"name": "center"}, "rho": 0.25}
    hybrid = Hybrid.model_validate(spec)
    assert hybrid.first == Fcos(radius=2.5)
    assert Hybrid.model_validate(hybrid.model_dump(mode="json")) == hybrid


def test_refuses_parts_trained_by_another_loss() -> None:
    other = [name for name, cls in O2M.items() if cls.loss != "focal"]
    for name in other:
        with pytest.raises(ValidationError, match=rf"focal loss, but {name} has") as raised:
            Hybrid.model_validate({"first": {"name": name}})
        assert [error["loc"] for error in raised.value.errors()] == [("first",)]
    assert require_focal_loss(Poto()) == Poto()
    with pytest.raises(ValueError, match="must have focal loss, but o2f has bce"):
        require_focal_loss(O2F())
