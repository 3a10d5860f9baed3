import pytest
from pydantic import ValidationError

from detectors.assigners.base import Assigner
from detectors.assigners.center import Center
from detectors.assigners.fcos import Fcos
from detectors.assigners.mixture import Mixture
from detectors.assigners.o2f import O2F
from detectors.assigners.o2m import O2M
from detectors.assigners.o2o import O2O
from detectors.assigners.poto import Poto
from detectors.assigners.quality_atss import QualityAtss


def test_defaults_are_those_of_the_paper() -> None:
    mixture = Mixture()
    (branch,) = mixture.branches().items()
    assert branch[0] == "o2o"
    assert branch[1].assigner == Poto()
    assert branch[1].weight == 1.0
    (auxiliary,) = mixture.auxiliary().items()
    assert auxiliary[0] == "o2o"
    assert auxiliary[1].assigner == QualityAtss()
    assert auxiliary[1].weight == 1.0


@pytest.mark.parametrize("main", [*O2O, *O2M, "o2f"])
def test_any_single_assigner_can_be_the_main_one_and_names_the_branch(main: str) -> None:
    spec = {"main": {"name": main}, "aux": {"name": "fcos"}, "lambda_aux": 0.5}
    mixture = Mixture.model_validate(spec)
    table: dict[str, type[Assigner]] = {**O2O, **O2M, "o2f": O2F}
    expected = table[main]
    assert mixture.branches() == expected().branches()
    (auxiliary,) = mixture.auxiliary().items()
    assert auxiliary[0] == expected.branch
    assert auxiliary[1].assigner == Fcos()
    assert auxiliary[1].weight == 0.5
    assert Mixture.model_validate(mixture.model_dump(mode="json")) == mixture


def test_options_of_the_parts_are_kept() -> None:
    spec = {"main": {"name": "center", "range_factor": 4.0}, "aux": {"name": "fcos", "radius": 3.0}}
    mixture = Mixture.model_validate(spec)
    assert mixture.main == Center(range_factor=4.0)
    assert mixture.aux == Fcos(radius=3.0)
    assert Mixture.model_validate_json(mixture.model_dump_json()) == mixture


def test_refuses_an_auxiliary_assigner_trained_by_another_loss() -> None:
    other = [name for name, cls in O2M.items() if cls.loss != "focal"]
    for name in other:
        with pytest.raises(ValidationError, match=rf"focal loss, but {name} has") as raised:
            Mixture.model_validate({"aux": {"name": name}})
        assert [error["loc"] for error in raised.value.errors()] == [("aux",)]
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        Mixture.model_validate({"aux": {"name": "poto"}})
