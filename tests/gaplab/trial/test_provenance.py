"""The provenance of an attempt: the code of the driver, and the surroundings of the worker."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from detectors.assigners import ASSIGNERS
from gaplab.events import from_text, to_text
from gaplab.records import Machine, Started
from gaplab.storage.filesystem import Storage
from gaplab.trial import provenance as worker
from gaplab.trial.git import MAX_UNTRACKED, GitError, read_checkout
from gaplab.trial.provenance import (
    MAX_BYTES,
    Code,
    assemble,
    read_code,
    save_changes,
    sources_digest,
    worker_provenance,
)

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Git:
    """Runs git in tmp_path/repo, independent of the settings of this machine."""
    for name in [key for key in os.environ if key.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)

    def run(*words: str, at: Path = tmp_path / "repo") -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(["git", *who, *words], cwd=at, check=True, capture_output=True)
        return done.stdout.decode().strip()

    return run


@pytest.fixture
def package(tmp_path: Path, git: Git) -> Path:
    """A committed package two folders below the top of a repository."""
    folder = tmp_path / "repo" / "src" / "pack"
    folder.mkdir(parents=True)
    git("init", "-q")
    (folder / "__init__.py").write_text("A = 1\n")
    (folder.parent.parent / "README").write_text("read me\n")
    (folder.parent.parent / ".gitignore").write_text("ignored/\n")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    return folder


def code_in(folder: Path) -> Code:
    """Read the code of a package, with all the time that git needs on a busy machine."""
    return read_code([folder], seconds=600)


def tree(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and ".git" not in p.parts)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def test_a_clean_checkout(package: Path, git: Git) -> None:
    code = code_in(package)
    assert (code.commit, code.dirty) == (git("rev-parse", "HEAD"), False)
    assert (code.digest, code.changes, code.left_out, code.note) == ("", "", (), "")


@pytest.mark.parametrize("staged", [False, True])
def test_changes_can_be_applied_again(
    tmp_path: Path, package: Path, git: Git, staged: bool
) -> None:
    top = tmp_path / "repo"
    (package / "__init__.py").write_text("A = 2\n")
    (top / "README").unlink()
    if staged:
        (package / "new.py").write_text("B = 1\n")
        git("add", "-A")
    code = code_in(package)
    patch = tmp_path / "changes.diff"
    patch.write_text(code.changes)
    git("clone", "-q", str(top), str(tmp_path / "copy"))
    git("apply", str(patch), at=tmp_path / "copy")
    assert code.dirty
    assert tree(tmp_path / "copy") == tree(top)


def test_settings_of_git_do_not_change_the_digest(package: Path, git: Git) -> None:
    (package / "__init__.py").write_text("A = 2\n")
    before = code_in(package)
    for key, value in (
        *(("diff.noprefix", "true"), ("color.ui", "always"), ("diff.external", "false")),
        *(("core.abbrev", "5"), ("diff.relative", "true"), ("core.pager", "false")),
    ):
        git("config", key, value)
    assert code_in(package) == before


def test_untracked_code_is_named_with_its_digest(tmp_path: Path, package: Path) -> None:
    top = tmp_path / "repo"
    for name in ("new.py", "src/pack/spec.yaml", "notes.md", "ignored/other.py"):
        (top / name).parent.mkdir(exist_ok=True)
        (top / name).write_text(name)
    code = code_in(package)
    for name in ("new.py", "src/pack/spec.yaml"):
        line = f"# untracked: {name} sha256={sha256(name.encode()).hexdigest()}\n"
        assert line in code.changes
    assert code.dirty
    assert "notes" not in code.changes
    assert "other" not in code.changes
    (top / "new.py").write_text("other")
    assert code_in(package).digest != code.digest


def test_too_many_untracked_files(tmp_path: Path, package: Path) -> None:
    for number in range(MAX_UNTRACKED + 2):
        (tmp_path / "repo" / f"{number}.py").touch()
    code = code_in(package)
    assert code.note == "2 more untracked files"
    assert code.changes.count("untracked") == MAX_UNTRACKED


@pytest.mark.parametrize(
    "name", [".env", "src/pack/.ENV", "src/prod.env", "a.token", "x/Key.PEM", "k.key", "id_rsa"]
)
def test_secrets_are_left_out(tmp_path: Path, package: Path, git: Git, name: str) -> None:
    secret = tmp_path / "repo" / name
    secret.parent.mkdir(exist_ok=True)
    secret.write_text("before")
    git("add", ".")
    git("commit", "-q", "-m", "a secret")
    secret.write_text("hush")
    (package / "__init__.py").write_text("A = 2\n")
    code = code_in(package)
    assert code.left_out == (name,)
    assert "A = 2" in code.changes
    assert not {"hush", "before", sha256(b"hush").hexdigest()} & set(code.changes.split())
    assert "hush" not in code.changes
    assert f"left out because it may hold secrets: {name}\n" in code.changes


def test_an_untracked_secret_is_not_named(tmp_path: Path, package: Path) -> None:
    (tmp_path / "repo" / "credentials.yaml").write_text("hush")
    (tmp_path / "repo" / ".env").write_text("hush")
    assert code_in(package).dirty is False


def test_a_long_diff_is_cut_and_its_digest_is_that_of_the_whole(
    tmp_path: Path, package: Path, git: Git
) -> None:
    last = tmp_path / "repo" / "z.py"
    last.touch()
    git("add", ".")
    git("commit", "-q", "-m", "second")
    (package / "__init__.py").write_text("".join(f"A{n} = {n}\n" for n in range(100_000)))
    last.write_text("x = 1\n")
    code = code_in(package)
    assert len(code.changes.encode()) < MAX_BYTES + 100
    last_line = code.changes.splitlines()[-1]
    assert last_line.startswith("# cut here: ")
    assert last_line.endswith(" bytes more")
    last.write_text("x = 2\n")
    other = code_in(package)
    assert other.changes == code.changes
    assert other.digest != code.digest


def test_binary_changes_count_by_their_content(tmp_path: Path, package: Path, git: Git) -> None:
    weights = tmp_path / "repo" / "w.bin"
    digests = set()
    for content in (b"\0a", b"\0b", b"\0c"):
        weights.write_bytes(content)
        git("add", "-N", ".")
        digests.add(code_in(package).digest)
    assert len(digests) == 3


def test_names_and_text_that_are_not_unicode(tmp_path: Path, package: Path, git: Git) -> None:
    path = os.fsencode(tmp_path / "repo") + b"/caf\xe9 \n x.py"
    Path(os.fsdecode(path)).write_bytes(b"\xff = 1\n")
    (package / "__init__.py").write_bytes(b"# \xff\n")
    code = save_changes(code_in(package), Storage(str(tmp_path / "home")))
    assert "caf\ufffd x.py sha256=" in " ".join(code.changes.split())
    json.dumps(assemble(code, {})).encode()


def nothing_known(code: Code) -> bool:
    return (code.commit, code.dirty, code.digest, code.changes) == ("", None, "", "")


def test_no_git(package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code = code_in(package)
    assert nothing_known(code)
    assert code.note == "git can't be run (No such file or directory)"
    assert len(code.sources) == 16


def test_no_repository(tmp_path: Path, package: Path, git: Git) -> None:
    shutil.rmtree(tmp_path / "repo" / ".git")
    code = code_in(package)
    assert nothing_known(code)
    assert code.note.startswith("not a git repository")


def test_a_wheel_installed_inside_another_repository(tmp_path: Path, package: Path) -> None:
    installed = tmp_path / "repo" / "ignored" / "site-packages" / "pack"
    shutil.copytree(package, installed)
    code = code_in(installed)
    assert nothing_known(code)
    assert code.note == f"{installed}: not tracked by git"
    assert code.sources == code_in(package).sources


def test_a_checkout_of_another_user(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    code = code_in(package)
    assert nothing_known(code)
    assert code.note.startswith("detected dubious ownership in repository at ")


def test_a_repository_without_a_commit(tmp_path: Path, git: Git) -> None:
    folder = tmp_path / "repo"
    folder.mkdir()
    git("init", "-q")
    (folder / "__init__.py").touch()
    git("add", ".")
    with pytest.raises(GitError, match="single revision"):
        read_checkout(folder)


def fake_git(folder: Path, script: str) -> None:
    folder.mkdir()
    (folder / "git").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "git").chmod(0o755)


def test_a_git_that_does_not_answer(
    package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_git(tmp_path / "bin", "exec sleep 1000000")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    code = read_code([package], seconds=0.2)
    assert nothing_known(code)
    assert code.note == "git took longer than 0.2 s"


def test_a_tree_too_big_to_compare(
    package: Path, git: Git, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git answers in time but for `git diff`."""
    commit, run = git("rev-parse", "HEAD"), subprocess.run

    def slow_diff(command: list[str], **more: Any) -> Any:
        if "diff" in command:
            raise subprocess.TimeoutExpired(command, more["timeout"])
        return run(command, **more)

    monkeypatch.setattr("gaplab.trial.git.subprocess.run", slow_diff)
    code = read_code([package], seconds=600)
    assert (code.commit, code.dirty, code.digest) == (commit, None, "")
    assert code.note == "git took longer than 600 s"


