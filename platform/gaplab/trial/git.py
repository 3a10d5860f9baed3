"""Ask git about the code in a folder: its commit and the changes since then."""

import hashlib
import os
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

SECONDS = 5.0
"""Time limit for all calls of git together."""
MAX_UNTRACKED = 1000
SOURCES = ("*.py", "*.yaml", "*.yml")
"""Untracked files that count as code."""
SECRETS = (
    *(".env", ".env.*", "*.env", "*.token", "*.pem", "*.key", "*.p12", "*.pfx"),
    *(".netrc", ".pgpass", "credentials", "credentials.*", "id_rsa", "id_ed25519"),
)
"""Names of files whose content and digest are never stored."""

_OF_ANOTHER_REPOSITORY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR")
_DIFF = (
    *("diff", "HEAD", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames"),
    *("--full-index", "--src-prefix=a/", "--dst-prefix=b/"),
)


class GitError(Exception):
    """Git has no answer; the message says why."""


@dataclass(frozen=True)
class Checkout:
    """A commit and the changes on top of it.

    Attributes:
        commit: full SHA-1.
        known: whether the changes are known.
        patch: changes of tracked files for `git apply`, with only the ids of binary contents.
        untracked: pairs of the name of a code file and its SHA-256 in hex, empty if unreadable.
        left_out: changed files that may hold secrets; no other attribute mentions them.
        note: why changes are unknown, or that there are more untracked files.
    """

    commit: str
    known: bool = True
    patch: bytes = b""
    untracked: tuple[tuple[str, str], ...] = ()
    left_out: tuple[str, ...] = ()
    note: str = ""

    @property
    def dirty(self) -> bool | None:
        """Whether the code differs from the commit; None if that is unknown."""
        return bool(self.patch or self.untracked or self.left_out) if self.known else None


def read_checkout(folder: Path, seconds: float = SECONDS) -> Checkout:
    """Return the checkout that tracks the Python package in `folder`.

    At most the index of git is refreshed, as by `git diff`; a locked or read-only one isn't.

    Args:
        folder: the package.
        seconds: time limit for all calls of git together.

    Raises:
        GitError: if the commit can't be known: no git, no repository, a repository of another user,
            a package that is not tracked, no commit yet, or no answer within `seconds`.
    """
    git = _Git(folder, seconds)
    if not git("ls-files", "--", "__init__.py"):
        raise GitError(f"{folder}: not tracked by git")
    git.folder = Path(os.fsdecode(git("rev-parse", "--show-toplevel").rstrip(b"\n")))
    commit = git("rev-parse", "--verify", "HEAD").decode().strip()
    try:
        return _changes(git, commit)
    except GitError as error:
        return Checkout(commit, known=False, note=str(error))


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hex; empty if it can't be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


class _Git:
    """Runs git commands within a common time limit."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        self._seconds, self._until = seconds, time.monotonic() + seconds
        self._env = {k: v for k, v in os.environ.items() if k not in _OF_ANOTHER_REPOSITORY}
        self._env |= {"LC_ALL": "C", "GIT_LITERAL_PATHSPECS": "0"}

    def __call__(self, *words: str) -> bytes:
        command = ["git", "-c", "core.fsmonitor=false", *words]
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=self._env,
                timeout=self.left(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
            )
        except subprocess.TimeoutExpired as error:
            raise self._late() from error
        except subprocess.CalledProcessError as error:
            raise GitError(_first_line(error.stderr)) from error
        except OSError as error:
            raise GitError(f"git can't be run ({error.strerror})") from error
        return done.stdout

    def left(self) -> float:
        """Return the seconds that are left. Raises GitError if there are none."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise self._late()
        return left

    def _late(self) -> GitError:
        return GitError(f"git took longer than {self._seconds:g} s")


def _changes(git: _Git, commit: str) -> Checkout:
    changed = _names(git("diff", "HEAD", "--name-only", "--no-renames", "-z"))
    patch = git(*_DIFF, "--", ".", *(f":(top,exclude,icase,glob)**/{each}" for each in SECRETS))
    new = _names(git("ls-files", "--others", "--exclude-standard", "-z"))
    sources = [name for name in new if _is(name, SOURCES) and not _is(name, SECRETS)]
    more = len(sources) - MAX_UNTRACKED
    return Checkout(
        commit,
        patch=patch,
        untracked=tuple(_digests(git, sources[:MAX_UNTRACKED])),
        left_out=tuple(_shown(name) for name in changed if _is(name, SECRETS)),
        note=f"{more} more untracked files" if more > 0 else "",
    )


def _digests(git: _Git, names: Iterable[str]) -> Iterable[tuple[str, str]]:
    for name in names:
        git.left()
        yield _shown(name), content_digest(git.folder / name)


def _is(name: str, patterns: Sequence[str]) -> bool:
    last = name.rpartition("/")[2].lower()
    return any(fnmatch(last, pattern) for pattern in patterns)


def _names(separated: bytes) -> list[str]:
    return sorted(os.fsdecode(name) for name in separated.split(b"\0") if name)


def _shown(name: str) -> str:
    """Return the name of a file as valid Unicode, whatever bytes it has."""
    return os.fsencode(name).decode(errors="replace")


def _first_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines() or ["git failed without a message"]
    return lines[0].removeprefix("fatal: ").removeprefix("error: ")
