"""Checkpoints: whole or not there, and never unpickled."""

import pickle
from pathlib import Path

import pytest
import torch

from gaplab.errors import UserError
from gaplab.storage import Storage


def test_round_trip_and_replacement(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert storage.load("trials/x/checkpoint.pt") is None
    for step in (1, 2):
        uri = storage.save("trials/x/checkpoint.pt", {"w": torch.full((3,), step), "step": step})
    assert uri == f"{tmp_path}/trials/x/checkpoint.pt"
    state = storage.load("trials/x/checkpoint.pt")
    assert state is not None
    assert state["step"] == 2
    assert state["w"].tolist() == [2, 2, 2]
    assert [p.name for p in (tmp_path / "trials/x").iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("keep", [0, 10, 400])
def test_a_truncated_file_is_said(tmp_path: Path, keep: int) -> None:
    storage = Storage(str(tmp_path))
    storage.save("a.pt", {"w": torch.zeros(500)})
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(whole[:keep])
    with pytest.raises(UserError, match=r"a\.pt: damaged checkpoint .* delete it to start over"):
        storage.load("a.pt")


def test_foreign_pickles_are_not_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "executed"),)

    torch.save({"w": Evil()}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="damaged checkpoint"):
        Storage(str(tmp_path)).load("a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(UserError, match="damaged checkpoint"):
        Storage(str(tmp_path)).load("b.pt")
    assert not (tmp_path / "executed").exists()


def test_text(tmp_path: Path) -> None:
    assert Path(Storage(str(tmp_path)).save_text("t/traceback.txt", "é\n")).read_text() == "é\n"