def test_the_environment_of_a_hook_names_no_other_repository(
    tmp_path: Path, package: Path, git: Git, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = git("rev-parse", "HEAD")
    (tmp_path / "other").mkdir()
    git("init", "-q", at=tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_LITERAL_PATHSPECS", "1")
    assert code_in(package).commit == commit


def test_a_locked_index(tmp_path: Path, package: Path) -> None:
    (tmp_path / "repo" / ".git" / "index.lock").touch()
    os.utime(
        tmp_path / "repo" / "README", (1, 1)
    )  # git would write into the index that the file is the same
    assert code_in(package).dirty is False


def test_the_digest_of_modules(tmp_path: Path) -> None:
    def digest(number: int, files: dict[str, str]) -> str:
        root = tmp_path / str(number) / "pack"
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content)
        return sources_digest((root,))

    first = digest(0, {"a.py": "1", "b/c.py": "2"})
    assert digest(1, {"b/c.py": "2", "a.py": "1", "a.txt": "3"}) == first
    others = [{"a.py": "1"}, {"a.py": "1", "b/c.py": "3"}, {"a.py": "1", "b.py": "2"}]
    digests = [digest(n, files) for n, files in enumerate(others, start=2)]
    assert len({first, *digests}) == 4


def test_a_broken_link_of_an_editor_is_ignored(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name / "pack").mkdir(parents=True)
        (tmp_path / name / "pack" / "a.py").touch()
    (tmp_path / "y" / "pack" / ".#a.py").symlink_to("nobody@nowhere")
    assert sources_digest((tmp_path / "x/pack",)) == sources_digest((tmp_path / "y/pack",))


def test_equal_changes_are_stored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(tmp_path))
    code = Code("s", commit="c", dirty=True, digest="0123", changes="é\n")
    kept = save_changes(code, storage)
    assert kept.uri == "code/0123.diff"
    assert (tmp_path / "code" / "0123.diff").read_text() == "é\n"
    monkeypatch.setattr(Storage, "save_text", None)
    assert save_changes(code, storage) == kept
    assert save_changes(Code("s", commit="c", dirty=False), storage).uri == ""


