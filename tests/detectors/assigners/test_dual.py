import pytest
from pydantic import ValidationError

from detectors.assigners.dual import Dual
from detectors.assigners.fcos import Fcos
from detectors.assigners.min_cost import MinCost
from detectors.assigners.o2m import O2M
from detectors.assigners.o2o import O2O
from detectors.assigners.poto import Poto


def test_the_first_branch_is_the_one_to_one_branch_kept_for_inference() -> None:
    assert list(Dual().branches()) == ["o2o", "o2m"]
    assert Dual().auxiliary() == {}


def test_parts_and_weights_reach_their_branch() -> None:
    dual = Dual(o2o=Poto(alpha=0.3), o2m=Fcos(radius=2.5), lambda_o2o=0.5, lambda_o2m=2.0)
    branches = dual.branches()
    assert branches["o2o"].assigner == Poto(alpha=0.3)
    assert branches["o2m"].assigner == Fcos(radius=2.5)
    assert [s.weight for s in branches.values()] == [0.5, 2.0]


def test_by_default_each_branch_is_supervised_as_in_the_single_strategies() -> None:
    branches = Dual().branches()
    assert [s.assigner for s in branches.values()] == [Poto(), Fcos()]


@pytest.mark.parametrize("o2o", O2O)
@pytest.mark.parametrize("o2m", O2M)
def test_every_pair_of_the_tables_is_possible_by_name(o2o: str, o2m: str) -> None:
    dual = Dual.model_validate({"o2o": {"name": o2o}, "o2m": {"name": o2m}})
    assert [type(s.assigner) for s in dual.branches().values()] == [O2O[o2o], O2M[o2m]]
    assert Dual.model_validate(dual.model_dump(mode="json")) == dual
    assert Dual.model_validate_json(dual.model_dump_json()) == dual


def test_options_belong_to_their_part() -> None:
    spec = {"name": "dual", "o2o": {"name": "min_cost", "location": "points", "cls_weight": 1}}
    dual = Dual.model_validate(spec)
    assert dual.o2o == MinCost(location="points", cls_weight=1.0)
    assert Dual.model_validate(dual.model_dump(mode="json")) == dual
    with pytest.raises(ValidationError, match=r"o2o\.poto\.aplha"):
        Dual.model_validate({"o2o": {"name": "poto", "aplha": 0.3}})
    with pytest.raises(ValidationError, match=r"'fcos' .* does not match any of the expected tags"):
        Dual.model_validate({"o2o": {"name": "fcos"}})
    with pytest.raises(ValidationError, match="radius"):
        Dual.model_validate({"radius": 2.5})
