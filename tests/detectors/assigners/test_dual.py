from detectors.assigners.dual import Dual
from detectors.assigners.fcos import Fcos
from detectors.assigners.poto import Poto


def test_the_one_to_one_branch_comes_first_for_it_is_kept_for_inference() -> None:
    assert list(Dual().branches()) == ["o2o", "o2m"]


def test_options_reach_the_assigner_and_weight_of_their_branch() -> None:
    dual = Dual(alpha=0.3, radius=2.5, range_factor=4.0, lambda_o2o=0.5, lambda_o2m=2.0)
    branches = dual.branches()
    assert branches["o2o"].assigner == Poto(alpha=0.3, radius=2.5)
    assert branches["o2m"].assigner == Fcos(radius=2.5, range_factor=4.0)
    assert [s.weight for s in branches.values()] == [0.5, 2.0]


def test_by_default_each_branch_is_supervised_as_in_the_single_strategies() -> None:
    branches = Dual().branches()
    assert [s.assigner for s in branches.values()] == [Poto(), Fcos()]
