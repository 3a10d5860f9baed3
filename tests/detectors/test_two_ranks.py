"""Tests of two processes in one gloo group; `miniature.main` is one of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detectors.models.parts import parts_of, within
from detectors.world import LocalWorld
from tests.detectors import miniature as mini

pytestmark = pytest.mark.slow

Ranks = list[dict[str, Any]]


@pytest.fixture(scope="module")
def ranks(
    run_ranks: Callable[[Path, Path], Ranks], tmp_path_factory: pytest.TempPathFactory
) -> Ranks:
    """Return what `miniature.main` saved in each process."""
    return run_ranks(Path(mini.__file__), tmp_path_factory.mktemp("ranks"))


class TestWorld:
    def test_rank_and_size(self, ranks: Ranks) -> None:
        assert [rank["world"] for rank in ranks] == [(0, 2), (1, 2)]

    def test_mean_is_the_same_on_all_ranks_and_has_no_gradient(self, ranks: Ranks) -> None:
        for rank in ranks:
            assert rank["mean"].tolist() == [1.5, 15.0]
            assert not rank["mean"].requires_grad

    def test_only_rank_0_gathers_in_the_order_of_ranks(self, ranks: Ranks) -> None:
        assert [rank["gathered"] for rank in ranks] == [[{"rank": 0}, {"rank": 1}], []]


class TestStep:
    def test_equals_the_step_of_one_rank_on_the_whole_batch(self, ranks: Ranks, setup: str) -> None:
        """With plain gradient descent equal weights mean equal gradients.

        Sums are ordered differently, hence 1e-6. One rank has all the objects.
        """
        alone = mini.one_step(setup, rank=0, size=1)
        start = mini.detector(*mini.SETUPS[setup]).state_dict()
        for rank in ranks:
            found = rank["steps"][setup]
            assert found["parts"] == pytest.approx(alone["parts"], rel=1e-5)
            for part in ("model", "averaged"):
                torch.testing.assert_close(found[part], alone[part], rtol=0, atol=1e-6)
            assert found["positives"] == alone["positives"]
            assert found["scores"] == pytest.approx(alone["scores"], rel=1e-5)
        moved = [(alone["model"][key] - start[key]).abs().max().item() for key in start]
        assert max(moved) > 1e-2

    def test_is_bit_identical_on_both_ranks(self, ranks: Ranks, setup: str) -> None:
        first, second = (rank["steps"][setup] for rank in ranks)
        torch.testing.assert_close(first, second, rtol=0, atol=0)

    @pytest.mark.parametrize("name", mini.FROZEN)
    def test_with_frozen_parts(self, ranks: Ranks, name: str) -> None:
        """They have no gradient, so no rank waits for one, and their weights keep all bits."""
        alone = mini.one_step("dual", rank=0, size=1, freeze=mini.FROZEN[name])
        start = mini.detector(*mini.SETUPS["dual"])
        names = parts_of(start)
        for rank in ranks:
            found = rank["frozen"][name]
            torch.testing.assert_close(found["model"], alone["model"], rtol=0, atol=1e-6)
            for key, value in start.state_dict().items():
                fixed = any(within(key, names[part]) for part in mini.FROZEN[name])
                assert torch.equal(found["model"][key], value) == fixed, key

    @pytest.mark.parametrize("name", mini.SAVING)
    def test_with_activations_that_are_computed_again(self, ranks: Ranks, name: str) -> None:
        alone = mini.one_step("dual", rank=0, size=1)
        for rank in ranks:
            found = rank["saving"][name]
            assert found["parts"] == pytest.approx(alone["parts"], rel=1e-5)
            torch.testing.assert_close(found["model"], alone["model"], rtol=0, atol=1e-6)

    def test_both_ranks_stop_if_one_diverges(self, ranks: Ranks) -> None:
        messages = [rank["diverged"] for rank in ranks]
        assert messages[0] == messages[1]
        assert "o2o.cls=nan" in messages[0]


class TestInference:
    def test_finds_what_one_rank_finds(self, ranks: Ranks) -> None:
        mini.assert_together([rank["predicted"] for rank in ranks], mini.predicted(LocalWorld()))

    def test_predictions_that_are_not_finite_on_one_rank_stop_both(self, ranks: Ranks) -> None:
        first, last = (rank["unpredictable"] for rank in ranks)
        assert "predictions of another worker are not finite" in first
        assert "boxes of images [1] are not finite" in last
