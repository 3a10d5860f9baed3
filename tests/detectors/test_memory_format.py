import pytest
import torch

from detectors.memory_format import memory_format, to_device


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (96, 96), (256, 256), (256, 257), (320, 416)])
def test_large_images_are_contiguous_on_a_cpu(size: tuple[int, int], last: bool) -> None:
    images = torch.arange(6 * size[0] * size[1]).to(torch.uint8).reshape(2, 3, *size)
    given = images.to(memory_format=torch.channels_last) if last else images
    moved = to_device(given, torch.device("cpu"))
    assert torch.equal(moved, images)
    assert moved.dtype == torch.uint8
    large = size[0] * size[1] > 256 * 256
    expected = torch.contiguous_format if large else torch.channels_last
    assert memory_format(torch.device("cpu"), *size) == expected
    assert moved.is_contiguous(memory_format=expected)


def test_a_gpu_has_channels_last_at_every_size() -> None:
    for side in (32, 256, 800):
        assert memory_format(torch.device("cuda"), side, side) == torch.channels_last
