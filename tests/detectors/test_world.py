from typing import Any

import pytest
import torch

from detectors.world import LocalWorld


class TestLocalWorld:
    def test_is_a_world_of_one(self) -> None:
        world = LocalWorld()
        assert (world.rank, world.size) == (0, 1)
        assert world.gather("mine") == ["mine"]

    def test_mean_is_the_value_without_its_gradient(self) -> None:
        value = torch.tensor([1.0, 2.0], requires_grad=True)
        mean = LocalWorld().all_reduce_mean(value)
        assert mean.tolist() == [1.0, 2.0]
        assert not mean.requires_grad


@pytest.mark.slow
class TestTorchWorld:
    def test_rank_and_size(self, two_ranks: list[dict[str, Any]]) -> None:
        assert [rank["world"] for rank in two_ranks] == [(0, 2), (1, 2)]

    def test_mean_is_the_same_on_all_ranks_and_has_no_gradient(
        self, two_ranks: list[dict[str, Any]]
    ) -> None:
        for rank in two_ranks:
            assert rank["mean"].tolist() == [1.5, 15.0]
            assert not rank["mean"].requires_grad

    def test_only_rank_0_gathers_in_the_order_of_ranks(
        self, two_ranks: list[dict[str, Any]]
    ) -> None:
        assert [rank["gathered"] for rank in two_ranks] == [[{"rank": 0}, {"rank": 1}], []]