# The half of the worker


def experiment(**data: Any) -> Any:
    from gaplab.spec.models import Experiment

    return Experiment.model_validate(
        {
            "data": data or {"name": "shapes"},
            "detector": {"name": "fcos"},
            "assignment": {"name": "poto"},
            "seed": 7,
        }
    )


def test_the_worker_half_describes_this_process() -> None:
    import numpy

    import detectors

    found = worker_provenance(experiment(), torch.device("cpu"), 3)
    assert found["packages"]["torch"] == torch.__version__
    assert found["packages"]["numpy"] == numpy.__version__
    assert found["results_version"] == detectors.RESULTS_VERSION
    assert found["torch"]["threads"] == torch.get_num_threads()
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["cpu"]
    assert (found["seed"], found["gpu"]) == (7, None)
    assert found["data"] == experiment().data.fingerprint()


@pytest.mark.parametrize("assignment", ["poto", "dual"])
def test_the_size_is_that_of_the_detector_at_inference(assignment: str) -> None:
    options = experiment().model_copy(update={"assignment": ASSIGNERS[assignment]()})
    found = worker_provenance(options, torch.device("cpu"), 3)["detector"]
    detector = options.detector.build(3, ("o2o",))
    assert found["parameters"] == sum(each.numel() for each in detector.parameters())


