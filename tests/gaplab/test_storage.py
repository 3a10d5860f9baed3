"""Files of a trial: whole or not there, and checkpoints never unpickled."""

import pickle
import subprocess
import sys
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
        def __reduce__(self) -> tuple[object, tuple[Path]]:
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


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.save_text("a.txt", "old")

    def fail(name: str, error: type[BaseException]) -> None:
        with storage.writing(name) as stream:
            stream.write(b"half of the ne")
            raise error

    for name, error in (("a.txt", ZeroDivisionError), ("b.txt", KeyboardInterrupt)):
        with pytest.raises(error):
            fail(name, error)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_two_writers_of_one_name_do_not_mix(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with storage.writing("a.txt") as first, storage.writing("a.txt") as second:
        first.write(b"first" * 1000)
        second.write(b"second")
    assert (tmp_path / "a.txt").read_bytes() == b"first" * 1000
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "trials").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"trials/x/a\.txt: can't be written \(.+\); free space"):
        Storage(str(tmp_path)).save_text("trials/x/a.txt", "text")
    assert [p.name for p in tmp_path.iterdir()] == ["trials"]


@pytest.mark.parametrize("uri", ["", "relative/folder", "nowhere://bucket/folder"])
def test_an_address_that_cannot_be_used(uri: str) -> None:
    with pytest.raises(UserError, match=f"^{uri}: can't be used as storage .*; give an absolute"):
        Storage(uri)


def test_names_and_deletion(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for name in ("a b/2.txt", "a b/1.txt", "a b/deeper/3.txt", "0.txt"):
        storage.save_text(name, name)
    assert storage.names("a b") == Storage(f"{tmp_path}/a b").names("") == ["1.txt", "2.txt"]
    assert storage.names("nowhere") == []
    storage.delete("a b/1.txt")
    storage.delete("a b/1.txt")
    assert storage.names("a b") == ["2.txt"]
    other, name = Storage.of(f"{tmp_path}/a b/2.txt")
    assert other.open(name).read() == b"a b/2.txt"


def test_torch_waits_for_a_checkpoint() -> None:
    code = "import sys, gaplab.matchfile, gaplab.export; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"
