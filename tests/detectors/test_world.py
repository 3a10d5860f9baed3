import torch

from detectors.world import LocalWorld


def test_a_local_world_has_one_rank() -> None:
    world = LocalWorld()
    assert (world.rank, world.size) == (0, 1)
    assert world.gather("mine") == ["mine"]


def test_mean_of_a_local_world_is_the_value_without_its_gradient() -> None:
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    mean = LocalWorld().all_reduce_mean(value)
    assert mean.tolist() == [1.0, 2.0]
    assert not mean.requires_grad
