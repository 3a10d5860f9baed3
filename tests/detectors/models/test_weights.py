from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from detectors.models.weights import WeightsError, load_weights


def module() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def saved(path: Path, weights: dict[str, Tensor]) -> str:
    torch.save(weights, path)
    return str(path)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


def test_every_name_must_match_if_there_is_no_head(tmp_path: Path) -> None:
    source, target = module(), module()
    load_weights(target, saved(tmp_path / "a.pth", source.state_dict()))
    assert same(target.state_dict(), source.state_dict())
    more = source.state_dict() | {"fc.bias": torch.zeros(2)}
    with pytest.raises(
        WeightsError, match=r"not the weights of this backbone: unexpected fc\.bias; "
    ):
        load_weights(target, saved(tmp_path / "b.pth", more))


def test_several_heads_are_left_out(tmp_path: Path) -> None:
    source, target = module(), module()
    extra = {"fc.bias": torch.zeros(2), "norm.weight": torch.zeros(3)}
    path = saved(tmp_path / "a.pth", source.state_dict() | extra)
    with pytest.raises(WeightsError, match=r"unexpected norm\.weight; "):
        load_weights(target, path, heads=("fc.",))
    load_weights(target, path, heads=("fc.", "norm."))
    assert same(target.state_dict(), source.state_dict())


def test_a_refused_file_changes_nothing(tmp_path: Path) -> None:
    target = module()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    weights = module().state_dict()
    weights["1.running_mean"] = torch.ones(5)
    del weights["1.bias"]
    with pytest.raises(
        WeightsError, match=r"missing 1\.bias; of another shape 1\.running_mean \[5\] not \[4\]; "
    ):
        load_weights(target, saved(tmp_path / "a.pth", weights))
    assert same(target.state_dict(), before)


def test_an_empty_state_dict_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"missing 0\.weight, 0\.bias, .*, and 1 more; "):
        load_weights(module(), saved(tmp_path / "a.pth", {}))