def test_packages_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "PACKAGES", ("torch", "no-such-distribution"))
    worker._versions.cache_clear()
    try:
        packages = worker_provenance(experiment(), torch.device("cpu"), 3)["packages"]
    finally:
        worker._versions.cache_clear()
    assert packages == {"torch": torch.__version__, "no-such-distribution": None}


@pytest.mark.parametrize(
    ("line", "driver"),
    [
        ("NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024", "550.54.15"),
        ("NVIDIA UNIX Open Kernel Module for x86_64  580.65  Release Build", "580.65"),
        (None, None),
    ],
)
def test_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str | None, driver: str | None
) -> None:
    class Facts:
        name, total_memory = "NVIDIA H200", 3 * 2**30

    if line:
        (tmp_path / "v").write_text(f"NVRM version: {line}\nGCC version:  gcc 12\n")
    monkeypatch.setattr(worker, "_DRIVER", tmp_path / "v")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Facts)
    found = worker_provenance(experiment(), torch.device("cuda", 0), 3)["gpu"]
    assert (found["name"], found["memory_mib"], found["driver"]) == ("NVIDIA H200", 3072, driver)


def test_data_that_is_loaded_is_not_parsed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    from detectors.data import coco_index

    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "1.png")
    document = {
        "images": [{"id": 1, "file_name": "1.png", "width": 40, "height": 30}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").write_text(json.dumps(document))
    loaded = experiment(name="coco", root=str(tmp_path))
    for split in ("train", "val"):
        loaded.data.load(split)
    monkeypatch.setattr(coco_index, "Document", None)  # it parses
    first = worker_provenance(loaded, torch.device("cpu"), 3)["data"]
    monkeypatch.setattr(Path, "read_bytes", None)
    assert worker_provenance(loaded, torch.device("cpu"), 3)["data"] == first
    assert len(first) == 64


def test_provenance_is_plain_json_in_a_stable_order(package: Path) -> None:
    (package / "__init__.py").write_text("A = 2\n")
    whole = assemble(code_in(package), worker_provenance(experiment(), torch.device("cpu"), 3))
    assert json.loads(json.dumps(whole)) == whole
    assert list(whole) == [
        *("code", "sources", "results_version", "python", "packages", "machine", "gpu", "torch"),
        *("seed", "data", "detector"),
    ]
    assert list(whole["code"]) == [
        *("commit", "dirty", "digest", "uri", "left_out", "note", "sources")
    ]
    assert "A = 2" not in json.dumps(whole)
    started = Started("t", Machine("n", "cpu", 1, 0.0), 0, whole)
    assert from_text(to_text(started)) == started


def test_a_worker_that_died_before_it_reported() -> None:
    assert list(assemble(Code("s"), {})) == ["code"]
