"""Damage of a checkpoint is always detected, and the last undamaged one is never deleted."""

import hashlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gaplab.errors import StorageError
from gaplab.spec.models import CheckpointOptions
from gaplab.storage.filesystem import Storage
from gaplab.trial.checkpoints import CheckpointFile, CheckpointWriter, files_to_delete, load_newest

TRIAL, STEPS = "0123456789ab", 4
LAST_TWO = CheckpointOptions(best=False)


@pytest.fixture
def home() -> Iterator[Path]:
    """A new home folder for each test."""
    with TemporaryDirectory() as made:
        yield Path(made)


def writer_of(home: Path, options: CheckpointOptions = LAST_TWO) -> CheckpointWriter:
    return CheckpointWriter(Storage(str(home)), TRIAL, options, STEPS)


def state(step: int) -> dict[str, Any]:
    return {"step": step, "weight": torch.full((50,), float(step)), "text": "é"}


def folder(home: Path) -> Path:
    return home / "trials" / TRIAL / "checkpoints"


def names(home: Path) -> list[str]:
    return sorted(path.name for path in folder(home).iterdir())


def found_step(home: Path) -> int | None:
    found = load_newest(Storage(str(home)), TRIAL)
    return None if found.state is None else found.state["step"]


def test_the_newest_is_loaded_as_it_was_saved(home: Path) -> None:
    storage = Storage(str(home))
    assert load_newest(storage, TRIAL).state is None
    assert load_newest(storage, TRIAL).notes == ()
    uris = [writer_of(home).save(state(step), step // STEPS, step, 0) for step in (4, 6, 8)]
    found = load_newest(storage, TRIAL)
    assert found.state is not None
    assert torch.equal(found.state["weight"], torch.full((50,), 8.0))
    assert (found.uri, found.notes, found.damaged) == (uris[-1], (), ())
    assert names(home) == [Path(uri).name for uri in uris[1:]]
    assert names(home)[0].startswith("epoch=0001-step=0000006-")


def test_numbers_are_compared_as_numbers(home: Path) -> None:
    """Also where they have more digits than the format."""
    saver = writer_of(home, CheckpointOptions(last=9, best=False))
    for epoch, step in ((9999, 10**7 - 1), (10000, 10**7), (2, 3)):
        saver.save(state(step), epoch, step, 0)
    assert found_step(home) == 10**7


def two_saved(home: Path) -> Path:
    """Save two checkpoints; return the path of the second."""
    for step in (4, 8):
        uri = writer_of(home).save(state(step), step // STEPS, step, 0)
    return Path(uri)


@settings(max_examples=30)
@given(st.data())
def test_a_flipped_bit_or_a_cut_is_detected_everywhere(data: st.DataObject) -> None:
    with TemporaryDirectory() as made:
        path = two_saved(Path(made))
        whole = path.read_bytes()
        at = data.draw(st.integers(0, len(whole) - 1), "position")
        if data.draw(st.booleans(), "cut"):
            damaged = whole[:at]
        else:
            flipped = whole[at] ^ (1 << data.draw(st.integers(0, 7), "bit"))
            damaged = whole[:at] + bytes([flipped]) + whole[at + 1 :]
        path.write_bytes(damaged)
        found = load_newest(Storage(made), TRIAL)
        assert found.state is not None
        assert found.state["step"] == 4
        first, second = found.notes
        assert first.startswith(
            f"{path.relative_to(made)}: damaged checkpoint (its content doesn't match"
        )
        assert second.startswith("continuing from ")
        assert "step=0000004" in second
        assert found.damaged == (str(path.relative_to(made)),)


def test_damage_in_every_part_is_detected(home: Path) -> None:
    """Every 64th byte and the last one, each flipped, and the file cut there."""
    path = two_saved(home)
    whole = path.read_bytes()
    for at in [*range(0, len(whole), 64), len(whole) - 1]:
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            assert found_step(home) == 4


def test_a_note_says_that_none_is_left(home: Path) -> None:
    two_saved(home)
    for path in folder(home).iterdir():
        path.write_bytes(b"")
    found = load_newest(Storage(str(home)), TRIAL)
    assert found.state is None
    assert len(found.notes) == 3
    assert found.notes[-1] == "no undamaged checkpoint is left: starting from epoch 0"


def test_files_that_cannot_be_read_are_skipped(home: Path) -> None:
    path = two_saved(home)
    path.unlink()
    path.mkdir()
    (path / "x").touch()
    assert found_step(home) == 4, "a folder is no checkpoint"
    path.with_name("epoch=0009-step=0000001-nonsense.pt").write_bytes(b"not a checkpoint")
    assert found_step(home) == 4


def test_files_with_a_right_name_that_are_no_checkpoints(home: Path) -> None:
    """Code in foreign pickles is not executed, whatever their name is."""

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (home / "executed",)

    torch.save({"w": Evil()}, home / "evil.pt")
    storage = Storage(str(home))
    two_saved(home)
    torch.save([1], home / "list.pt")
    foreign = [pickle.dumps(Evil(), 2), (home / "evil.pt").read_bytes()]
    for number, data in enumerate([*foreign, (home / "list.pt").read_bytes()], 3):
        file = CheckpointFile(number, number * STEPS, digest(data))
        storage.save_bytes(f"trials/{TRIAL}/checkpoints/{file.name}", data)
    found = load_newest(storage, TRIAL)
    assert found.state is not None
    assert found.state["step"] == 8
    assert len(found.damaged) == 3
    assert "it doesn't hold a state" in found.notes[0]
    assert "PyTorch can't read it" in found.notes[1]
    assert not (home / "executed").exists()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


class Died(BaseException):
    """Stands for SIGKILL."""


class DyingDisk:
    """A file system on which renaming kills the process, so that nothing is cleaned up."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        if name in ("move", "delete_file"):
            raise Died
        return getattr(self._inner, name)


def test_after_a_death_between_writing_and_renaming_the_earlier_one_is_left(home: Path) -> None:
    storage = Storage(str(home))
    saver = CheckpointWriter(storage, TRIAL, CheckpointOptions(last=1, best=False), STEPS)
    saver.save(state(4), 1, 4, 0)
    storage._fs = DyingDisk(storage._fs)
    with pytest.raises(Died):
        saver.save(state(8), 2, 8, 0)
    assert [name.endswith(".part") for name in names(home)] == [False, True]
    assert found_step(home) == 4
    writer_of(home, CheckpointOptions(last=1, best=False)).save(state(8), 2, 8, 0)
    assert [name[:24] for name in names(home)] == ["epoch=0002-step=0000008-"], (
        "and the partial file is deleted"
    )


def test_after_a_full_disk_the_earlier_ones_are_left(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_saved(home)
    before = names(home)

    def full(*_: object) -> None:
        raise StorageError("can't be written (No space left on device)")

    saver = writer_of(home)
    monkeypatch.setattr(saver._storage, "save_bytes", full)
    with pytest.raises(StorageError):
        saver.save(state(12), 3, 12, 0)
    assert names(home) == before


class TestOldHomes:
    """They hold one `checkpoint.pt` per trial."""

    def single(self, home: Path) -> Path:
        path = home / "trials" / TRIAL / "checkpoint.pt"
        path.parent.mkdir(parents=True)
        torch.save(state(4), path)
        return path

    def test_the_file_is_read_and_deleted_when_it_is_replaced(self, home: Path) -> None:
        path = self.single(home)
        assert found_step(home) == 4
        saver = writer_of(home)
        saver.save(state(6), 1, 6, 0)
        assert path.exists(), "it is the second newest"
        assert found_step(home) == 6
        saver.save(state(8), 2, 8, 0)
        assert not path.exists()
        assert found_step(home) == 8

    @settings(max_examples=30)
    @given(st.integers(0, 3000), st.one_of(st.none(), st.integers(0, 7)))
    def test_a_damaged_file_is_skipped(self, at: int, bit: int | None) -> None:
        """It has no digest, so a flipped bit may not be detected, but it never raises an error."""
        with TemporaryDirectory() as made:
            path = self.single(Path(made))
            whole = path.read_bytes()
            at = at % len(whole)
            rest = b"" if bit is None else bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :]
            path.write_bytes(whole[:at] + rest)
            found = load_newest(Storage(made), TRIAL)
            if bit is None:
                assert found.state is None
            if found.state is None:
                assert found.damaged == (f"trials/{TRIAL}/checkpoint.pt",)
                assert found.notes[-1].endswith("starting from epoch 0")


FILES = st.lists(
    st.integers(0, 40).map(lambda step: CheckpointFile(step // STEPS, step, f"{step:016x}")),
    max_size=12,
)
OPTIONS = st.builds(
    CheckpointOptions,
    last=st.integers(1, 5),
    best=st.booleans(),
    every=st.one_of(st.none(), st.integers(1, 4)),
)


class TestRetention:
    @given(FILES, st.integers(0, 40), OPTIONS, st.integers(0, 10))
    def test_which_files_are_deleted(
        self, files: list[CheckpointFile], step: int, options: CheckpointOptions, best: int
    ) -> None:
        new = CheckpointFile(step // STEPS, step, "f" * 16)
        deleted = files_to_delete(files, new, options, STEPS, best)
        left = set(files) - set(deleted)
        assert new not in deleted
        assert deleted == sorted(set(deleted))
        after = sorted({*files, new})[-options.last :]
        assert set(after) <= {*left, new}, "the newest stay"
        ends = {file for file in files if file.epoch and file.step == STEPS * file.epoch}
        if options.best:
            assert {file for file in ends if file.epoch == best} <= left
        if options.every:
            assert {file for file in ends if file.epoch % options.every == 0} <= left
        for file in left - set(after):
            assert file in ends
            marked = options.every is not None and file.epoch % options.every == 0
            assert marked or (options.best and file.epoch == best)

    def test_nothing_to_do(self) -> None:
        new = CheckpointFile(1, 4, "0" * 16)
        assert files_to_delete([], new, LAST_TWO, STEPS, 0) == []
        assert files_to_delete([new], new, LAST_TWO, STEPS, 0) == []

    @settings(max_examples=25)
    @given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=5), OPTIONS)
    def test_the_only_undamaged_one_is_never_deleted(
        self, attempts: list[tuple[int, bool]], options: CheckpointOptions
    ) -> None:
        """Each attempt continues from the newest undamaged one and saves some, and then the newest
        may be damaged. The next attempt finds the newest that is not damaged.
        """
        with TemporaryDirectory() as made:
            home = Path(made)
            for saves, damage in attempts:
                found = load_newest(Storage(made), TRIAL)
                done = found.state["step"] if found.state else 0
                saver = writer_of(home, options)
                saver.damaged = found.damaged
                saved = []
                for step in range(done + 1, done + saves + 1):
                    saved.append(Path(saver.save(state(step), step // STEPS, step, 0)))
                    assert found_step(home) == step, "what was just saved can be loaded"
                    for path in folder(home).iterdir():
                        assert digest(path.read_bytes()) in path.name, "damaged ones are deleted"
                if damage:
                    saved[-1].write_bytes(b"")
                    kept = options.last > 1 and (saves > 1 or found.state is not None)
                    assert not kept or found_step(home) == done + saves - 1
