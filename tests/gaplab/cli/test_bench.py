"""`gaplab bench` on a CPU, with a tiny detector instead of ResNet-50."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gaplab.trial.speed import machine, setups
from gaplab.trial.speed.setups import Setup

Gaplab = Callable[..., str]
TINY = Setup(
    {"name": "fcos", "backbone": {"name": "tiny", "channels": (8, 16)}, "channels": 16},
    {"name": "fcos"},
)


def test_it_prints_a_table_and_writes_json(
    gaplab: Gaplab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(setups.SETUPS, "fcos", TINY)
    monkeypatch.setattr(machine, "importable", lambda: "not there")
    path = tmp_path / "bench.json"
    sizes = ("--side", "64", "--steps", "1", "--batch", "2")
    out = gaplab("bench", "--cpu", "--detector", "fcos", *sizes, "--output", str(path))
    written = json.loads(path.read_text())
    (step,) = written["steps"]
    assert f"Training steps of 2 images, 64x106, on {written['machine']['cpu']}" in out
    row = next(line.split() for line in out.splitlines() if line.startswith(" fcos"))
    assert row[:4] == ["fcos", "fp32", "eager", f"{step['images_per_second']:.4g}"]
    assert row[-4] == str(step["synchronisations"])
    assert "images/s in this process; training fcos in fp32 on them" in out
    assert out.endswith("torchvision's FCOS: not measured (not there)\n")


def test_all_that_is_wrong_is_named_at_once(
    gaplab: Gaplab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    missing = tmp_path / "missing" / "bench.json"
    words = ("--detector", "yolo\x1b[2J", "--precision", "fp8", "--output", str(missing))
    lines = gaplab("bench", *words, code=2).splitlines()
    assert [line for line in lines if "\x1b" in line] == []
    assert len(lines) == 4
    assert f"unknown; choose from {', '.join(setups.SETUPS)}" in lines[0]
    assert "--precision fp8: unknown; choose from bf16, fp32" in lines[1]
    assert "no GPU that PyTorch can use; measure the CPU with --cpu" in lines[2]
    assert str(missing) in lines[3]


def test_too_little_memory_is_one_line(gaplab: Gaplab, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setitem(setups.SETUPS, "fcos", TINY)
    monkeypatch.setattr("gaplab.trial.speed.steps.train_step", fail)
    out = gaplab("bench", "--cpu", "--detector", "fcos", "--side", "64", code=2)
    assert out.count("\n") == 1
    assert "memory is too small for 1 image of 64x106 on cpu; lower --batch or --side" in out
